"""Registers in a row, so that one thing meets another that takes longer."""

from amaranth import Signal, Value

__all__ = ["delayed"]


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
