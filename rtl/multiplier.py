"""Signed 8 x 8-bit multipliers of the MAC array."""

from amaranth import Cat, ClockSignal, Instance, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LATENCY", "ByteMultipliers"]

LATENCY = 2
"""Cycles from operands to products."""


class ByteMultipliers(wiring.Component):
    """Two signed 8 x 8-bit products with one operand in common.

    Both operands and products are registered; all registers hold while `enable` is low. On iCE40
    one SB_MAC16 in its dual 8 x 8-bit mode; elsewhere inferred.

    Parameters
    ----------
    technology : str
        "ice40" instantiates the primitive, anything else leaves the choice to synthesis.

    Members
    -------
    enable : In(1)
    common : In(signed(8))
    factors : In(8 bits x 2)
    products : Out(16 bits x 2)
        `common * factors[n]`, two enabled cycles later.
    """

    def __init__(self, technology):
        self.technology = technology
        super().__init__(
            {
                "enable": In(1),
                "common": In(signed(8)),
                "factors": In(data.ArrayLayout(signed(8), 2)),
                "products": Out(data.ArrayLayout(signed(16), 2)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if self.technology == "ice40":
            m.submodules.mac16 = Instance(
                "SB_MAC16",
                p_A_REG=1,
                p_B_REG=1,
                p_C_REG=0,
                p_D_REG=0,
                p_A_SIGNED=1,
                p_B_SIGNED=1,
                p_MODE_8x8=1,
                p_TOP_8x8_MULT_REG=1,
                p_BOT_8x8_MULT_REG=1,
                p_PIPELINE_16x16_MULT_REG1=0,
                p_PIPELINE_16x16_MULT_REG2=0,
                p_TOPOUTPUT_SELECT=2,
                p_BOTOUTPUT_SELECT=2,
                i_CLK=ClockSignal(),
                i_CE=self.enable,
                i_A=Cat(self.common, self.common),
                i_B=self.factors.as_value(),
                i_C=0,
                i_D=0,
                i_AHOLD=0,
                i_BHOLD=0,
                i_CHOLD=0,
                i_DHOLD=0,
                i_IRSTTOP=0,
                i_IRSTBOT=0,
                i_ORSTTOP=0,
                i_ORSTBOT=0,
                i_OLOADTOP=0,
                i_OLOADBOT=0,
                i_ADDSUBTOP=0,
                i_ADDSUBBOT=0,
                i_OHOLDTOP=0,
                i_OHOLDBOT=0,
                i_CI=0,
                i_ACCUMCI=0,
                i_SIGNEXTIN=0,
                o_O=self.products.as_value(),
            )
        else:
            common = Signal(signed(8))
            factors = Signal(data.ArrayLayout(signed(8), 2))
            with m.If(self.enable):
                m.d.sync += [common.eq(self.common), factors.eq(self.factors)]
                m.d.sync += [self.products[n].eq(common * factors[n]) for n in range(2)]
        return m
