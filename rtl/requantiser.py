"""From 32-bit sums to 8-bit activations, as TFLite's int8 specification says."""

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import Configuration
from .mac_array import sums_layout
from .memory import block_memory

__all__ = ["ParameterPort", "Requantiser", "results_layout"]

BIAS, MULTIPLIER, SHIFT = range(3)
"""The three 32-bit words of an output channel's parameters, in order."""


class ParameterPort(wiring.Signature):
    """Write port of the parameters: word `kind` of `entry` becomes `data`.

    Entries 0..R-1 and R..2R-1 are the lanes of alternate lane groups, entry 2R that of the weight
    tile.
    """

    def __init__(self, config):
        super().__init__(
            {
                "write": Out(1),
                "entry": Out(range(2 * config.lanes + 1)),
                "kind": Out(2),
                "data": Out(32),
            }
        )


def results_layout(config):
    """One activation memory word of consecutive lanes' results.

    `last` marks the last word of a pixel (or, of the tile, of one weight for each lane).
    """
    return data.StructLayout(
        {
            "values": data.ArrayLayout(8, config.activation_word),
            "last": 1,
            "group_last": 1,
            "final": 1,
        }
    )


class Requantiser(wiring.Component):
    """Bias, per-channel multiplier and shift, zero point, clamp.

    With x = sum + bias (32 bits), m a multiplier of 31 bits, e the shift (0..31):

        single rounding    y = (x*m + 2**(30 + e)) >> (31 + e)
        double rounding    a = (x*m + 2**30) >> 31;  y = a / 2**e to the nearest, halves away
                           from zero

    and the result is `y + zero_point` limited to `minimum`..`maximum`. (TFLite: the reference
    kernels of convolution and of fully connected layers; `MultiplyByQuantizedMultiplier`.)

    Both are computed as `u = x*m >> 31`, u plus -1, 0 or 1, and a shift with the last bit shifted
    out added. In the tile's mode entry 2R serves all lanes, the zero point is 0 and the limits are
    those of clamp8.

    Latency: 8 cycles from the last sum of a word to the word. Throughput: P sums a cycle.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    i : In(stream of sums_layout)
    o : Out(stream of results_layout)
    parameters : In(ParameterPort)
    clear : In(1)
        Begin a layer: the next lane group uses the first half of the parameters.
    group_done : Out(1)
        The lane group's parameters were read for the last time.
    tile : In(1)
        Tile mode.
    double_rounding : In(1)
    zero_point, minimum, maximum : In(signed(8))
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(sums_layout(config))),
                "o": Out(stream.Signature(results_layout(config))),
                "parameters": In(ParameterPort(config)),
                "clear": In(1),
                "group_done": Out(1),
                "tile": In(1),
                "double_rounding": In(1),
                "zero_point": In(signed(8)),
                "minimum": In(signed(8)),
                "maximum": In(signed(8)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        outputs = config.requantiser_outputs
        rows = config.lanes // outputs
        advance = Signal()
        stages = 6
        valid = Signal(stages)
        marks = [Signal(3, name=f"marks{stage}") for stage in range(stages)]
        accept = Signal()
        row = Signal(range(rows))
        half = Signal()
        m.d.comb += [
            self.i.ready.eq(advance),
            accept.eq(self.i.valid & advance),
            self.group_done.eq(
                accept & self.i.payload.last & self.i.payload.group_last & ~self.tile
            ),
        ]
        with m.If(accept):
            m.d.sync += row.eq(row + 1)
            with m.If(self.i.payload.last):
                m.d.sync += row.eq(0)
        with m.If(self.clear):
            m.d.sync += half.eq(0)
        with m.Elif(self.group_done):
            m.d.sync += half.eq(~half)
        with m.If(advance):
            m.d.sync += valid.eq(Cat(self.i.valid, valid))
            m.d.sync += marks[0].eq(
                Cat(self.i.payload.last, self.i.payload.group_last, self.i.payload.final)
            )
            m.d.sync += Cat(marks[1:]).eq(Cat(marks[:-1]))

        address = Signal(range(2 * rows + 1))
        log_rows = ceil_log2(rows)
        if rows != 1 << log_rows:
            raise ValueError(f"lanes / requantiser_outputs must be a power of two, not {rows}")
        m.d.comb += address.eq(Mux(self.tile, 2 * rows, Cat(row[:log_rows], half)))
        results = [
            self._requantise(m, n, advance, address, self.i.payload.values[n])
            for n in range(outputs)
        ]

        # Results gather in a word.
        pieces = config.activation_word // outputs
        count = Signal(range(pieces))
        gathered = Signal(8 * config.activation_word)
        full = Signal()
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)
        with m.If(advance):
            m.d.sync += full.eq(0)
            with m.If(valid[-1]):
                m.d.sync += [
                    gathered.eq(Cat(gathered[8 * outputs :], results)),
                    count.eq(Mux(count == pieces - 1, 0, count + 1)),
                    full.eq(count == pieces - 1),
                    Cat(
                        self.o.payload.last, self.o.payload.group_last, self.o.payload.final
                    ).eq(marks[-1]),
                ]
        m.d.comb += [self.o.valid.eq(full), self.o.payload.values.eq(gathered)]
        return m

    def _requantise(self, m, n, advance, address, value):
        """One of the P pipelines; returns its result byte, valid after six stages."""
        config = self.config
        outputs = config.requantiser_outputs

        # Stage 0: read the parameters.
        read = []
        for kind, bits in ((BIAS, 32), (MULTIPLIER, 31), (SHIFT, 5)):
            memory = block_memory(bits, 2 * config.lanes // outputs + 1)
            m.submodules[f"parameter{kind}_{n}"] = memory
            writer, reader = memory.write_port(), memory.read_port()
            port = self.parameters
            own = (port.entry % outputs == n) | (port.entry == 2 * config.lanes)
            m.d.comb += [
                writer.en.eq(port.write & (port.kind == kind) & own),
                writer.addr.eq(port.entry // outputs),
                writer.data.eq(port.data),
                reader.en.eq(advance),
                reader.addr.eq(address),
            ]
            read.append(reader.data)
        bias, multiplier, shift = read
        value_0 = Signal.like(value, name=f"sum{n}")

        # Stage 1: add the bias.
        x = Signal(signed(32), name=f"x{n}")
        factor = Signal(31, name=f"factor{n}")
        shift_1 = Signal(5, name=f"shift1_{n}")
        # Stage 2: products of halves.
        x_low, x_high = x[:16], x[16:].as_signed()
        factor_low, factor_high = factor[:16], factor[16:]
        low = Signal(unsigned(32), name=f"low{n}")
        middle_a = Signal(signed(33), name=f"middle_a{n}")
        middle_b = Signal(unsigned(31), name=f"middle_b{n}")
        high = Signal(signed(32), name=f"high{n}")
        shift_2 = Signal(5, name=f"shift2_{n}")
        # Stage 3: the product without its lowest 16 bits.
        product = Signal(signed(48), name=f"product{n}")
        shift_3 = Signal(5, name=f"shift3_{n}")
        # Stage 4: rounded (first time, or prepared for the only one).
        rounded = Signal(signed(34), name=f"rounded{n}")
        shift_4 = Signal(5, name=f"shift4_{n}")
        # Stage 5: shifted, with one bit below the point.
        shifted = Signal(signed(12), name=f"shifted{n}")

        double = self.double_rounding & ~self.tile
        up = Signal(name=f"up{n}")
        down = Signal(name=f"down{n}")
        no_shift = shift_3 == 0
        m.d.comb += [
            up.eq(product[14] & (double | no_shift)),
            down.eq(product[-1] & double & ~no_shift),
        ]
        moved = Signal(signed(35), name=f"moved{n}")
        m.d.comb += moved.eq(Cat(0, rounded).as_signed() >> shift_4)
        fits = moved[11:].all() | ~moved[11:].any()
        with m.If(advance):
            m.d.sync += [
                value_0.eq(value),
                x.eq(value_0 + bias.as_signed()),
                factor.eq(multiplier),
                shift_1.eq(shift),
                low.eq(x_low * factor_low),
                middle_a.eq(x_high * factor_low),
                middle_b.eq(x_low * factor_high),
                high.eq(x_high * factor_high),
                shift_2.eq(shift_1),
                product.eq(Cat(low[16:], high).as_signed() + (middle_a + middle_b)),
                shift_3.eq(shift_2),
                rounded.eq((product >> 15) + Cat(up ^ down, [down & ~up] * 33).as_signed()),
                shift_4.eq(shift_3),
                shifted.eq(
                    Mux(fits, moved[:12].as_signed(), Cat([~moved[-1]] * 11, moved[-1]).as_signed())
                ),
            ]
        # Stage 6: last rounding, zero point, limits.
        result = Signal(signed(12), name=f"result{n}")
        zero_point = Mux(self.tile, 0, self.zero_point)
        low_limit = Mux(self.tile, -127, self.minimum)
        high_limit = Mux(self.tile, 127, self.maximum)
        m.d.comb += result.eq((shifted >> 1) + shifted[0] + zero_point)
        limited = Mux(
            result > high_limit, high_limit, Mux(result < low_limit, low_limit, result)
        )
        return limited[:8]
