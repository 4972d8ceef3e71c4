"""The coefficient memory: program, records, parameters and packed coefficients."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from .coefficient_decoder import Segment, word_layout
from .config import Configuration
from .queue import Queue
from .storage import Storage

__all__ = ["CoefficientMemory", "WordPort", "fetch_layout"]

WORD_TURNS = 4
"""A 32-bit word is read once in so many words, while the stream wants them all."""


def fetch_layout(config):
    """Address of a coefficient word and what it belongs to."""
    return data.StructLayout(
        {"address": range(config.coefficient_words), "segment": Segment, "final": 1}
    )


class WordPort(wiring.Signature):
    """Reads 32-bit words: `data` follows one cycle after `request` and `grant` met."""

    def __init__(self, config):
        super().__init__(
            {
                "request": Out(1),
                "address": Out(range(config.coefficient_bytes // 4)),
                "grant": In(1),
                "data": In(32),
            }
        )


class CoefficientMemory(wiring.Component):
    """Coefficient memory, one read port for all.

    Whole words stream to the decoder; 32-bit words are read for the sequencer, the parameter
    loader and the host, and have every fourth turn: a stream that leaves one word in four idle is
    not held up by the parameters of the next lane group.

    Latency: 2 cycles to a word of the stream, 1 to a 32-bit word. Throughput: one a cycle.

    Parameters
    ----------
    config : Configuration
    technology : str
        See `Storage`.

    Members
    -------
    fetch : In(stream of fetch_layout)
    o : Out(stream of word_layout)
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
                "o": Out(stream.Signature(word_layout(config))),
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
            config.coefficient_port, config.coefficient_words, self.technology
        )
        parts = config.coefficient_port // 32
        log_parts = ceil_log2(parts)

        # The memory's output register is a stage of the stream: it is read anew only when free. The
        # queue behind it keeps the decoder's ready off the way to the memory's address.
        m.submodules.queue = queue = Queue(word_layout(config), 2)
        connect(m, queue.o, flipped(o))
        read = queue.i
        free = Signal()
        part = Signal(max(1, log_parts))
        word_turn = Signal()
        wait = Signal(range(WORD_TURNS))  # words of the stream before the next 32-bit word
        m.d.comb += [
            free.eq(~read.valid | read.ready),
            word_turn.eq(words.request & (~fetch.valid | (wait == 0))),
            words.grant.eq(free & word_turn),
            fetch.ready.eq(free & ~word_turn),
            storage.read.enable.eq(free & (words.request | fetch.valid)),
            storage.read.address.eq(
                Mux(word_turn, words.address >> log_parts, fetch.payload.address)
            ),
            words.data.eq(
                storage.read.data.word_select(part, 32) if log_parts else storage.read.data
            ),
            read.payload.word.eq(storage.read.data),
            storage.write.enable.eq(self.host_write << self.host_address[:log_parts]),
            storage.write.address.eq(self.host_address >> log_parts),
            storage.write.data.eq(Cat([self.host_data] * parts)),
        ]
        with m.If(words.grant):
            m.d.sync += wait.eq(WORD_TURNS - 1)
        with m.Elif(fetch.valid & fetch.ready & (wait != 0)):
            m.d.sync += wait.eq(wait - 1)
        with m.If(free):
            m.d.sync += [
                read.valid.eq(fetch.valid & fetch.ready),
                read.payload.segment.eq(fetch.payload.segment),
                read.payload.final.eq(fetch.payload.final),
                part.eq(words.address[:log_parts]),
            ]
        return m
