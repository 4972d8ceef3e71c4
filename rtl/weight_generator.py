"""Recovers the weights of the intra level, W1 = U*B, at the rate the multipliers eat them."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .basis_buffer import BasisPort
from .coefficient_decoder import vector_layout
from .config import Configuration
from .fixed import narrow_product, round_shift, saturate, total
from .memory import block_memory

__all__ = ["WeightGenerator", "weights_layout"]


def weights_layout(config):
    """R*C weights, signed bytes, stripe r*C + k for multiplier k of lane r.

    At the cross level only k = 0 counts: kernel `block * lanes + r`. `last` then marks the last
    block of a weight, `final` the last tap of the lane group's last channel.
    """
    return data.StructLayout({"values": data.ArrayLayout(8, config.stripes), "last": 1, "final": 1})


class WeightGenerator(wiring.Component):
    """Intra level of the weight generation.

    For every tap t of the channels at work: `W1 = clamp8(round(sum_i U[i] * B[i, t], s1))`, with
    `round(x, s) = (x + (1 << s >> 1)) >> s` and clamp8 to -127..127, one such weight a multiplier
    and cycle (Gu et al., ICCV 2021, intra-kernel level). Products are sums of shifted rows: no
    hardware multipliers.

    U is held in two slots: one is filled by the decoder while the other is read, for T cycles. A
    slot holds U of one channel group for each lane's kernel (intra level alone), or of one channel
    for all kernels of the layer, in blocks of `lanes` (cross level on). What follows from a slot,
    in order: for t in taps, for block in blocks.

    Latency: 4 cycles from the last vector of a slot to its first weights, 3 where no sum of
    products can need rounding (`generator_sum_bits` <= 8). Throughput: one vector a cycle, if a
    slot's vectors arrive within its `taps * blocks` cycles.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    i : In(stream of vector_layout)
        Vectors of U.
    o : Out(stream of weights_layout)
        W1.
    basis : Out(BasisPort)
        To the basis buffer.
    half : In(1)
        Half of the basis buffer that belongs to the vectors arriving.
    busy : Out(2)
        Halves of the basis buffer that filled slots refer to.
    cross_level : In(1)
        The cross level is on.
    terms : In(3)
        Bi - 1.
    taps : In(8)
        T - 1; 0 where U is W1 itself.
    blocks : In(6)
        ceil(Bo / lanes) - 1; 0 without the cross level.
    shift : In(4)
        s1, at most `generator_max_shift`.
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(vector_layout(config))),
                "o": Out(stream.Signature(weights_layout(config))),
                "basis": Out(BasisPort(config)),
                "half": In(1),
                "busy": Out(2),
                "cross_level": In(1),
                "terms": In(3),
                "taps": In(8),
                "blocks": In(6),
                "shift": In(4),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes, width, terms = config.lanes, config.width, config.generator_terms
        u_bits = config.generator_u_bits
        log_blocks = ceil_log2(config.basis_blocks)
        blocks = self.blocks[:log_blocks]

        # Slots: filled in turn, read in turn.
        filled = Signal(2)
        slot_half = Signal(2)
        slot_final = Signal(2)
        m.d.comb += [
            self.busy[half].eq(
                (filled[0] & (slot_half[0] == half)) | (filled[1] & (slot_half[1] == half))
            )
            for half in range(2)
        ]

        # Write side.
        write = Signal()
        write_slot = Signal()
        write_block = Signal(log_blocks)
        group = Signal(3)
        last_group = Signal(3)
        m.d.comb += [
            self.i.ready.eq(~filled.bit_select(write_slot, 1)),
            write.eq(self.i.valid & self.i.ready),
            last_group.eq(Mux(self.cross_level, self.terms >> ceil_log2(width), self.terms)),
        ]
        with m.If(write):
            m.d.sync += group.eq(group + 1)
            with m.If(group == last_group):
                m.d.sync += [group.eq(0), write_block.eq(write_block + 1)]
                with m.If(write_block == blocks):
                    m.d.sync += [
                        write_block.eq(0),
                        write_slot.eq(~write_slot),
                        filled.bit_select(write_slot, 1).eq(1),
                        slot_half.bit_select(write_slot, 1).eq(self.half),
                        slot_final.bit_select(write_slot, 1).eq(self.i.payload.final),
                    ]

        # Read side: for t in taps, for block in blocks.
        slot = Signal()
        tap = Signal(8)
        block = Signal(log_blocks)
        index = Signal(ceil_log2(config.basis_depth))
        issue = Signal()
        rounding = config.generator_sum_bits > 8
        stages = 3 if rounding else 2
        advance = Signal(stages)
        valid = Signal(stages)
        block_last = Signal()
        slot_last = Signal()
        m.d.comb += [
            issue.eq(filled.bit_select(slot, 1) & advance[0]),
            block_last.eq(block == blocks),
            slot_last.eq(block_last & (tap == self.taps)),
            self.basis.enable.eq(advance[0]),
            self.basis.address.eq(
                Cat(index[:-1], index[-1] | (slot_half.bit_select(slot, 1) & ~self.cross_level))
            ),
        ]
        with m.If(issue):
            m.d.sync += [block.eq(block + 1), index.eq(index + 1)]
            with m.If(block_last):
                m.d.sync += [block.eq(0), tap.eq(tap + 1)]
            with m.If(slot_last):
                m.d.sync += [
                    tap.eq(0),
                    index.eq(0),
                    slot.eq(~slot),
                    filled.bit_select(slot, 1).eq(0),
                ]

        # Memories of U, a term each: multiplier 0 of each lane has all blocks, the others one.
        u_terms = [[None] * config.stripes for _ in range(terms)]
        for term in range(terms):
            now = Signal(name=f"now{term}")  # this vector carries this term
            m.d.comb += now.eq(group == Mux(self.cross_level, term // width, term))
            columns = [("first", range(1), 2 << log_blocks, Cat(write_block, write_slot))]
            read_addresses = [Cat(block, slot)]
            if width > 1:
                columns.append(("others", range(1, width), 2, write_slot))
                read_addresses.append(slot)
            for (name, multipliers, depth, address), read_address in zip(
                columns, read_addresses, strict=True
            ):
                stripes = [
                    (lane * width + k, lane * width + (term % width if k == 0 else k))
                    for lane in range(lanes)
                    for k in multipliers
                ]
                memory = block_memory(len(stripes) * u_bits, depth)
                m.submodules[f"{name}{term}"] = memory
                writer, reader = memory.write_port(), memory.read_port()
                value = Cat(
                    Mux(
                        self.cross_level,
                        self.i.payload.values[crossed][:u_bits],
                        self.i.payload.values[stripe][:u_bits],
                    )
                    if crossed != stripe
                    else self.i.payload.values[stripe][:u_bits]
                    for stripe, crossed in stripes
                )
                m.d.comb += [
                    # The first vector clears the other terms, which may not follow.
                    writer.en.eq(write & (now | (group == 0))),
                    writer.addr.eq(address),
                    writer.data.eq(Mux(now, value, 0) if term else value),
                    reader.en.eq(advance[0]),
                    reader.addr.eq(read_address),
                ]
                for position, (stripe, _) in enumerate(stripes):
                    u_terms[term][stripe] = reader.data.word_select(position, u_bits).as_signed()

        # Pipeline: memories, sum of products, rounding (where sums can exceed 8 bits).
        flags = Cat(block_last, slot_last & slot_final.bit_select(slot, 1))
        for stage in range(stages):
            room = advance[stage + 1] if stage + 1 < stages else self.o.ready
            m.d.comb += advance[stage].eq(~valid[stage] | room)
            staged = Signal(2, name=f"flags{stage}")
            with m.If(advance[stage]):
                m.d.sync += [
                    valid[stage].eq(valid[stage - 1] if stage else issue),
                    staged.eq(flags),
                ]
            flags = staged
        m.d.comb += [
            self.o.valid.eq(valid[-1]),
            Cat(self.o.payload.last, self.o.payload.final).eq(flags),
        ]
        for stripe in range(config.stripes):
            lane = stripe // width
            products = [
                narrow_product(
                    m,
                    u_terms[term][stripe],
                    self.basis.data[term][lane].as_signed(),
                    f"product{stripe}_{term}",
                )
                for term in range(terms)
            ]
            summed = Signal(signed(config.generator_sum_bits), name=f"summed{stripe}")
            with m.If(advance[1]):
                m.d.sync += summed.eq(total(m, products, f"sum{stripe}"))
            weight = self.o.payload.values[stripe]
            if rounding:
                rounded = round_shift(
                    m, summed, self.shift, config.generator_max_shift, f"rounded{stripe}"
                )
                with m.If(advance[2]):
                    m.d.sync += weight.eq(saturate(rounded))
            else:
                m.d.comb += weight.eq(summed)
        return m
