"""The multipliers and accumulators: R lanes, each a dot product of C channels a cycle."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import Configuration
from .multiplier import LATENCY, ByteMultipliers

__all__ = ["MacArray", "operands_layout", "sums_layout"]


def operands_layout(config):
    """C activations for all lanes, R*C weights, and where in the work they stand.

    `last` ends the sum of an output pixel; `group_last` marks the last pixel of a lane group,
    `final` the last of a layer or, generating a tile, of the lane group.
    """
    return data.StructLayout(
        {
            "activations": data.ArrayLayout(signed(8), config.width),
            "weights": data.ArrayLayout(signed(8), config.stripes),
            "last": 1,
            "group_last": 1,
            "final": 1,
        }
    )


def sums_layout(config):
    """P accumulators of consecutive lanes; `last` marks the last lanes of a pixel."""
    return data.StructLayout(
        {
            "values": data.ArrayLayout(signed(config.accumulator_bits), config.requantiser_outputs),
            "last": 1,
            "group_last": 1,
            "final": 1,
        }
    )


class MacArray(wiring.Component):
    """Multiply-accumulate array, output stationary.

    Lane r adds `sum_k activations[k] * weights[r*C + k]` to its accumulator each step, up to the
    step marked `last`; signed 8-bit operands, accumulators of `accumulator_bits` that the compiler
    has proved not to overflow. Finished sums move to a second set of registers, from which they
    leave P lanes at a time while the next pixel is summed.

    Latency: 4 cycles (5 if C > 1) from a pixel's last step to its first sums. Throughput: one step
    a cycle as long as a pixel has at least R/P steps; a pixel every R/P cycles otherwise.

    Cost: R*C/2 `ByteMultipliers`, and two registers of `accumulator_bits` a lane.

    Parameters
    ----------
    config : Configuration
    technology : str
        Of the multipliers, see `ByteMultipliers`.

    Members
    -------
    i : In(stream of operands_layout)
    o : Out(stream of sums_layout)
    """

    def __init__(self, config: Configuration, technology="sim"):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        self.technology = technology
        super().__init__(
            {
                "i": In(stream.Signature(operands_layout(config))),
                "o": Out(stream.Signature(sums_layout(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes, width, outputs = config.lanes, config.width, config.requantiser_outputs
        i, o = self.i, self.o
        accumulator = signed(config.accumulator_bits)

        # All stages before the accumulators advance together, unless sums are waiting for room.
        stages = LATENCY + (1 if width > 1 else 0)
        valid = Signal(stages)
        marks = [Signal(3, name=f"marks{stage}") for stage in range(stages)]
        summed = Signal()  # the accumulators hold a finished pixel
        summed_marks = Signal(2)
        unload = Signal()
        advance = Signal()
        m.d.comb += [advance.eq(~summed | unload), i.ready.eq(advance)]
        with m.If(advance):
            m.d.sync += [
                valid.eq(Cat(i.valid, valid)),
                marks[0].eq(Cat(i.payload.last, i.payload.group_last, i.payload.final)),
                (Cat(marks[1:])).eq(Cat(marks[:-1])),
            ]

        products = []  # [stripe]
        for k in range(width):
            column = []
            for lane in range(0, lanes, 2):
                m.submodules[f"multiply{lane}_{k}"] = multiply = ByteMultipliers(self.technology)
                m.d.comb += [
                    multiply.enable.eq(advance),
                    multiply.common.eq(i.payload.activations[k]),
                    multiply.factors[0].eq(i.payload.weights[lane * width + k]),
                    multiply.factors[1].eq(i.payload.weights[(lane + 1) * width + k]),
                ]
                column += [multiply.products[0], multiply.products[1]]
            products.append(column)

        first = Signal(init=1)
        step = Signal()
        ends = Signal()
        m.d.comb += [step.eq(advance & valid[-1]), ends.eq(marks[-1][0])]
        with m.If(step):
            m.d.sync += [first.eq(ends), summed_marks.eq(marks[-1][1:])]
        with m.If(advance):
            m.d.sync += summed.eq(step & ends)

        accumulators = []
        for lane in range(lanes):
            dot = sum(products[k][lane] for k in range(width))
            if width > 1:
                registered = Signal(dot.shape(), name=f"dot{lane}")
                with m.If(advance):
                    m.d.sync += registered.eq(dot)
                dot = registered
            accumulated = Signal(accumulator, name=f"accumulator{lane}")
            with m.If(step):
                m.d.sync += accumulated.eq(Mux(first, dot, accumulated + dot))
            accumulators.append(accumulated)

        # Finished sums, shifted out P lanes at a time.
        waiting = Signal(range(lanes // outputs + 1))
        drained = [Signal(accumulator, name=f"drained{lane}") for lane in range(lanes)]
        taken = Signal()
        m.d.comb += [
            o.valid.eq(waiting != 0),
            taken.eq(o.valid & o.ready),
            unload.eq(summed & ((waiting == 0) | ((waiting == 1) & o.ready))),
            o.payload.last.eq(waiting == 1),
        ]
        m.d.comb += [o.payload.values[n].eq(drained[n]) for n in range(outputs)]
        with m.If(unload):
            m.d.sync += [
                waiting.eq(lanes // outputs),
                Cat(o.payload.group_last, o.payload.final).eq(summed_marks),
            ]
        with m.Elif(taken):
            m.d.sync += waiting.eq(waiting - 1)
        with m.If(unload | taken):
            for lane in range(lanes):
                onward = drained[lane + outputs] if lane + outputs < lanes else drained[lane]
                m.d.sync += drained[lane].eq(Mux(unload, accumulators[lane], onward))
        return m
