"""Fixed-point arithmetic of the datapath: products, rounding and saturation, each in one place.

yosys gathers chains of additions into carry-save trees, which on FPGAs with carry chains cost
about half as much again as the chains themselves (weight generator on iCE40: 171 against 130 LUTs
a lane). The intermediate sums here are marked `keep`, which stops that.
"""

from typing import NamedTuple

from amaranth import Cat, Mux, Signal, Value

from .delay import delayed

__all__ = ["count_down", "dot_product", "recoded", "round_shift", "saturate"]


def _kept(m, value, name):
    signal = Signal(value.shape(), name=name, attrs={"keep": 1})
    m.d.comb += signal.eq(value)
    return signal


def recoded(value):
    """A signed number of n bits in the form that `dot_product` takes, n bits as well.

    The number is `1 - d[0] + sum (1 - 2*d[j]) * 2**(j - 1)` over j = 1..n-1. Of the least number,
    which a coefficient never is, this makes its negative.
    """
    top = len(value) - 1
    flips = (value[:bit].any() for bit in range(1, top))
    return value ^ Cat(0, flips, ~value[:top].any())


def dot_product(m, wide, narrow, name, *, registered=False):
    """Sum of products of signed numbers of few bits, by distributed arithmetic.

    Of two products each digit of the narrow factors leaves plus or minus the sum or the difference
    of the wide factors, which all digits share: half the rows of two multipliers. No multiplier is
    inferred, as would be for `*` on ECP5.

    Parameters
    ----------
    wide : list of signed values
        Of one width, in the symmetric range.
    narrow : list of `recoded` values
        Of one width.
    registered : bool
        Behind the additions of wide factors there is a register: the sum comes a cycle later.

    Returns
    -------
    signed value
    """
    sums = []
    for at in range(0, len(wide), 2):
        u, d = wide[at : at + 2], narrow[at : at + 2]
        if len(u) == 2:
            both = _kept(m, u[0] + u[1], f"{name}_{at}_sum")
            differ = _kept(m, u[0] - u[1], f"{name}_{at}_difference")
            first = Mux(d[0][0], Mux(d[1][0], 0, u[1]), Mux(d[1][0], u[0], both))
        else:
            both = differ = u[0]
            first = Mux(d[0][0], 0, u[0])
        if registered:
            both, differ, first = delayed(
                m,
                1,
                **{f"{name}_{at}_both": both},
                **{f"{name}_{at}_differ": differ},
                **{f"{name}_{at}_first": first},
            )
            d = delayed(m, 1, **{f"{name}_{at}_digits{n}": digits for n, digits in enumerate(d)})
        largest = len(u) * ((1 << len(u[0]) - 1) - 1)
        rows = [_Row(first, 0, None, largest)]
        for digit in range(1, len(d[0])):
            minus = d[0][digit]
            value = Mux(minus ^ d[1][digit], differ, both) if len(u) == 2 else both
            value = (value.as_unsigned() ^ minus.replicate(len(value))).as_signed()
            rows.append(_Row(value, digit - 1, minus, largest))
        sums.append(_add_rows(m, rows, f"{name}_{at}"))
    while len(sums) > 1:
        sums = [
            _kept(m, sums[at] + sums[at + 1], f"{name}_{len(sums)}_{at}")
            if at + 1 < len(sums)
            else sums[at]
            for at in range(0, len(sums), 2)
        ]
    return sums[0]


class _Row(NamedTuple):
    """`value << weight`, to which `carry << weight` is still to be added; at most `largest`."""

    value: Value
    weight: int
    carry: Value | None
    largest: int


def _add_rows(m, rows, name):
    """Sum of rows of rising weight, of which the first has no carry.

    An addition begins where its higher row does, and takes that row's carry as its own.
    """
    level = 0
    while len(rows) > 1:
        pairs = []
        for at in range(0, len(rows) - 1, 2):
            low, high = rows[at : at + 2]
            step = high.weight - low.weight
            largest = low.largest + (high.largest << step)
            total = Cat(1, low.value[step:]).as_signed() + Cat(high.carry, high.value).as_signed()
            total = total[1 : largest.bit_length() + 2 - step].as_signed()
            total = _kept(m, total, f"{name}_{level}_{at}")
            value = Cat(low.value[:step], total).as_signed()
            pairs.append(_Row(value, low.weight, low.carry, largest))
        rows = pairs + rows[len(pairs) * 2 :]
        level += 1
    return rows[0].value


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
