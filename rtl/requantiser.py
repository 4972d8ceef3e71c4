"""From 32-bit sums to 8-bit activations, as TFLite's int8 specification says."""

from types import SimpleNamespace

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import Configuration
from .delay import delayed
from .mac_array import sums_layout
from .memory import block_memory
from .multiplier import WideMultiplier, wide_latency
from .push import Push
from .record import PACKED_BIAS_BITS, ROUND_EVEN, ROUND_TWICE

__all__ = ["ParameterPort", "Requantiser", "TablePort", "results_layout"]

BIAS, MULTIPLIER, SHIFT = range(3)
"""The three 32-bit words of an output channel's parameters, in order."""

RESULT_BITS = 9
"""Bits of a quotient: what takes more is beyond the limits, whatever the zero point."""


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


class TablePort(wiring.Signature):
    """Write port of the table: `data` is the result that `entry`, an unsigned byte, becomes."""

    def __init__(self):
        super().__init__({"write": Out(1), "entry": Out(8), "data": Out(8)})


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

        ROUND_UP       y = (x*m + 2**(30 + e)) >> (31 + e)
        ROUND_EVEN     y = x*m / 2**(31 + e) to the nearest, halves to even
        ROUND_TWICE    a = (x*m + 2**30) >> 31;  y = a / 2**e to the nearest, halves away from zero

    and the result is `y + zero_point` limited to `minimum`..`maximum`. (TFLite: the reference
    kernels of convolution and of fully connected layers; `MultiplyByQuantizedMultiplier`. ONNX:
    QuantizeLinear.)

    All are u >> e with u = x*m >> 31, rounded up or not. The bits of x*m below decide: the first of
    them alone; halves to even, whether it is followed by 0 alone and u >> e is even; rounding
    twice, whether those down to bit 30 are all 0 (x*m negative) or all 1. In the tile's mode entry
    2R serves all lanes, it rounds up, the zero point is 0 and the limits are those of clamp8.

    With `uniform` the multiplier and the shift of entry 2R serve all lanes, but each has its own
    bias. With `look_up` the result is the table's entry for it, as an unsigned byte.

    Parameters and table must be written, and the modes set, before the first sum that needs them
    (where memory is slow, two cycles before); modes hold until the last result has left.

    Latency: 8 cycles (13 where memory is slow) from the last sum of a word to the word.
    Throughput: P sums a cycle.

    Cost: P wide multipliers; on iCE40, with P = 1, 6 EBR.

    Parameters
    ----------
    config : Configuration
    technology : str
        Of the multipliers, see `WideMultiplier`.

    Members
    -------
    i : In(push of sums_layout)
    o : Out(push of results_layout)
    parameters : In(ParameterPort)
    table : In(TablePort)
    clear : In(1)
        Begin a layer: the next lane group uses the first half of the parameters.
    group_done : Out(1)
        The lane group's parameters were read for the last time.
    tile : In(1)
        Tile mode.
    rounding : In(2)
        ROUND_UP, ROUND_TWICE or ROUND_EVEN of `rtl.record`.
    uniform, look_up : In(1)
    zero_point, minimum, maximum : In(signed(8))
    """

    def __init__(self, config: Configuration, technology="sim"):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        self.technology = technology
        super().__init__(
            {
                "i": In(Push(sums_layout(config))),
                "o": Out(Push(results_layout(config))),
                "parameters": In(ParameterPort(config)),
                "table": In(TablePort()),
                "clear": In(1),
                "group_done": Out(1),
                "tile": In(1),
                "rounding": In(2),
                "uniform": In(1),
                "look_up": In(1),
                "zero_point": In(signed(8)),
                "minimum": In(signed(8)),
                "maximum": In(signed(8)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, i, o = self.config, self.i, self.o
        outputs = config.requantiser_outputs
        row_bits = ceil_log2(config.lanes // outputs)

        # What is written comes a long way, and from much that decides. The modes hold long before.
        way = int(config.slow_memory)
        self._parameters, self._table = (
            _caught(m, way, port) for port in (self.parameters, self.table)
        )
        self._tile, self._uniform, self._look_up, self._rounding = delayed(
            m,
            way,
            tile=self.tile,
            uniform=self.uniform,
            look_up=self.look_up,
            rounding=self.rounding,
        )

        # Where the parameters of a sum are: rows of P lanes of one of the halves. They are read
        # while the sum waits, two cycles where it is a long way to their memories; the shift later,
        # when the product is there.
        row = Signal(row_bits)
        half = Signal()
        ends = i.valid & i.payload.last & i.payload.group_last & ~self._tile
        with m.If(i.valid & ~self._tile):
            m.d.sync += row.eq(row + 1)
        m.d.sync += half.eq((half ^ ends) & ~self.clear)
        place = Cat(row, half & ~self._tile)
        latency = wide_latency(config.slow_memory)
        (product_place,) = delayed(m, latency, product_place=place)
        (group_done,) = delayed(m, latency + way, group_done=ends)
        m.d.comb += self.group_done.eq(group_done)

        marks = Cat(i.payload.last, i.payload.group_last, i.payload.final)
        values, marks, valid = delayed(
            m, 1 + way, values=i.payload.values.as_value(), marks=marks, valid=i.valid
        )
        values = data.View(sums_layout(config)["values"].shape, values)
        stages = latency + 3 + 3 * config.slow_memory
        valid, marks = delayed(m, stages, valid_result=valid, marks_result=marks)
        # What a tile needs instead of the layer's.
        low, high, zero_point = Signal(signed(8)), Signal(signed(8)), Signal(signed(8))
        m.d.sync += [
            low.eq(Mux(self._tile, -127, self.minimum)),
            high.eq(Mux(self._tile, 127, self.maximum)),
            zero_point.eq(Mux(self._tile, 0, self.zero_point)),
        ]
        self._constants = low, high, zero_point
        common = Signal()
        m.d.comb += common.eq(self._tile | self._uniform)
        places = delayed(
            m,
            way,
            bias_place=Cat(place, self._tile),
            multiplier_place=Mux(common, 1 << row_bits + 1, place),
            shift_place=Mux(common, 1 << row_bits + 1, product_place),
        )
        results = [self._requantise(m, n, places, values[n]) for n in range(outputs)]

        # Results gather in a word.
        pieces = config.activation_word // outputs
        count = Signal(range(pieces))
        gathered = Signal(8 * config.activation_word, reset_less=True)
        m.d.sync += o.valid.eq(valid & (count == pieces - 1))
        with m.If(valid):
            m.d.sync += [
                gathered.eq(Cat(gathered[8 * outputs :], results)),
                count.eq(count + 1),
                Cat(o.payload.last, o.payload.group_last, o.payload.final).eq(marks),
            ]
        m.d.comb += o.payload.values.eq(gathered)
        return m

    def _requantise(self, m, n, places, value):
        """One of the P pipelines; its result byte, some stages after the product."""
        word = self._parameters.data
        if self.config.parameters_packed:
            fields = (
                (BIAS, word[:PACKED_BIAS_BITS]),
                (MULTIPLIER, word[:31]),
                (BIAS, word[PACKED_BIAS_BITS:]),
            )
        else:
            fields = (BIAS, word), (MULTIPLIER, word[:31]), (SHIFT, word[:5])
        bias, factor, shift = (
            self._parameter(m, f"{name}{n}", n, kind, field, place)
            for name, (kind, field), place in zip(
                ("bias", "multiplier", "shift"), fields, places, strict=True
            )
        )
        m.submodules[f"multiply{n}"] = multiply = WideMultiplier(
            self.technology, self.config.slow_memory
        )
        m.d.comb += [
            multiply.a.eq(value + bias.as_signed()),
            multiply.b.eq(factor),
        ]
        twice = (self._rounding == ROUND_TWICE) & ~self._tile
        even = (self._rounding == ROUND_EVEN) & ~self._tile
        quotient, up, beyond = _shift(
            m,
            n,
            multiply.product,
            multiply.inexact,
            shift,
            twice,
            even,
            self.config.slow_memory,
        )
        shifted = Signal(signed(RESULT_BITS), name=f"shifted{n}", reset_less=True)
        round_up = Signal(name=f"round_up{n}")
        saturated = Signal(name=f"saturated{n}")
        m.d.sync += [shifted.eq(quotient), round_up.eq(up), saturated.eq(beyond)]

        # The zero point is added with the rounding as its carry.
        _, _, zero_point = self._constants
        total = (Cat(round_up, shifted).as_signed() + Cat(round_up, zero_point).as_signed()) >> 1
        result = Signal(signed(RESULT_BITS + 1), name=f"result{n}", reset_less=True)
        far = Signal(2, name=f"far{n}", reset_less=True)
        m.d.sync += [result.eq(total), far.eq(Cat(saturated, shifted[-1]))]
        return self._looked_up(m, n, self._limit(m, n, result, far[0], far[1]))

    def _looked_up(self, m, n, result):
        """`result` a cycle later (2 where memory is slow), or what the table has for it."""
        (result,) = delayed(m, int(self.config.slow_memory), **{f"limited{n}": result})
        memory = block_memory(8, 256)
        m.submodules[f"table{n}"] = memory
        writer, reader = memory.write_port(), memory.read_port()
        m.d.comb += [
            writer.en.eq(self._table.write),
            writer.addr.eq(self._table.entry),
            writer.data.eq(self._table.data),
            reader.en.eq(1),
            reader.addr.eq(result),
        ]
        (plain,) = delayed(m, 1, **{f"plain{n}": result})
        return Mux(self._look_up, reader.data, plain)

    def _parameter(self, m, name, n, kind, field, address):
        """A parameter of every P-th channel from the n-th on, a cycle after its address.

        It is a field of the words of that kind.
        """
        outputs, port = self.config.requantiser_outputs, self._parameters
        tile = 2 * self.config.lanes
        memory = block_memory(len(field), tile // outputs + 1)
        m.submodules[name] = memory
        writer, reader = memory.write_port(), memory.read_port()
        own = (port.entry % outputs == n) | (port.entry == tile)
        m.d.comb += [
            writer.en.eq(port.write & (port.kind == kind) & own),
            writer.addr.eq(port.entry // outputs),
            writer.data.eq(field),
            reader.en.eq(1),
            reader.addr.eq(address),
        ]
        return reader.data

    def _limit(self, m, n, result, saturated, negative):
        """`result` limited, where memory is slow a cycle later.

        If `saturated`, it is beyond all limits, on the side of `negative`.
        """
        low, high, _ = self._constants
        outside = saturated | (result[7:] != result[-1].replicate(len(result) - 7))
        negative = Mux(saturated, negative, result[-1])
        byte = result[:8].as_signed()
        above, below, byte = delayed(
            m,
            int(self.config.slow_memory),
            **{
                f"above{n}": Mux(outside, ~negative, byte > high),
                f"below{n}": Mux(outside, negative, byte < low),
                f"byte{n}": byte,
            },
        )
        return Mux(above, high, Mux(below, low, byte))[:8]


def _caught(m, cycles, port):
    """The members of a write port so many cycles later."""
    names = list(port.signature.members)
    prefix = type(port.signature).__name__.removesuffix("Port").lower()
    later = delayed(m, cycles, **{f"{prefix}_{name}": getattr(port, name) for name in names})
    return SimpleNamespace(**dict(zip(names, later, strict=True)))


def _shift(m, n, product, inexact, shift, twice, even, slow):
    """`product >> 15 >> shift` to RESULT_BITS, whether to round it up, and if it has more bits.

    `inexact` says that there were 1s below the product, `twice` that bit 14 was to be rounded
    first, `even` that halves become even. If `slow` it takes a cycle.
    """
    sign = product[-1]
    bits = product[14:46]  # and the sign; from here on, the lowest bit is worth a half
    inexact |= product[:14].any()
    beyond, lost = Const(0, 1), Const(0, 1)
    ones = twice & ~sign
    for level in reversed(range(5)):
        if slow and level == 2:
            sign, bits, inexact, shift, beyond, lost = delayed(
                m,
                1,
                **{
                    f"sign{n}": sign,
                    f"bits{n}": bits,
                    f"inexact{n}": inexact,
                    f"amount{n}": shift,
                    f"beyond{n}": beyond,
                    f"lost{n}": lost,
                },
            )
            ones = twice & ~sign
        step, on = 1 << level, shift[level]
        kept = RESULT_BITS - 1 + step
        beyond |= ~on & (bits[kept:] != sign.replicate(len(bits) - kept))
        # Bits that decide: any 1; rounding twice, of a product that is not negative any 0.
        lost |= on & (bits[:step] != ones.replicate(step))
        bits = Mux(on, Cat(bits, sign.replicate(32))[step : step + kept], bits[:kept])
    decided = lost | Mux(twice, shift == 0, ~even | bits[1] | inexact)
    up = Mux(ones, bits[0] | ~decided, bits[0] & decided)
    return Cat(bits[1:RESULT_BITS], sign), up, beyond
