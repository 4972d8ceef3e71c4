"""Recovers the weights of the intra level, W1 = U*B, at the rate the multipliers eat them."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from .basis_buffer import BasisPort, basis_delay
from .coefficient_decoder import Segment, Vectors, announcement_delay, vector_delay
from .config import Configuration
from .delay import delayed
from .fixed import dot_product, round_shift, saturate
from .memory import block_memory
from .queue import Queue

__all__ = ["WeightGenerator", "blocks_ahead", "blocks_layout", "weight_delay"]


def operands_delay(config):
    """Cycles from the issue of weights to their U and B."""
    return 2 + 3 * config.slow_memory


def weight_delay(config):
    """Cycles from the issue of weights to their values."""
    return operands_delay(config) + 1 + config.slow_memory + (config.generator_sum_bits > 8)


def blocks_ahead(config):
    """Blocks of W1 that may be issued at the cross level before they are taken.

    Where memory is slow they take longer to come than to be used.
    """
    return 16 if config.slow_memory else 1


def blocks_layout(config):
    """A block of W1 at the cross level: signed bytes, of kernel `block * lanes + r` for lane r.

    `last` marks the last block of a weight, `final` the last tap of the lane group's last channel.
    """
    return data.StructLayout({"values": data.ArrayLayout(8, config.lanes), "last": 1, "final": 1})


class WeightGenerator(wiring.Component):
    """Intra level of the weight generation.

    For every tap t of the channels at work: `W1 = clamp8(round(sum_i U[i] * B[i, t], s1))`, with
    `round(x, s) = (x + (1 << s >> 1)) >> s` and clamp8 to -127..127, one such weight a multiplier
    and cycle (Gu et al., ICCV 2021, intra-kernel level). No hardware multipliers (`rtl.fixed`).

    U is held in two slots: one is filled by the decoder while the other is read, for T cycles. A
    slot holds U of one channel group for each lane's kernel (intra level alone), or of one channel
    for all kernels of the layer, in blocks of `lanes` (cross level on). What follows from a slot,
    in order: for t in taps, for block in blocks.

    Weights are issued first and computed then, without a stop. The intra level alone issues when
    `permit` says that they will be used, in whatever cycle they come. At the cross level they wait
    at `o` until they are taken; so many blocks may be under way or waiting as `blocks_ahead` says.

    Latency: 2 cycles from the announcement of a slot's last vector to its first issue,
    `weight_delay` from there to the weights, where memory is slow one more at the cross level.
    Throughput: one vector a cycle, if a slot has fewer vectors than its `taps * blocks`; at the
    cross level one in `weight_delay + 1`, but for slow memory, where it is one a cycle.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    vectors : In(Vectors)
        Those of STREAM segments are U.
    room : Out(1)
        One may be taken.
    permit : In(1)
        Intra level alone: weights may be issued.
    issued : Out(1)
        They are, if the intra level is alone.
    weights : Out(signed(8) x R*C)
        W1, of stripe r*C + k for multiplier k of lane r, `weight_delay` after their issue.
    o : Out(stream of blocks_layout)
        W1 at the cross level, where only k = 0 counts.
    basis : Out(BasisPort)
        To the basis buffer.
    half : In(1)
        Half of the basis buffer that belongs to the vectors being announced.
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
                "vectors": In(Vectors(config)),
                "room": Out(1),
                "permit": In(1),
                "issued": Out(1),
                "weights": Out(data.ArrayLayout(8, config.stripes)),
                "o": Out(stream.Signature(blocks_layout(config))),
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
        config, vectors = self.config, self.vectors
        lanes, width, terms = config.lanes, config.width, config.generator_terms
        u_bits = config.generator_u_bits
        log_blocks = ceil_log2(config.basis_blocks)
        blocks = self.blocks[:log_blocks]

        # Slots: filled in turn, read in turn. They count as filled when their last vector is
        # announced, and as free when the last weights are issued: U is written `vector_delay` after
        # one, where memory is slow a cycle later, and read `operands_delay - 1` after the other. So
        # that it is not read before it is written, weights are issued two cycles after the
        # announcement. Where memory is slow that is heard of late, which leaves a cycle to wait.
        heard = announcement_delay(config)
        filled = Signal(2)
        fresh = Signal(2)  # filled in the cycle before
        slot_half = Signal(2)
        slot_final = Signal(2)
        fill, free = Signal(2), Signal(2)  # what becomes of the slots
        # The decoder's decision waits for this one, so it is worked out a cycle before.
        m.d.sync += filled.eq(filled & ~free | fill)
        for half in range(2):
            in_half = (
                (filled[slot] & ~free[slot] & (slot_half[slot] == half))
                | (fill[slot] & (self.half == half))
                for slot in range(2)
            )
            m.d.sync += self.busy[half].eq(Cat(in_half).any())

        # Write side.
        write, final = delayed(
            m,
            heard,
            write=vectors.taken & (vectors.segment == Segment.STREAM),
            final=vectors.final,
        )
        write_slot = Signal()
        write_block = Signal(log_blocks)
        group = Signal(3)
        last_group = Signal(3)
        next_block, next_group = Signal.like(write_block), Signal.like(group)
        ends = Signal()  # the next vector heard of is its slot's last
        fills = Signal()
        m.d.comb += [
            fills.eq(write & ends),
            fill.eq(fills << write_slot),
            self.room.eq(~filled.bit_select(write_slot ^ (fills if heard else 0), 1)),
            last_group.eq(Mux(self.cross_level, self.terms >> ceil_log2(width), self.terms)),
            next_block.eq(write_block),
            next_group.eq(group),
        ]
        with m.If(write):
            m.d.comb += next_group.eq(group + 1)
            with m.If(group == last_group):
                m.d.comb += next_group.eq(0)
                m.d.comb += next_block.eq(Mux(write_block == blocks, 0, write_block + 1))
        m.d.sync += [
            write_block.eq(next_block),
            group.eq(next_group),
            ends.eq((next_group == last_group) & (next_block == blocks)),
            fresh.eq(0 if heard else fill),
            write_slot.eq(write_slot ^ fills),
        ]
        with m.If(fills):
            m.d.sync += [
                slot_half.bit_select(write_slot, 1).eq(self.half),
                slot_final.bit_select(write_slot, 1).eq(final),
            ]

        # Read side: for t in taps, for block in blocks.
        slot = Signal()
        tap = Signal(8)
        block = Signal(log_blocks)
        index = Signal(ceil_log2(config.basis_depth))
        issue = Signal()
        full = Signal()  # at the cross level, no more may be issued
        block_last = Signal()
        slot_last = Signal()
        m.d.comb += [
            issue.eq(
                (filled & ~fresh).bit_select(slot, 1) & Mux(self.cross_level, ~full, self.permit)
            ),
            self.issued.eq(issue & ~self.cross_level),
            block_last.eq(block == blocks),
            slot_last.eq(block_last & (tap == self.taps)),
        ]
        with m.If(issue):
            m.d.sync += [block.eq(block + 1), index.eq(index + 1)]
            with m.If(block_last):
                m.d.sync += [block.eq(0), tap.eq(tap + 1)]
            with m.If(slot_last):
                m.d.comb += free.eq(1 << slot)
                m.d.sync += [tap.eq(0), index.eq(0), slot.eq(~slot)]

        # The memories are read later, each so that U meets its basis. Where a block of the cross
        # level waits where it is made, both hold what they read until the next issue.
        basis_index = Cat(
            index[:-1], index[-1] | (slot_half.bit_select(slot, 1) & ~self.cross_level)
        )
        basis_read, basis_index = delayed(
            m,
            operands_delay(config) - basis_delay(config),
            basis_read=issue,
            basis_index=basis_index,
        )
        m.d.comb += [self.basis.enable.eq(basis_read), self.basis.address.eq(basis_index)]
        read, read_slot, read_block = delayed(
            m, operands_delay(config) - 1, read=issue, read_slot=slot, read_block=block
        )
        block_final = slot_last & slot_final.bit_select(slot, 1)
        self._hand_over(m, issue & self.cross_level, block_last, block_final, full)

        # Memories of U, a term each: multiplier 0 of each lane has all blocks, the others one. A
        # vector may have room for more terms than there are.
        here = Cat(
            (group == Mux(self.cross_level, term // width, term)) & (self.terms >= term)
            for term in range(terms)
        )
        # The first vector clears the other terms, which may not follow.
        places = Cat(write & (here[term] | (group == 0)) for term in range(terms))
        slow = int(config.slow_memory)  # A register in front of the memories.
        (here,) = delayed(m, vector_delay(config) - heard, here=here)
        places, write_slot, write_block = delayed(
            m,
            vector_delay(config) - heard + slow,
            places=places,
            write_slot=write_slot,
            write_block=write_block,
        )
        u_terms = [[None] * config.stripes for _ in range(terms)]
        for term in range(terms):
            columns = [("first", range(1), 2 << log_blocks, Cat(write_block, write_slot))]
            read_addresses = [Cat(read_block, read_slot)]
            if width > 1:
                columns.append(("others", range(1, width), 2, write_slot))
                read_addresses.append(read_slot)
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
                        vectors.values[crossed][:u_bits],
                        vectors.values[stripe][:u_bits],
                    )
                    if crossed != stripe
                    else vectors.values[stripe][:u_bits]
                    for stripe, crossed in stripes
                )
                (written,) = delayed(
                    m,
                    slow,
                    **{f"{name}{term}_written": Mux(here[term], value, 0) if term else value},
                )
                m.d.comb += [
                    writer.en.eq(places[term]),
                    writer.addr.eq(address),
                    writer.data.eq(written),
                    reader.en.eq(1 if config.slow_memory else read),
                    reader.addr.eq(read_address),
                ]
                for position, (stripe, _) in enumerate(stripes):
                    u_terms[term][stripe] = reader.data.word_select(position, u_bits).as_signed()

        for stripe in range(config.stripes):
            lane = stripe // width
            total = dot_product(
                m,
                [u_terms[term][stripe] for term in range(terms)],
                [self.basis.data[term][lane] for term in range(terms)],
                f"dot{stripe}",
                registered=config.slow_memory,
            )
            summed = Signal(
                signed(config.generator_sum_bits), name=f"summed{stripe}", reset_less=True
            )
            m.d.sync += summed.eq(total)
            weight = self.weights[stripe]
            if config.generator_sum_bits > 8:
                rounded = round_shift(
                    m, summed, self.shift, config.generator_max_shift, f"rounded{stripe}"
                )
                limited = Signal(8, name=f"limited{stripe}", reset_less=True)
                m.d.sync += limited.eq(saturate(rounded))
                m.d.comb += weight.eq(limited)
            else:
                m.d.comb += weight.eq(summed)
        return m

    def _hand_over(self, m, issue, last, final, full):
        """Blocks of the cross level to `o`; whether more of them would be too many."""
        o, ahead = self.o, blocks_ahead(self.config)
        block = Cat(self.weights[r * self.config.width] for r in range(self.config.lanes))
        taken = o.valid & o.ready
        if ahead == 1:  # It is held where it is made: nothing follows.
            with m.If(issue):
                m.d.sync += [o.payload.last.eq(last), o.payload.final.eq(final)]
            (arrives,) = delayed(m, weight_delay(self.config) - 1, arrives=issue)
            with m.If(taken):
                m.d.sync += [full.eq(0), o.valid.eq(0)]
            with m.If(issue):
                m.d.sync += full.eq(1)
            with m.If(arrives):
                m.d.sync += o.valid.eq(1)
            m.d.comb += o.payload.values.as_value().eq(block)
            return
        m.submodules.blocks = blocks = Queue(blocks_layout(self.config), ahead, in_memory=True)
        count = Signal(range(ahead + 1))
        counted = Signal.like(count)
        arrives, last, final = delayed(
            m, weight_delay(self.config), arrives=issue, last_block=last, final_block=final
        )
        (left,) = delayed(m, 1, left=taken)
        m.d.comb += [
            counted.eq(count + issue - left),
            blocks.i.valid.eq(arrives),
            blocks.i.payload.values.as_value().eq(block),
            blocks.i.payload.last.eq(last),
            blocks.i.payload.final.eq(final),
        ]
        m.d.sync += [count.eq(counted), full.eq(counted == ahead)]
        connect(m, blocks.o, flipped(o))
