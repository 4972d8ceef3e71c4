"""The multipliers and accumulators: R lanes, each a dot product of C channels a cycle."""

from typing import NamedTuple

from amaranth import Cat, Module, Mux, Signal, Value, signed
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
    `final` the last of a walk: of the layer or, where a tile is generated for each lane group, of
    the tile and of the lane group. Before a step with `shift` the sum so far is multiplied by
    2**SUM_SHIFT; before one with `rectify` it is set to 0 if it is negative.
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


class _View(NamedTuple):
    """What accumulators see of the work: at each step, and when its sum is in them."""

    step: Value
    """Products are added in this cycle."""
    marks: data.View
    """Those of the step."""
    first: Value
    """The step is its pixel's first."""
    summed: Value
    """The accumulators hold a finished pixel."""


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
        lanes = self.config.lanes
        products = self._multiply(m)
        summed, summed_marks, parts = self._control(m)
        views = [parts[lane * len(parts) // lanes] for lane in range(lanes)]
        sums = [
            self._accumulate(m, lane, view, [column[lane] for column in products])
            for lane, view in enumerate(views)
        ]
        self._shift_out(m, summed, summed_marks, views, sums)
        return m

    def _multiply(self, m):
        """Products of the operands, `LATENCY` cycles later: [k][lane]."""
        config, operands = self.config, self.i.payload
        products = []
        for k in range(config.width):
            column = []
            for lane in range(0, config.lanes, 2):
                m.submodules[f"multiply{lane}_{k}"] = multiply = ByteMultipliers(self.technology)
                for n in range(2):
                    channel = operands.activations[k]
                    if k == 0:
                        own = operands.activations[(lane + n) % config.activation_word]
                        channel = Mux(self.depthwise, own, channel)
                    m.d.comb += [
                        multiply.activations[n].eq(channel),
                        multiply.weights[n].eq(operands.weights[(lane + n) * config.width + k]),
                    ]
                column += [multiply.products[0], multiply.products[1]]
            products.append(column)
        return products

    def _control(self, m):
        """Steps and their marks, delayed until their sums of products are there.

        Returns whether the accumulators hold a finished pixel, with its marks `group_last` and
        `final`, and a `_View` for each part of the lanes: one for all, or, where the way to them is
        long, four copies.
        """
        early, early_marks = delayed(
            m,
            LATENCY + ceil_log2(self.config.width) - 2,
            early=self.i.valid,
            early_marks=self.i.payload.marks.as_value(),
        )
        step, marks = delayed(m, 2, step=early, marks=early_marks)
        marks = data.View(marks_layout(), marks)
        first = Signal(init=1)
        summed = Signal()
        summed_marks = Signal(2)
        m.d.sync += [
            summed.eq(step & marks.last),
            summed_marks.eq(Cat(marks.group_last, marks.final)),
        ]
        with m.If(step):
            m.d.sync += first.eq(marks.last)
        if not self.config.slow_memory:
            return summed, summed_marks, [_View(step, marks, first, summed)]

        # Nothing looks at `first` here: synthesis removes it.
        begins = Signal(init=1)  # the next step that comes early is its pixel's first
        with m.If(early):
            m.d.sync += begins.eq(data.View(marks_layout(), early_marks).last)
        parts = []
        for part, (stepped, marked, begun) in enumerate(
            copies(m, 2, 4, step=early, marks=early_marks, begins=begins)
        ):
            marked = data.View(marks_layout(), marked)
            done = Signal(name=f"summed_{part}", reset_less=True)
            m.d.sync += done.eq(stepped & marked.last)
            parts.append(_View(stepped, marked, begun, done))
        return summed, summed_marks, parts

    def _accumulate(self, m, lane, view, terms):
        """The lane's accumulator."""
        # A tree of additions, each with a register.
        while len(terms) > 1:
            pairs = [low + high for low, high in zip(terms[::2], terms[1::2], strict=True)]
            level = len(pairs)
            terms = []
            for n, pair in enumerate(pairs):
                term = Signal(pair.shape(), name=f"dot{lane}_{level}_{n}", reset_less=True)
                m.d.sync += term.eq(pair)
                terms.append(term)
        (dot,) = terms
        shape = signed(self.config.accumulator_bits)
        accumulated = Signal(shape, name=f"accumulator{lane}", reset_less=True)
        # One choice a bit, in front of the adder.
        before = Signal(shape, name=f"before{lane}")
        afresh = Signal(name=f"afresh{lane}")
        m.d.comb += [
            afresh.eq(view.first | (view.marks.rectify & accumulated[-1])),
            before.eq(Mux(afresh, 0, Mux(view.marks.shift, accumulated << SUM_SHIFT, accumulated))),
        ]
        with m.If(view.step):
            m.d.sync += accumulated.eq(before + dot)
        return accumulated

    def _shift_out(self, m, summed, summed_marks, views, sums):
        """Finished sums to a second set of registers, and out of these P lanes at a time."""
        lanes, outputs, o = self.config.lanes, self.config.requantiser_outputs, self.o
        rows = lanes // outputs
        left = Signal(range(rows + 1))
        drained = [Signal.like(one, name=f"drained{lane}") for lane, one in enumerate(sums)]
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
            onward = drained[lane + outputs] if lane + outputs < lanes else drained[lane]
            m.d.sync += drained[lane].eq(Mux(views[lane].summed, sums[lane], onward))
        m.d.comb += [o.payload.values[n].eq(drained[n]) for n in range(outputs)]
