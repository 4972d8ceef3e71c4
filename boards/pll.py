"""The PLLs: the board's clock in, the clock and reset of the design out."""

from amaranth import ClockDomain, ClockSignal, Instance, Module, Signal
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import Out

__all__ = ["Ecp5Pll", "Ice40CorePll", "Ice40Pll", "ecp5_dividers", "ice40_dividers"]

MEGA = 1_000_000


def ice40_dividers(input_hz, output_hz):
    """DIVR, DIVF, DIVQ and FILTER_RANGE of an SB_PLL40 with simple feedback.

    `output_hz = input_hz * (DIVF + 1) / ((DIVR + 1) * 2**DIVQ)`, exactly; phase detector at 10 to
    133 MHz, oscillator at 533 to 1066 MHz (iCE40 sysCLOCK PLL Design and User Guide,
    FPGA-TN-02052).

    Raises
    ------
    ValueError
        If there are none.
    """
    for divr in range(16):
        reference = input_hz / (divr + 1)
        if not 10 * MEGA <= reference <= 133 * MEGA:
            continue
        for divq in range(1, 7):
            oscillator = output_hz << divq
            divf = round(oscillator / reference) - 1
            exact = (divf + 1) * input_hz == oscillator * (divr + 1)
            if 533 * MEGA <= oscillator <= 1066 * MEGA and 0 <= divf <= 127 and exact:
                filter_range = 1 + sum(reference >= limit * MEGA for limit in (17, 26, 44, 66, 101))
                return divr, divf, divq, filter_range
    raise ValueError(f"no PLL setting makes {output_hz!r} Hz of {input_hz!r} Hz")


def ecp5_dividers(input_hz, output_hz):
    """CLKI_DIV, CLKOP_DIV and CLKOS_DIV of an EHXPLLL that feeds CLKOP back undivided.

    `output_hz = input_hz * CLKOP_DIV / (CLKI_DIV * CLKOS_DIV)`, exactly; phase detector at 10 to
    400 MHz, oscillator at 400 to 800 MHz, as near to 600 as can be (ECP5 data sheet,
    FPGA-DS-02012).

    Raises
    ------
    ValueError
        If there are none.
    """
    found = []
    for clki in range(1, 129):
        if not 10 * MEGA * clki <= input_hz <= 400 * MEGA * clki:
            continue
        for clkos in range(1, 129):
            oscillator = output_hz * clkos
            clkop, rest = divmod(oscillator * clki, input_hz)
            if 400 * MEGA <= oscillator <= 800 * MEGA and 1 <= clkop <= 128 and not rest:
                found.append((clki, abs(oscillator - 600 * MEGA), clkop, clkos))
    if not found:
        raise ValueError(f"no PLL setting makes {output_hz!r} Hz of {input_hz!r} Hz")
    clki, _, clkop, clkos = min(found)
    return clki, clkop, clkos


class _Pll(wiring.Component):
    """Makes a clock of the board's default clock.

    Parameters
    ----------
    output_hz : int
        Frequency. Place and route derives from it what it must reach.

    Members
    -------
    clock : Out(1)
    locked : Out(1)
        The clock has its frequency. Asynchronous.
    """

    def __init__(self, output_hz):
        if not isinstance(output_hz, int) or output_hz <= 0:
            raise ValueError(f"output_hz must be a positive integer, not {output_hz!r}")
        self.output_hz = output_hz
        super().__init__({"clock": Out(1), "locked": Out(1)})

    def elaborate(self, platform):
        m = Module()
        pin = platform.request(platform.default_clk, dir="-")
        self._connect(m, int(platform.default_clk_frequency), pin)
        return m

    def drive_sync(self, m):
        """Clock the domain `sync` of module `m`, and reset it until the clock is good."""
        m.submodules.clock = self
        m.domains.sync = ClockDomain(async_reset=self.async_reset)
        m.d.comb += ClockSignal().eq(self.clock)
        m.submodules.reset = ResetSynchronizer(~self.locked)


class Ice40Pll(_Pll):
    """SB_PLL40_PAD. The clock must come in on the pin of the PLL.

    The reset is asynchronous (its release is not): the flip-flops' synchronous resets are gated by
    their enables, so a synchronous one would cost a LUT for every enable in the design.
    """

    async_reset = True

    def _connect(self, m, input_hz, pin):
        self._instance(m, input_hz, "SB_PLL40_PAD", i_PACKAGEPIN=pin.io)

    def _instance(self, m, input_hz, primitive, **source):
        divr, divf, divq, filter_range = ice40_dividers(input_hz, self.output_hz)
        m.submodules.pll = Instance(
            primitive,
            p_FEEDBACK_PATH="SIMPLE",
            p_DIVR=divr,
            p_DIVF=divf,
            p_DIVQ=divq,
            p_FILTER_RANGE=filter_range,
            **source,
            i_RESETB=1,
            i_BYPASS=0,
            o_PLLOUTGLOBAL=self.clock,
            o_LOCK=self.locked,
        )


class Ice40CorePll(Ice40Pll):
    """SB_PLL40_CORE. The clock may come in on any pin."""

    def _connect(self, m, input_hz, pin):
        m.submodules.buffer = buffer = io.Buffer("i", pin)
        self._instance(m, input_hz, "SB_PLL40_CORE", i_REFERENCECLK=buffer.i)


class Ecp5Pll(_Pll):
    """EHXPLLL."""

    async_reset = False

    def _connect(self, m, input_hz, pin):
        clki, clkop, clkos = ecp5_dividers(input_hz, self.output_hz)
        m.submodules.buffer = buffer = io.Buffer("i", pin)
        feedback = Signal()
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=f"{input_hz / MEGA:g}",
            a_FREQUENCY_PIN_CLKOP=f"{input_hz / clki / MEGA:g}",
            a_FREQUENCY_PIN_CLKOS=f"{self.output_hz / MEGA:g}",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=clki,
            p_CLKFB_DIV=1,
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=clkop,
            p_CLKOP_CPHASE=clkop - 1,
            p_CLKOP_FPHASE=0,
            p_CLKOS_ENABLE="ENABLED",
            p_CLKOS_DIV=clkos,
            p_CLKOS_CPHASE=clkos - 1,
            p_CLKOS_FPHASE=0,
            i_RST=0,
            i_STDBY=0,
            i_CLKI=buffer.i,
            i_CLKFB=feedback,
            i_PHASESEL0=0,
            i_PHASESEL1=0,
            i_PHASEDIR=1,
            i_PHASESTEP=1,
            i_PHASELOADREG=1,
            i_PLLWAKESYNC=0,
            i_ENCLKOP=0,
            i_ENCLKOS=0,
            o_CLKOP=feedback,
            o_CLKOS=self.clock,
            o_LOCK=self.locked,
        )
