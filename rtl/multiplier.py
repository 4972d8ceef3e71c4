"""Multipliers: 8 x 8 bits for the MAC array, 32 x 31 bits for the requantiser.

On iCE40 both are SB_MAC16 instances with registers at their inputs and outputs. Nothing else will
do: yosys infers them without registers, and nextpnr takes every DSP port for a registered one, so
that it does not see the paths through an inferred multiplier at all. On ECP5 both are MULT18X18D
with their registers, for which yosys has no use either.
"""

from amaranth import Cat, ClockSignal, Const, Instance, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .delay import delayed

__all__ = ["LATENCY", "ByteMultipliers", "WideMultiplier", "wide_latency"]

LATENCY = 2
"""Cycles from operands to products of `ByteMultipliers`."""


def wide_latency(slow):
    """Cycles from operands to product of a `WideMultiplier`."""
    return 3 + slow


_ADDER = {
    "p_TOPADDSUB_LOWERINPUT": 2,
    "p_TOPADDSUB_UPPERINPUT": 1,
    "p_TOPADDSUB_CARRYSELECT": 3,
    "p_BOTADDSUB_LOWERINPUT": 2,
    "p_BOTADDSUB_UPPERINPUT": 1,
    "p_BOTADDSUB_CARRYSELECT": 0,
}
"""Add C:D to the 16 x 16-bit product."""
_PASSED, _ADDED, _REGISTERED, _BYTES = 3, 0, 1, 2
"""What an output of SB_MAC16 is: the product, the sum, its register, the 8 x 8-bit product."""


def _mac16(a, b, addend, output, **parameters):
    """An SB_MAC16 with registers at A and B and everything else off unless given."""
    inputs = (
        *("AHOLD", "BHOLD", "CHOLD", "DHOLD", "IRSTTOP", "IRSTBOT", "ORSTTOP", "ORSTBOT"),
        *("OLOADTOP", "OLOADBOT", "ADDSUBTOP", "ADDSUBBOT", "OHOLDTOP", "OHOLDBOT"),
        *("CI", "ACCUMCI", "SIGNEXTIN"),
    )
    return Instance(
        "SB_MAC16",
        p_A_REG=1,
        p_B_REG=1,
        **parameters,
        i_CLK=ClockSignal(),
        i_CE=Const(1),
        i_A=a,
        i_B=b,
        i_C=addend[16:],
        i_D=addend[:16],
        **{f"i_{name}": Const(0) for name in inputs},
        o_O=output,
    )


def _mult18(a, b, output, **parameters):
    """An ECP5 MULT18X18D with a register at its output: signed operands of up to 18 bits."""
    unused = {f"i_C{n}": Const(0) for n in range(18)}
    unused |= {f"i_RST{n}": Const(0) for n in range(4)}
    unused |= {f"i_{name}{n}": Const(0) for name in ("CE", "CLK") for n in range(1, 4)}
    return Instance(
        "MULT18X18D",
        **parameters,
        p_REG_OUTPUT_CLK="CLK0",
        p_GSR="DISABLED",
        i_CLK0=ClockSignal(),
        i_CE0=Const(1),
        i_SIGNEDA=Const(1),
        i_SIGNEDB=Const(1),
        i_SOURCEA=Const(0),
        i_SOURCEB=Const(0),
        **unused,
        **{f"i_A{n}": bit for n, bit in enumerate(_extended(a))},
        **{f"i_B{n}": bit for n, bit in enumerate(_extended(b))},
        **{f"o_P{n}": bit for n, bit in enumerate(output)},
    )


def _extended(value):
    return Cat(value, value[-1].replicate(18 - len(value)))


