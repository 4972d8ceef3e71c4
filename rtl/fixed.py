"""Fixed-point arithmetic of the datapath: products, rounding and saturation, each in one place.

yosys gathers chains of additions into carry-save trees, which on FPGAs with carry chains cost
about half as much again as the chains themselves (weight generator on iCE40: 171 against 130 LUTs
a lane). The intermediate sums here are marked `keep`, which stops that.
"""

from amaranth import Cat, Mux, Signal

__all__ = ["count_down", "narrow_product", "round_shift", "saturate", "total"]


def _kept(m, value, name):
    signal = Signal(value.shape(), name=name, attrs={"keep": 1})
    m.d.comb += signal.eq(value)
    return signal


def narrow_product(m, wide, narrow, name):
    """Product of two signed numbers of a few bits, as a tree of sums of shifted copies of `wide`.

    No multiplier is inferred, as would be for `*` on ECP5. The result is signed and has
    `len(wide) + len(narrow)` bits or one more.
    """
    rows = [(Mux(bit, wide, 0).as_signed(), index) for index, bit in enumerate(narrow)]
    negative = len(rows) - 1  # weight of the row to subtract, -1 once it is
    level = 0
    while len(rows) > 1:
        pairs = []
        for index in range(0, len(rows) - 1, 2):
            (low, low_at), (high, high_at) = rows[index : index + 2]
            step = high_at - low_at
            upper = low >> step
            upper = upper - high if high_at == negative else upper + high
            upper = _kept(m, upper, f"{name}_{level}_{index}")
            pairs.append((Cat(low[:step], upper).as_signed(), low_at))
        if len(rows) % 2:
            pairs.append(rows[-1])
        elif rows[-1][1] == negative:
            negative = -1
        rows = pairs
        level += 1
    return rows[0][0]


def total(m, terms, name):
    """Sum of signed numbers, one after the other."""
    result = terms[0]
    for index, term in enumerate(terms[1:]):
        result = _kept(m, result + term, f"{name}_{index}")
    return result


def round_shift(m, value, shift, largest, name):
    """`(value + (1 << shift >> 1)) >> shift`: to the nearest, halves upwards.

    `shift` is a signal in 0..largest. The result is signed and has room for the rounding.
    """
    if not largest:
        return value
    half = Cat((shift == amount for amount in range(1, largest + 1)), 0).as_signed()
    return _kept(m, value + half, name) >> shift[: largest.bit_length()]


def saturate(value):
    """A signed number limited to -127..127 (clamp8), in 8 bits."""
    if len(value) < 8:
        return Cat(value, [value[-1]] * (8 - len(value)))
    sign = value[-1]
    fits = (value[7:] == 0) | value[7:].all()
    lowest = sign & ~value[1:7].any()
    return Cat(Mux(fits, value[0] | lowest, 1), (Mux(fits, bit, ~sign) for bit in value[1:7]), sign)


def count_down(counter, on, limit):
    """`counter - 1` if `on`, else `limit`.

    -1 is written as `on` in every bit: then iCE40 needs no cells for the choice, which fits in
    those of the adder.
    """
    return Mux(on, counter + on.replicate(len(counter)), limit)[: len(counter)]
