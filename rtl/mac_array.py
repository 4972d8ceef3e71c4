"""The multipliers and accumulators: R lanes, each a dot product of C channels a cycle."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import Configuration
from .delay import copies, delayed
from .multiplier import LATENCY, ByteMultipliers
from .push import Push
from .record import SUM_SHIFT

__all__ = ["MacArray", "marks_layout", "operands_layout", "sums_layout"]


def marks_layout():
    """Where in the work a step stands.

    `last` ends the sum of an output pixel; `group_last` marks the last pixel of a lane group,
    `final` the last of a layer or, generating a tile, of the lane group. Before a step with `shift`
    the sum so far is multiplied by 2**SUM_SHIFT; before one with `rectify` it is set to 0 if it is
    negative.
    """
    return data.StructLayout({"shift": 1, "rectify": 1, "last": 1, "group_last": 1, "final": 1})


def operands_layout(config):
    """A word of activations, R*C weights, and where in the work they stand.

    The first C activations are channels for all lanes; or, depthwise, they are channels for lanes
    of their own.
    """
    return data.StructLayout(
        {
            "activations": data.ArrayLayout(signed(8), config.activation_word),
            "weights": data.ArrayLayout(signed(8), config.stripes),
            "marks": marks_layout(),
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

    Depthwise, lane r multiplies activation `r % activation_word` by weight r*C: the others of its
    weights must be 0.

    Nothing here ever waits: whoever sends steps keeps those marked `last` R/P cycles apart.

    Latency: 4 + log2(C) cycles from a pixel's last step to its first sums. Throughput: one step a
    cycle.

    Cost: R*C/2 `ByteMultipliers`, and two registers of `accumulator_bits` a lane.

    Parameters
    ----------
    config : Configuration
    technology : str
        Of the multipliers, see `ByteMultipliers`.

    Members
    -------
    depthwise : In(1)
        As above; may change while there are no steps.
    i : In(push of operands_layout)
    o : Out(push of sums_layout)
    """

    def __init__(self, config: Configuration, technology="sim"):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        self.technology = technology
        super().__init__(
            {
                "depthwise": In(1),
                "i": In(Push(operands_layout(config))),
                "o": Out(Push(sums_layout(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes, width, outputs = config.lanes, config.width, config.requantiser_outputs
        i, o = self.i, self.o
        accumulator = signed(config.accumulator_bits)

        products = []  # [k][lane]
        for k in range(width):
            column = []
            for lane in range(0, lanes, 2):
                m.submodules[f"multiply{lane}_{k}"] = multiply = ByteMultipliers(self.technology)
                for n in range(2):
                    channel = i.payload.activations[k]
                    if k == 0:
                        own = i.payload.activations[(lane + n) % config.activation_word]
                        channel = Mux(self.depthwise, own, channel)
                    m.d.comb += [
                        multiply.activations[n].eq(channel),
                        multiply.weights[n].eq(i.payload.weights[(lane + n) * width + k]),
                    ]
                column += [multiply.products[0], multiply.products[1]]
            products.append(column)
        stages = LATENCY + ceil_log2(width)
        early, early_marks = delayed(
            m, stages - 2, early=i.valid, early_marks=i.payload.marks.as_value()
        )
        step, marks = delayed(m, 2, step=early, marks=early_marks)
        marks = data.View(marks_layout(), marks)

        first = Signal(init=1)
        summed = Signal()  # the accumulators hold a finished pixel
        summed_marks = Signal(2)
        m.d.sync += [
            summed.eq(step & marks.last),
            summed_marks.eq(Cat(marks.group_last, marks.final)),
        ]
        with m.If(step):
            m.d.sync += first.eq(marks.last)

        # What the accumulators see of these; where the way to them is long, a copy for some lanes.
        views = [(step, marks, first, summed)]
        if config.slow_memory:
            views = []
            begins = Signal(init=1)  # the next step that comes early is its pixel's first
            with m.If(early):
                m.d.sync += begins.eq(data.View(marks_layout(), early_marks).last)
            for part, (stepped, marked, begun) in enumerate(
                copies(m, 2, 4, step=early, marks=early_marks, begins=begins)
            ):
                marked = data.View(marks_layout(), marked)
                done = Signal(name=f"summed_{part}", reset_less=True)
                m.d.sync += done.eq(stepped & marked.last)
                views.append((stepped, marked, begun, done))
        accumulators = []
        for lane in range(lanes):
            step, marks, first, _ = views[lane * len(views) // lanes]
            # A tree of additions, each with a register.
            terms = [products[k][lane] for k in range(width)]
            while len(terms) > 1:
                pairs = [low + high for low, high in zip(terms[::2], terms[1::2], strict=True)]
                level = len(pairs)
                terms = []
                for n, pair in enumerate(pairs):
                    term = Signal(pair.shape(), name=f"dot{lane}_{level}_{n}", reset_less=True)
                    m.d.sync += term.eq(pair)
                    terms.append(term)
            (dot,) = terms
            accumulated = Signal(accumulator, name=f"accumulator{lane}", reset_less=True)
            # One choice a bit, in front of the adder.
            before = Signal(accumulator, name=f"before{lane}")
            afresh = Signal(name=f"afresh{lane}")
            m.d.comb += [
                afresh.eq(first | (marks.rectify & accumulated[-1])),
                before.eq(Mux(afresh, 0, Mux(marks.shift, accumulated << SUM_SHIFT, accumulated))),
            ]
            with m.If(step):
                m.d.sync += accumulated.eq(before + dot)
            accumulators.append(accumulated)

        # Finished sums, shifted out P lanes at a time.
        rows = lanes // outputs
        left = Signal(range(rows + 1))
        drained = [
            Signal(accumulator, name=f"drained{lane}", reset_less=True) for lane in range(lanes)
        ]
        with m.If(summed):
            m.d.sync += [
                left.eq(rows),
                o.valid.eq(1),
                o.payload.last.eq(rows == 1),
                Cat(o.payload.group_last, o.payload.final).eq(summed_marks),
            ]
        with m.Else():
            m.d.sync += [
                left.eq(left - o.valid),
                o.valid.eq(left > 1),
                o.payload.last.eq(left == 2),
            ]
        for lane in range(lanes):
            _, _, _, summed = views[lane * len(views) // lanes]
            onward = drained[lane + outputs] if lane + outputs < lanes else drained[lane]
            m.d.sync += drained[lane].eq(Mux(summed, accumulators[lane], onward))
        m.d.comb += [o.payload.values[n].eq(drained[n]) for n in range(outputs)]
        return m