class ByteMultipliers(wiring.Component):
    """Two signed 8 x 8-bit products.

    Both operands and products are registered. On iCE40 one SB_MAC16 in its dual 8 x 8-bit mode, on
    ECP5 two MULT18X18D; elsewhere inferred.

    Parameters
    ----------
    technology : str
        "ice40" and "ecp5" instantiate primitives, anything else leaves the choice to synthesis.

    Members
    -------
    activations, weights : In(8 bits x 2)
    products : Out(16 bits x 2)
        `activations[n] * weights[n]`, `LATENCY` cycles later.
    """

    def __init__(self, technology):
        self.technology = technology
        super().__init__(
            {
                "activations": In(data.ArrayLayout(signed(8), 2)),
                "weights": In(data.ArrayLayout(signed(8), 2)),
                "products": Out(data.ArrayLayout(signed(16), 2)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if self.technology == "ice40":
            m.submodules.mac16 = _mac16(
                self.activations.as_value(),
                self.weights.as_value(),
                Const(0, 32),
                self.products.as_value(),
                p_A_SIGNED=1,
                p_B_SIGNED=1,
                p_MODE_8x8=1,
                p_TOP_8x8_MULT_REG=1,
                p_BOT_8x8_MULT_REG=1,
                p_TOPOUTPUT_SELECT=_BYTES,
                p_BOTOUTPUT_SELECT=_BYTES,
            )
        elif self.technology == "ecp5":
            for n in range(2):
                product = Signal(36, name=f"product{n}")
                m.submodules[f"mult{n}"] = _mult18(
                    self.activations[n],
                    self.weights[n],
                    product,
                    p_REG_INPUTA_CLK="CLK0",
                    p_REG_INPUTB_CLK="CLK0",
                )
                m.d.comb += self.products[n].eq(product)
        else:
            for n in range(2):
                activation = Signal(signed(8), name=f"activation{n}", reset_less=True)
                weight = Signal(signed(8), name=f"weight{n}", reset_less=True)
                product = Signal(signed(16), name=f"product{n}", reset_less=True)
                m.d.sync += [activation.eq(self.activations[n]), weight.eq(self.weights[n])]
                m.d.sync += product.eq(activation * weight)
                m.d.comb += self.products[n].eq(product)
        return m


class WideMultiplier(wiring.Component):
    """Product of a signed and an unsigned number, without its lowest 16 bits.

    `a * b >> 16`, from four products of halves,

        a*b = (ah*bh << 32) + (ah*bl + al*bh << 16) + al*bl

    On iCE40 four SB_MAC16 that also add, and six LUTs; on ECP5 four MULT18X18D; elsewhere inferred.

    On iCE40 nextpnr does not see what lies between a port of an SB_MAC16 and its registers. By the
    tables of icestorm (8 ns a product, 4 an addition, 1 from a clock to an output, 1 a LUT), with 4
    for each wire, the paths through outputs without a register take

        a product, an addition                               8 + 4 + 4             = 16 ns
        two additions                                        1 + 4 + 4 + 4 + 4     = 17 ns
        the same, by way of the sum's sign (a LUT)           17 + 1 + 4            = 22 ns
        a product, whether its 16 lower bits are 0 (2 LUTs)  8 + 4 + 1 + 4 + 1     = 18 ns

    at most, which fits 33 MHz (30.3 ns).

    Parameters
    ----------
    technology : str
        As for `ByteMultipliers`.
    slow : bool
        A register parts the additions. Not on iCE40.

    Members
    -------
    a : In(signed(32))
    b : In(31)
    product : Out(signed(48))
        `wide_latency` cycles later.
    inexact : Out(1)
        With it: the lowest 16 bits were not all 0.
    """

    def __init__(self, technology, slow=False):
        if technology == "ice40" and slow:
            raise ValueError("slow must be False where technology is 'ice40'")
        self.technology = technology
        self.slow = slow
        super().__init__(
            {
                "a": In(signed(32)),
                "b": In(31),
                "product": Out(signed(48)),
                "inexact": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if self.technology == "ice40":
            low = self._mac16s(m)
            (inexact,) = delayed(m, 2, inexact=low[:16].any())
            m.d.comb += self.inexact.eq(inexact)
            return m
        a, b = (Signal.like(port, reset_less=True) for port in (self.a, self.b))
        product = Signal.like(self.product, reset_less=True)
        m.d.sync += [a.eq(self.a), b.eq(self.b)]
        low_a, high_a = Cat(a[:16], 0).as_signed(), a[16:].as_signed()
        low_b, high_b = (Cat(half, 0).as_signed() for half in (b[:16], b[16:]))
        low = self._multiply(m, "low", low_a, low_b)
        middle_a = self._multiply(m, "middle_a", high_a, low_b)
        middle_b = self._multiply(m, "middle_b", low_a, high_b)
        high = self._multiply(m, "high", high_a, high_b)
        outer = Cat(low[16:32], high[:32]).as_signed()
        middle = middle_a[:33].as_signed() + middle_b[:31]
        outer, middle = delayed(m, int(self.slow), outer=outer, middle=middle)
        m.d.sync += product.eq(outer + middle)
        (inexact,) = delayed(m, 1 + self.slow, inexact=low[:16].any())
        m.d.comb += [self.product.eq(product), self.inexact.eq(inexact)]
        return m

    def _multiply(self, m, name, a, b):
        """Product of two signed halves, a cycle later."""
        if self.technology == "ecp5":
            product = Signal(36, name=name)
            m.submodules[name] = _mult18(a, b, product)
        else:
            product = Signal(signed(len(a) + len(b)), name=name, reset_less=True)
            m.d.sync += product.eq(a * b)
        return product

    def _mac16s(self, m):
        """Sum from the lowest product up: each adds to its own the upper bits of the sum so far.

        The lowest product, a cycle after the operands.
        """
        low, first, second = Signal(32), Signal(32), Signal(32)
        halves = [(self.a[:16], 0), (self.a[16:], 1)], [self.b[:16], Cat(self.b[16:], 0)]

        def multiply(a, b, addend, output, **parameters):
            operand, is_signed = halves[0][a]
            return _mac16(
                operand,
                halves[1][b],
                addend,
                output,
                p_A_SIGNED=is_signed,
                p_B_SIGNED=0,
                **_ADDER,
                **parameters,
            )

        def outputs(top, bottom):
            return {"p_TOPOUTPUT_SELECT": top, "p_BOTOUTPUT_SELECT": bottom}

        m.submodules.low = multiply(0, 0, Const(0, 32), low, **outputs(_PASSED, _PASSED))
        # ah*bl + (al*bl >> 16) fits 32 bits, signed.
        m.submodules.first = multiply(
            1, 0, Cat(low[16:], Const(0, 16)), first, **outputs(_REGISTERED, _REGISTERED)
        )
        # With al*bh it takes one bit more: the sum of two of 32 bits, of which the second is not
        # negative, is negative if the first is and there is no carry out.
        m.submodules.second = multiply(
            0,
            1,
            first,
            second,
            p_PIPELINE_16x16_MULT_REG2=1,
            **outputs(_ADDED, _REGISTERED),
        )
        negative = first[31] & second[31]
        m.submodules.high = multiply(
            1,
            1,
            Cat(second[16:], negative.replicate(16)),
            self.product[16:],
            p_PIPELINE_16x16_MULT_REG2=1,
            **outputs(_REGISTERED, _REGISTERED),
        )
        m.d.comb += self.product[:16].eq(second[:16])
        return low
