"""Which DSPs for the lanes, which for the requantiser? Both choices, placed on the UP5K.

    python -m boards.probes.up5k_requantiser [--seeds 3]

(a) what the accelerator does: four SB_MAC16 as eight 8 x 8-bit lanes, accumulators in logic, and
    four as the requantiser's 32 x 31-bit multiplier, an output a cycle;
(b) eight SB_MAC16 as 16 x 16-bit lanes that accumulate by themselves, and a multiplier in logic
    that takes 8 bits of the factor a cycle: an output every four cycles.

Each is the way from operands to bytes of `up5k`: MAC array, sums shifted out, requantiser. Fed from
a shift register and read through a parity, neither of which is counted.

Depthwise work, `uniform`, `look_up` and the table are in neither: (b) has none, and those of (a)
are left undriven, so that synthesis removes them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from amaranth import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect

from rtl.config import configuration
from rtl.mac_array import MacArray, operands_layout
from rtl.memory import block_memory
from rtl.push import Push
from rtl.record import ROUND_TWICE
from rtl.requantiser import BIAS, MULTIPLIER, SHIFT, ParameterPort, Requantiser, results_layout

from .harness import placed

CONFIG = configuration("up5k")
LANES = CONFIG.lanes
OPERANDS = operands_layout(CONFIG)
STEPS = 4
"""Cycles an output of (b): a byte of the factor each."""


class Chosen(wiring.Component):
    """(a): the accelerator's own blocks."""

    def __init__(self):
        super().__init__(_members() | {"i": In(Push(OPERANDS))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.mac_array = array = MacArray(CONFIG, "ice40")
        m.submodules.requantiser = requantiser = Requantiser(CONFIG, "ice40")
        connect(m, array.o, requantiser.i)
        connect(m, wiring.flipped(self.i), array.i)
        connect(m, requantiser.o, wiring.flipped(self.o))
        for name in CONTROLS:
            m.d.comb += getattr(requantiser, name).eq(getattr(self, name))
        m.d.comb += [
            getattr(requantiser.parameters, name).eq(getattr(self.parameters, name))
            for name in ("write", "entry", "kind", "data")
        ]
        return m


CONTROLS = ("clear", "tile", "rounding", "zero_point", "minimum", "maximum")


def _members():
    return {
        "o": Out(Push(results_layout(CONFIG))),
        "parameters": In(ParameterPort(CONFIG)),
        "clear": In(1),
        "tile": In(1),
        "rounding": In(2),
        "zero_point": In(signed(8)),
        "minimum": In(signed(8)),
        "maximum": In(signed(8)),
    }


class Alternative(wiring.Component):
    """(b)."""

    def __init__(self):
        super().__init__(_members() | {"i": In(stream.Signature(OPERANDS))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.mac_array = array = AccumulatingArray()
        m.submodules.requantiser = requantiser = SerialRequantiser()
        connect(m, wiring.flipped(self.i), array.i)
        connect(m, requantiser.o, wiring.flipped(self.o))
        m.d.comb += [
            requantiser.sum.eq(array.sum),
            requantiser.valid.eq(array.valid),
            array.taken.eq(requantiser.taken),
        ]
        for name in CONTROLS:
            m.d.comb += getattr(requantiser, name).eq(getattr(self, name))
        m.d.comb += [
            getattr(requantiser.parameters, name).eq(getattr(self.parameters, name))
            for name in ("write", "entry", "kind", "data")
        ]
        return m


def _extended(byte):
    return Cat(byte, byte[-1].replicate(8))


class AccumulatingArray(wiring.Component):
    """Eight lanes, each an SB_MAC16 that adds its 16 x 16-bit product to its 32-bit output.

    A pixel's first step cannot load: a cycle goes by in which the accumulators are cleared.
    """

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(OPERANDS)),
                "sum": Out(signed(32)),
                "valid": Out(1),
                "taken": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        i = self.i
        clear, step, moved, summed = Signal(), Signal(), Signal(), Signal()
        begun = Signal()
        operand = Signal(2)  # step, last: in the input registers
        unload = Signal()
        waiting = Signal(range(LANES + 1))
        m.d.comb += [
            unload.eq(summed & ((waiting == 0) | ((waiting == 1) & self.taken))),
            moved.eq(~summed | unload),
            i.ready.eq(moved & begun),
            step.eq(i.valid & i.ready),
            clear.eq(moved & ~begun & ~operand[0]),
            self.valid.eq(waiting != 0),
        ]
        with m.If(moved):
            m.d.sync += [
                operand.eq(Cat(step, step & i.payload.marks.last)),
                summed.eq(operand.all()),
            ]
            m.d.sync += begun.eq(Mux(begun, ~(step & i.payload.marks.last), clear))
        drained = [Signal(32, name=f"drained{lane}") for lane in range(LANES)]
        for lane in range(LANES):
            accumulator = Signal(32, name=f"accumulator{lane}")
            m.submodules[f"mac{lane}"] = Instance(
                "SB_MAC16",
                p_A_REG=1,
                p_B_REG=1,
                p_A_SIGNED=1,
                p_B_SIGNED=1,
                p_TOPOUTPUT_SELECT=1,
                p_BOTOUTPUT_SELECT=1,
                p_TOPADDSUB_LOWERINPUT=2,
                p_TOPADDSUB_CARRYSELECT=3,
                p_BOTADDSUB_LOWERINPUT=2,
                i_CLK=ClockSignal(),
                i_CE=moved,
                i_A=_extended(i.payload.activations[0]),
                i_B=_extended(i.payload.weights[lane]),
                i_C=Const(0, 16),
                i_D=Const(0, 16),
                i_OLOADTOP=clear,
                i_OLOADBOT=clear,
                i_OHOLDTOP=~(operand[0] | clear),
                i_OHOLDBOT=~(operand[0] | clear),
                o_O=accumulator,
            )
            onward = drained[lane + 1] if lane + 1 < LANES else drained[lane]
            with m.If(unload | self.taken):
                m.d.sync += drained[lane].eq(Mux(unload, accumulator, onward))
        with m.If(unload):
            m.d.sync += waiting.eq(LANES)
        with m.Elif(self.taken):
            m.d.sync += waiting.eq(waiting - 1)
        m.d.comb += self.sum.eq(drained[0])
        return m


class SerialRequantiser(wiring.Component):
    """The arithmetic of `rtl.requantiser`, its product in four steps of 32 x 8 bits in logic."""

    def __init__(self):
        super().__init__(
            _members() | {"sum": In(signed(32)), "valid": In(1), "taken": Out(1)},
        )

    def elaborate(self, platform):
        m = Module()
        row = Signal(range(LANES))
        half = Signal()
        step = Signal(range(STEPS))
        active = Signal()
        done = Signal()
        address = Signal(5)
        m.d.comb += [
            address.eq(Mux(self.tile, 2 * LANES, Cat(row, half))),
            self.taken.eq(self.valid & (~active | (step == STEPS - 1))),
        ]
        parameters = {}
        for kind, bits in ((BIAS, 32), (MULTIPLIER, 31), (SHIFT, 5)):
            m.submodules[f"parameter{kind}"] = memory = block_memory(bits, 2 * LANES + 1)
            writer, reader = memory.write_port(), memory.read_port()
            m.d.comb += [
                writer.en.eq(self.parameters.write & (self.parameters.kind == kind)),
                writer.addr.eq(self.parameters.entry),
                writer.data.eq(self.parameters.data),
                reader.addr.eq(address),
            ]
            parameters[kind] = reader.data

        # The product, without its lowest 16 bits: a byte of the factor a cycle, lowest first.
        x = Signal(signed(32))
        factor = Signal(32)
        total = Signal(signed(48))  # so far, its highest 40 bits and 8 on the way out
        shift, shift_0 = Signal(5), Signal(5)
        product = x * Cat(factor[:8], Const(0, 1)).as_signed()
        carried = Mux(step == 0, 0, total >> 16).as_signed()
        m.d.sync += [
            total.eq(Cat(total[8:16], carried + product)),
            factor.eq(factor >> 8),
            step.eq(step + 1),
            shift_0.eq(shift),
        ]
        with m.If(self.taken):
            m.d.sync += [
                x.eq(self.sum + parameters[BIAS].as_signed()),
                factor.eq(parameters[MULTIPLIER]),
                shift.eq(parameters[SHIFT]),
                step.eq(0),
                row.eq(row + 1),
                half.eq(half ^ (row == LANES - 1)),
            ]
        m.d.sync += [
            active.eq(self.taken | (active & (step != STEPS - 1))),
            done.eq(active & (step == STEPS - 1)),
        ]
        with m.If(self.clear):
            m.d.sync += half.eq(0)

        # Rounding as in rtl.requantiser's first version.
        no_shift = shift_0 == 0
        up = total[14] & ((self.rounding == ROUND_TWICE) | no_shift)
        down = total[-1] & (self.rounding == ROUND_TWICE) & ~no_shift
        rounded = Signal(signed(34))
        shift_1 = Signal(5)
        moved = Signal(signed(35))
        shifted = Signal(signed(12))
        valid = Signal(2)
        m.d.comb += moved.eq(Cat(0, rounded).as_signed() >> shift_1)
        fits = moved[11:].all() | ~moved[11:].any()
        m.d.sync += [
            rounded.eq((total >> 15) + Cat(up ^ down, (down & ~up).replicate(33)).as_signed()),
            shift_1.eq(shift_0),
            shifted.eq(
                Mux(fits, moved[:12].as_signed(), Cat((~moved[-1]).replicate(11), moved[-1]))
            ),
            valid.eq(Cat(done, valid)),
        ]
        result = Signal(signed(12))
        low, high = Mux(self.tile, -127, self.minimum), Mux(self.tile, 127, self.maximum)
        m.d.comb += result.eq((shifted >> 1) + shifted[0] + Mux(self.tile, 0, self.zero_point))
        byte = Mux(result > high, high, Mux(result < low, low, result))[:8]
        count = Signal(2)
        gathered = Signal(32)
        m.d.sync += self.o.valid.eq(valid[1] & count.all())
        with m.If(valid[1]):
            m.d.sync += [gathered.eq(Cat(gathered[8:], byte)), count.eq(count + 1)]
        m.d.comb += self.o.payload.values.eq(gathered)
        return m


def place(block: wiring.Component, directory: Path, seeds: int) -> dict[str, object]:
    """LCs and DSPs of the block, and the Fmax of each seed."""
    blocks, fmax = placed(block, "ice40", directory, seeds=seeds)
    counted = {name: blocks[name] for name in ("mac_array", "requantiser")}
    return {
        "lc": sum(kinds["lc"] for kinds in counted.values()),
        "fmax_mhz": fmax,
        "blocks": counted,
    }


def main() -> None:
    """Place both and write what they take."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("chosen", "alternative"))
    options = parser.parse_args()
    for block in (Chosen, Alternative):
        name = block.__name__.lower()
        if options.only in (None, name):
            result = place(block(), Path("build/probes") / name, options.seeds)
            sys.stdout.write(f"{name}: {json.dumps(result)}\n")


if __name__ == "__main__":
    main()
