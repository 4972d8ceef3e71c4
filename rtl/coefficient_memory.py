"""The coefficient memory: program, records, parameters and packed coefficients."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from .coefficient_decoder import Segment, word_delay, word_marks_layout
from .config import Configuration
from .delay import delayed
from .queue import Queue
from .storage import Storage

__all__ = [
    "WORD_TURNS",
    "CoefficientMemory",
    "WordPort",
    "fetch_layout",
    "queue_depth",
    "words_delay",
]

WORD_TURNS = 4
"""A 32-bit word is read once in so many words, while the stream wants them all."""


def queue_depth(config):
    """Words of the stream that wait for the decoder; where memory is slow, also those under way."""
    return 8 if config.slow_memory else 2


def words_delay(config):
    """Cycles from the read of a 32-bit word to the word."""
    return 2 + (config.coefficient_port > 32) + 2 * config.slow_memory


def fetch_layout(config):
    """Address of a coefficient word and what it belongs to."""
    return data.StructLayout(
        {"address": range(config.coefficient_words), "segment": Segment, "final": 1}
    )


class WordPort(wiring.Signature):
    """Reads 32-bit words: one is asked for where `request` meets `grant`.

    The words come in that order, each when `valid` is set, some cycles later; and `data` holds
    until the next comes.
    """

    def __init__(self, config):
        super().__init__(
            {
                "request": Out(1),
                "address": Out(range(config.coefficient_bytes // 4)),
                "grant": In(1),
                "valid": In(1),
                "data": In(32),
            }
        )


class CoefficientMemory(wiring.Component):
    """Coefficient memory, one read port for all.

    Whole words stream to the decoder; 32-bit words are read for the sequencer, the parameter
    loader and the host, and have every fourth turn: a stream that leaves one word in four idle is
    not held up by the parameters of the next lane group.

    Latency: 2 cycles to a word of the stream, 3 to a 32-bit word, or 4 if it is a part of a wider
    word. Where memory is slow, a register in front of it adds one to each, and one behind it
    another to the stream's, one in the choice of the part to a 32-bit word's. Throughput: one a
    cycle.

    Parameters
    ----------
    config : Configuration
    technology : str
        See `Storage`.

    Members
    -------
    fetch : In(stream of fetch_layout)
    o : Out(stream of word_marks_layout)
    word : Out(coefficient_port)
        The word that `o` offered `word_delay` cycles before.
    words : In(WordPort)
    host_write : In(1)
        Write the 32-bit word `host_address`; only while no layer is at work.
    host_address : In
    host_data : In(32)
    """

    def __init__(self, config: Configuration, technology="sim"):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        self.technology = technology
        super().__init__(
            {
                "fetch": In(stream.Signature(fetch_layout(config))),
                "o": Out(stream.Signature(word_marks_layout())),
                "word": Out(config.coefficient_port),
                "words": In(WordPort(config)),
                "host_write": In(1),
                "host_address": In(range(config.coefficient_bytes // 4)),
                "host_data": In(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        fetch, o, words = self.fetch, self.o, self.words
        m.submodules.storage = storage = Storage(
            config.coefficient_port,
            config.coefficient_words,
            self.technology,
            slow=config.slow_memory,
        )
        parts = config.coefficient_port // 32
        log_parts = ceil_log2(parts)

        # The queue keeps the decoder's ready off the way to the memory's address.
        if config.slow_memory:
            self._queue = Queue(word_marks_layout(), queue_depth(config), in_front=True)
            connect(m, self._queue.o, flipped(o))
        else:
            both = data.StructLayout({"marks": word_marks_layout(), "word": self.word.shape()})
            self._queue = Queue(both, queue_depth(config))
            m.d.comb += [
                o.valid.eq(self._queue.o.valid),
                self._queue.o.ready.eq(o.ready),
                o.payload.eq(self._queue.o.payload.marks),
                self.word.eq(self._queue.o.payload.word),
            ]
        m.submodules.queue = self._queue
        free = Signal(init=config.slow_memory)  # a word of the stream may be read
        served = Signal()  # the 32-bit word at `address`, which is asked for, is being read
        wait = Signal(range(WORD_TURNS))  # words of the stream before the next 32-bit word
        self._asked, address = self._requests(m, served)
        m.d.comb += [
            storage.write.enable.eq(self.host_write << self.host_address[:log_parts]),
            storage.write.address.eq(self.host_address >> log_parts),
            storage.write.data.eq(Cat([self.host_data] * parts)),
        ]
        with m.If(served):
            m.d.sync += wait.eq(WORD_TURNS - 1)
        with m.Elif(fetch.valid & fetch.ready & (wait != 0)):
            m.d.sync += wait.eq(wait - 1)

        # A wide word is caught as it comes out of the memory, which is late, and chosen from then.
        whole = storage.read.data
        if log_parts or config.slow_memory:
            (whole,) = delayed(m, 1, whole=whole)
        chosen = whole
        if log_parts:
            (part,) = delayed(m, 2 + config.slow_memory, part=address[:log_parts])
            if config.slow_memory:  # In two steps: one of each row, then the row.
                near = log_parts - log_parts // 2
                row = 32 << near
                chosen, part = delayed(
                    m,
                    1,
                    columns=Cat(
                        whole[at : at + row].word_select(part[:near], 32)
                        for at in range(0, len(whole), row)
                    ),
                    part_row=part[near:],
                )
            chosen = chosen.word_select(part, 32)
        (comes,) = delayed(m, words_delay(config) - 1, comes=served)
        m.d.sync += words.valid.eq(comes)
        with m.If(comes):
            m.d.sync += words.data.eq(chosen)

        place = Mux(served, address >> log_parts, fetch.payload.address)
        if config.slow_memory:
            self._read_for_room(m, free, served, wait, place, storage.read, whole)
        else:
            m.d.comb += storage.read.address.eq(place)
            self._read_when_free(m, free, served, wait, storage.read)
        return m

    def _requests(self, m, served):
        """Whether a 32-bit word is asked for, and its address, until it is `served`."""
        words = self.words
        if self.config.slow_memory:  # The grant has a long way to go.
            m.submodules.requests = requests = Queue(words.address.shape(), 2)
            m.d.comb += [
                requests.i.valid.eq(words.request),
                requests.i.payload.eq(words.address),
                words.grant.eq(requests.i.ready),
                requests.o.ready.eq(served),
            ]
            return requests.o.valid, requests.o.payload
        asked = Signal()
        address = Signal.like(words.address, reset_less=True)
        m.d.comb += words.grant.eq(~asked | served)
        with m.If(words.grant):
            m.d.sync += asked.eq(words.request)
            with m.If(words.request):
                m.d.sync += address.eq(words.address)
        return asked, address

    def _read_when_free(self, m, free, served, wait, port):
        """The memory's output register is a stage of the stream, read anew only when free."""
        fetch, read = self.fetch, self._queue.i
        m.d.comb += [
            free.eq(~read.valid | read.ready),
            served.eq(free & self._asked & (~fetch.valid | (wait == 0))),
            fetch.ready.eq(free & ~served),
            port.enable.eq(free & (self._asked | fetch.valid)),
            read.payload.word.eq(port.data),
        ]
        with m.If(free):
            m.d.sync += [
                read.valid.eq(fetch.valid & fetch.ready),
                read.payload.marks.segment.eq(fetch.payload.segment),
                read.payload.marks.final.eq(fetch.payload.final),
            ]

    def _read_for_room(self, m, free, served, wait, place, port, word):
        """Words are read for which the queue will have room, and caught on their way to it."""
        fetch, queue = self.fetch, self._queue
        depth = queue_depth(self.config)
        room = Signal(range(depth + 1), init=depth)
        turn = Signal(init=1)  # of the 32-bit word: `wait` is 0
        taken = fetch.valid & fetch.ready
        popped = queue.o.valid & queue.o.ready
        left = room - taken
        m.d.comb += [
            served.eq(self._asked & (~(fetch.valid & free) | turn)),
            fetch.ready.eq(free & ~(self._asked & turn)),
            port.enable.eq(1),
            port.address.eq(place),
        ]
        m.d.sync += [room.eq(left + popped), free.eq((left != 0) | popped)]
        with m.If(served):
            m.d.sync += turn.eq(0)
        with m.Elif(taken & (wait == 1)):
            m.d.sync += turn.eq(1)
        valid, segment, final = delayed(
            m,
            3,
            read_valid=taken,
            read_segment=fetch.payload.segment,
            read_final=fetch.payload.final,
        )
        m.d.comb += [
            queue.i.valid.eq(valid),
            queue.i.payload.segment.eq(segment),
            queue.i.payload.final.eq(final),
        ]
        # Words wait in LUT RAM, which is wide: what is read from it comes a cycle later. It has
        # twice the room, so that what is written where no word comes does no harm.
        m.submodules.waiting = waiting = Memory(
            shape=len(word), depth=2 * depth, init=[], attrs={"ram_style": "distributed"}
        )
        writer, reader = waiting.write_port(), waiting.read_port(domain="comb")
        offered = Signal(range(2 * depth))
        with m.If(valid):
            m.d.sync += writer.addr.eq(writer.addr + 1)
        with m.If(popped):
            m.d.sync += offered.eq(offered + 1)
        (offered,) = delayed(m, word_delay(self.config), offered=offered)
        m.d.comb += [
            writer.en.eq(1),
            writer.data.eq(word),
            reader.addr.eq(offered),
            self.word.eq(reader.data),
        ]
