"""Where activations meet weights: the one place at which the datapath waits."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .activation_buffer import Operands, values_delay
from .coefficient_decoder import vector_delay
from .config import Configuration
from .delay import copies, delayed
from .mac_array import operands_layout
from .push import Push
from .weight_generator import weight_delay

__all__ = ["Issue", "sources_are_silent"]


def sources_are_silent(config):
    """Whether decoder and tile give 0 where they are not the source of weights."""
    return not config.slow_memory


class Issue(wiring.Component):
    """Issues the steps of the MAC array.

    A step is issued when its activations are at hand, its weights can be had, and the sums it may
    end will find room: steps marked `last` are issued R/P cycles apart. From then on nothing waits.
    The source of the weights, told of the issue, delivers them a fixed number of cycles later; the
    activations are read so that they meet them, and array and requantiser behind take what comes.
    So no signal that says "wait" has to reach the registers of the datapath.

    Sources of weights:

        decoder     stored W, and V while a tile is generated; its vector taken is the issue
        generator   the intra level alone; weights issued are the issue
        tile        read whenever there are activations

    Throughput: one step a cycle.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    activations : In(Operands)
    from_generator, from_tile : In(1)
        Source of the weights; by default the decoder. They hold from two cycles before the first
        weights to the last.
    permit : Out(1)
        A step may be issued.
    taken : In(1)
        The decoder took a vector for the array.
    issued : In(1)
        The generator issued weights.
    tile_next, tile_last : Out(1)
        To the tile: read a word; it is the pixel's last.
    coefficients, generated, tile : In(8 bits x R*C)
        Weights, `vector_delay`, `weight_delay` or `vector_delay` cycles behind their issue. With
        `sources_are_silent`, coefficients are 0 where weights come from the tile; where not, the
        tile's are.
    o : Out(push of operands_layout)
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        weights = data.ArrayLayout(8, config.stripes)
        super().__init__(
            {
                "activations": In(Operands(config)),
                "from_generator": In(1),
                "from_tile": In(1),
                "permit": Out(1),
                "taken": In(1),
                "issued": In(1),
                "tile_next": Out(1),
                "tile_last": Out(1),
                "coefficients": In(weights),
                "generated": In(weights),
                "tile": In(weights),
                "o": Out(Push(operands_layout(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, o = self.config, self.o
        activations = self.activations
        step = activations.marks.payload
        spacing = config.lanes // config.requantiser_outputs

        go = Signal()
        left = Signal(range(spacing))  # cycles before a step may be the last of a pixel again
        full = Signal()
        m.d.comb += [
            self.permit.eq(activations.marks.valid & ~(step.last & full)),
            self.tile_next.eq(self.permit & self.from_tile),
            self.tile_last.eq(step.last),
            go.eq(self.taken | self.issued | self.tile_next),
            activations.marks.ready.eq(go),
        ]
        with m.If(go & step.last):
            m.d.sync += [left.eq(spacing - 1), full.eq(spacing > 1)]
        with m.Elif(full):
            m.d.sync += [left.eq(left - 1), full.eq(left != 1)]

        # The values are read as long before the weights come as it takes.
        lead, late = values_delay(config), weight_delay(config) - vector_delay(config)
        taken, marks = delayed(m, vector_delay(config) - lead, taken=go, marks=step.as_value())
        taken_late, marks_late = delayed(m, late, taken_late=taken, marks_late=marks)
        m.d.comb += activations.take.eq(Mux(self.from_generator, taken_late, taken))
        valid, marks = delayed(
            m,
            lead,
            valid=activations.take,
            marks_issued=Mux(self.from_generator, marks_late, marks),
        )
        # Silence costs no logic, but a reset that reaches many registers is slow.
        # Where the way is long, each part of the weights has its own registers to choose by.
        slow = int(config.slow_memory)
        modes = copies(
            m,
            2 * slow,
            1 << 2 * slow,
            from_generator=self.from_generator,
            from_tile=self.from_tile,
        )
        bits = 8 * config.stripes // len(modes)
        weights = []
        for part, (from_generator, from_tile) in enumerate(modes):
            coefficients, tile, generated = (
                source.as_value().word_select(part, bits)
                for source in (self.coefficients, self.tile, self.generated)
            )
            if sources_are_silent(config):
                stored = coefficients | tile
            else:
                stored = Mux(from_tile, tile, coefficients)
            weights.append(Mux(from_generator, generated, stored))
        m.d.comb += [
            o.valid.eq(valid),
            o.payload.weights.eq(Cat(weights)),
            o.payload.activations.eq(activations.values),
            o.payload.marks.as_value().eq(marks),
        ]
        return m
