"""Registers in a row, so that one thing meets another that takes longer."""

from amaranth import Signal, Value

__all__ = ["copies", "delayed"]


def delayed(m, cycles, **values):
    """Each of `values`, `cycles` later: signals named after them, in order.

    Single bits are reset, wider values are not: nobody looks at them without a bit that says so.
    """
    results = []
    for name, value in values.items():
        value = Value.cast(value)
        for cycle in range(1, cycles + 1):
            later = Signal(value.shape(), name=f"{name}_{cycle}", reset_less=len(value) > 1)
            m.d.sync += later.eq(value)
            value = later
        results.append(value)
    return results


def copies(m, cycles, count, **values):
    """What `delayed` gives, `count` times over: a list of it for each part of what looks at it.

    A register that reaches all of a wide datapath is slow. yosys makes one of registers that are
    equal, so copies differ in their initial values, of which there are 2**cycles; nothing may
    depend on these, nor on a reset.
    """
    if count > 1 << cycles:
        raise ValueError(f"count must be at most 2**cycles, not {count}")
    results = []
    for copy in range(count):
        row = []
        for name, value in values.items():
            value = Value.cast(value)
            for cycle in range(1, cycles + 1):
                later = Signal(
                    len(value),
                    name=f"{name}_{cycle}_{copy}",
                    init=-(copy >> cycle - 1 & 1) & (1 << len(value)) - 1,
                    reset_less=True,
                )
                m.d.sync += later.eq(value)
                value = later
            row.append(value)
        results.append(row)
    return results
