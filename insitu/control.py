"""Cycles of an operation, counted as the RTL's control counts them, but without any data.

Modelled is what decides when something happens: the turns of the memory's one port, the words that
a vector needs, slots and queues, the step that ends a pixel and may have to wait. What takes a
fixed time, from the issue of a pixel's last step to its results, is one of `Delays`. The blocks are
named after those in `rtl/`, whose descriptions have the rules; each has a `step` for what a cycle
changes, and what others must know of it before that.

A trace takes some microseconds a cycle: `insitu.cost` shortens operations first.
"""

from collections import deque
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

from rtl import activation_buffer, coefficient_memory
from rtl.coefficient_decoder import vector_delay
from rtl.coefficient_memory import WORD_TURNS, words_delay
from rtl.config import Configuration
from rtl.record import CROSS, INTRA, STORED, TABLE_WORDS, TILE
from rtl.weight_generator import blocks_ahead, weight_delay

__all__ = ["Delays", "Segments", "Shape", "Trace", "trace"]

_BASIS, _STREAM, _CROSS = range(3)


class Segments(NamedTuple):
    """Segments of one kind: bits of a coefficient, vectors and words of each segment."""

    bits: int = 1
    vectors: int = 0
    words: int = 0


@dataclass(frozen=True)
class Shape:
    """What the control sees of an operation.

    Parameters
    ----------
    dataflow : STORED, INTRA, CROSS or TILE
    groups : int
        Lane groups.
    steps, pixels : int
        Of an output pixel; of a lane group.
    basis, stream, cross : Segments
        `stream` is of one pixel; at the cross level of one input channel, or of a tap of it.
    repeats : int
        Stream segments of a lane group.
    slot_vectors, slot_weights : int
        Of a slot of the weight generator: vectors that fill it, weights that it issues.
    blocks, last_block_steps : int
        Blocks of W1 a weight at the cross level, and steps of the last of them.
    taps : int
        Cross segments behind each stream segment.
    words, last_group_words : int
        Activation words of a pixel that are written; in the last lane group.
    common_words, group_words : int
        Parameters in front, and of a lane group.
    table : bool
        There is one to load.
    """

    dataflow: int
    groups: int
    steps: int
    pixels: int
    basis: Segments
    stream: Segments
    cross: Segments
    repeats: int
    slot_vectors: int
    slot_weights: int
    blocks: int
    last_block_steps: int
    taps: int
    words: int
    last_group_words: int
    common_words: int
    group_words: int
    table: bool


class Trace(NamedTuple):
    """When things happened, in cycles from the start of the operation, by lane group.

    `segments` are the last vectors of its stream segments, `tiles` the completion of its tile,
    `pixels` the issue of each pixel's last step; `end` is the last result.
    """

    segments: list[list[int]]
    tiles: list[int]
    pixels: list[list[int]]
    end: int


class Delays:
    """Cycles that things take in the pipelines of a configuration.

    `word` passes from a read to a 32-bit word, `found` from a tap to its step, less 1; `weights` or
    `generated` from the issue of a step to its weights, `sums` from there to a pixel's first sums,
    `released` from a lane group's last sums until the memory of its parameters is free, `results`
    from the last sums of a word to the word. A pixel's sums take `rows` cycles, a word's `pieces`.
    `ahead` blocks of the cross level may be issued before they are taken.
    """

    def __init__(self, config: Configuration):
        self.slow = config.slow_memory
        slow = int(config.slow_memory)
        self.word = words_delay(config)
        self.found = 2 + 2 * slow
        self.weights = vector_delay(config)
        self.generated = weight_delay(config)
        self.sums = 3 + config.width.bit_length()
        self.released = 3 + 2 * slow
        self.results = 8 + 5 * slow
        self.ahead = blocks_ahead(config)
        self.rows = config.lanes // config.requantiser_outputs
        self.pieces = config.activation_word // config.requantiser_outputs


class _ParameterLoader:
    def __init__(self, shape: Shape):
        self.left = (TABLE_WORDS if shape.table else 0) + shape.common_words
        self.group_words = shape.group_words
        self.groups = shape.groups
        self.occupied = 0
        self.tabled = 4 * TABLE_WORDS if shape.table else 0
        self.byte = 0
        self.waits = False
        self.missing = shape.common_words + shape.group_words
        self.ahead = 0

    def step(self, granted: bool, arrived: bool, group_done: bool, started: bool) -> None:
        opening = self.left == 0 and self.groups > 0 and self.occupied != 2
        self.occupied += opening - group_done
        if self.byte == 3:
            self.waits = False
        if opening:
            self.left = self.group_words
            self.groups -= 1
        elif granted:
            self.left -= 1
            self.waits = self.tabled != 0
        if self.tabled and (arrived or self.byte):
            self.tabled -= 1
            self.byte = (self.byte + 1) % 4
        elif arrived:
            self.missing -= 1
            if not self.missing:
                self.missing = self.group_words
                self.ahead += 1
        self.ahead -= started


class _CoefficientFetch:
    def __init__(self, shape: Shape):
        segment = [_STREAM] * shape.stream.words
        if shape.dataflow == CROSS:
            segment += [_CROSS] * (shape.cross.words * shape.taps)
        self.words = [_BASIS] * shape.basis.words + segment * shape.repeats
        """Of a lane group, what each is."""
        self.at = 0
        self.groups = shape.groups
        self.waiting = True
        self.valid = False

    def step(self, started: bool, taken: bool) -> None:
        if started:
            self.waiting = False
            self.valid = bool(self.words)
            self.at = 0
        elif taken:
            self.at += 1
            if self.at == len(self.words):
                self.groups -= 1
                self.valid = False
                self.waiting = self.groups > 0


class _CoefficientMemory:
    def __init__(self, config: Configuration, delays: Delays):
        self.asked = 0
        self.turn = WORD_TURNS - 1
        self.read: int | None = None
        self.slow = delays.slow
        self.depth = self.room = coefficient_memory.queue_depth(config)
        # On the way to the queue, where memory is slow.
        self.caught: deque[int | None] = deque([None, None])
        self.queue: deque[int] = deque()
        self.delay = delays.word
        self.served = 0  # a bit a cycle, this one's lowest

    def step(self, fetch: _CoefficientFetch, request: bool, popped: bool) -> tuple[bool, bool]:
        """Whether a word of the stream is taken, and whether a 32-bit word is granted."""
        if self.slow:
            pushed = self.caught.popleft()
            free = self.room > 0
            served = self.asked > 0 and (not (fetch.valid and free) or not self.turn)
        else:
            pushed = self.read if len(self.queue) < self.depth else None
            free = self.read is None or pushed is not None
            served = free and self.asked > 0 and (not fetch.valid or not self.turn)
        taken = free and fetch.valid and not served
        granted = request and (self.asked < 2 if self.slow else not self.asked or served)
        self.asked += granted - served
        if served:
            self.turn = WORD_TURNS - 1
        elif taken and self.turn:
            self.turn -= 1
        if popped:
            self.queue.popleft()
        if pushed is not None:
            self.queue.append(pushed)
        self.room += popped - taken
        if self.slow:
            self.caught.append(self.read)
        if free or self.slow:
            self.read = fetch.words[fetch.at] if taken else None
        self.served = (self.served << 1 | served) & 0xFF
        return taken, granted

    def arrives(self) -> bool:
        """Whether a 32-bit word comes in this cycle."""
        return bool(self.served >> self.delay - 1 & 1)


class _CoefficientDecoder:
    def __init__(self, shape: Shape, config: Configuration):
        self.bits = bits = config.stripe_bits
        touched = max(-(-(bits - gcd(bits, q) + q) // bits) for q in range(1, 9))
        self.registers = max(2, touched - 1)
        self.sees_queue = touched > self.registers
        self.pieces: deque[int] = deque()
        self.offset = 0
        self.index = 1
        self.segments = (shape.basis, shape.stream, shape.cross)

    def next(self, queue: deque[int]) -> int | None:
        """What the next vector is, if all of it is there."""
        held = len(self.pieces)
        if not held or self.offset >= self.bits:
            return None
        if self.sees_queue and queue and held == self.registers:
            held += 1
        kind = self.pieces[0]
        return kind if held * self.bits >= self.offset + self.segments[kind].bits else None

    def step(self, queue: deque[int], kind: int | None) -> tuple[bool, bool]:
        """Take the vector, if it is one: whether it is its segment's last, and a word is popped."""
        bits, held = self.bits, len(self.pieces)
        last, drop = False, 0
        if self.offset >= bits:
            drop = 1
            self.offset -= bits
        elif kind is not None:
            segment = self.segments[kind]
            last = self.index == segment.vectors
            self.index = 1 if last else self.index + 1
            end = self.offset + segment.bits
            if last:
                end = -(-end // bits) * bits
            whole = end // bits
            drop = whole if whole == 0 or whole >= held else 1
            self.offset = end - drop * bits
        popped = bool(queue) and (held != self.registers or drop > 0)
        if popped:
            self.pieces.append(queue[0])
        for _ in range(drop):
            self.pieces.popleft()
        return last, popped


class _WeightGenerator:
    """With the halves of the basis buffer."""

    def __init__(self, shape: Shape, delays: Delays):
        self.cross = shape.dataflow == CROSS
        self.slot_vectors, self.slot_weights = shape.slot_vectors, shape.slot_weights
        self.filled = [False, False]
        self.fresh: int | None = None
        self.slot_half = [0, 0]
        self.half = self.half_written = 0
        self.write_slot = self.slot = 0
        self.vectors = self.issued = 0
        self.ahead = delays.ahead
        self.ready = self.under_way = 0  # blocks of the cross level
        self.left = False  # one was taken in the cycle before
        self.delay = delays.generated - 1 + (self.ahead > 1)
        self.issues = 0  # a bit a cycle, this one's lowest

    def basis_room(self) -> bool:
        first, second = self.filled
        if self.cross:
            return not (first or second)
        return not (
            (first and self.slot_half[0] == self.half)
            or (second and self.slot_half[1] == self.half)
        )

    def issue(self, permit: bool) -> bool:
        ready = self.filled[self.slot] and self.fresh != self.slot
        return ready and (
            self.ready + self.under_way + self.left < self.ahead if self.cross else permit
        )

    def step(self, kind: int | None, last: bool, issue: bool, taken: bool) -> None:
        self.fresh = None
        if issue:
            self.issued += 1
            if self.issued == self.slot_weights:
                self.issued = 0
                self.filled[self.slot] = False
                self.slot ^= 1
        if kind == _STREAM:
            self.vectors += 1
            if self.vectors == self.slot_vectors:
                self.vectors = 0
                self.fresh = self.write_slot
                self.filled[self.write_slot] = True
                self.slot_half[self.write_slot] = self.half_written
                self.write_slot ^= 1
        elif kind == _BASIS and last:
            self.half_written = self.half
            self.half ^= 1
        if self.cross:
            self.issues = (self.issues << 1 | issue) & 0xFFFF
            comes = self.issues >> self.delay & 1
            self.ready += comes - taken
            self.under_way += issue - comes
            self.left = taken and self.ahead > 1


class _WeightBroadcast:
    def __init__(self, shape: Shape, config: Configuration):
        self.blocks = shape.blocks
        self.steps, self.last_steps = config.lanes // config.width, shape.last_block_steps
        self.valid = False
        self.left = self.block = 0

    def takes(self, room: bool) -> bool:
        return not self.valid or (room and self.left == 0)

    def step(self, room: bool, offered: bool) -> None:
        if self.takes(room):
            self.valid = offered
            if offered:
                self.block = (self.block + 1) % self.blocks
                self.left = (self.steps if self.block else self.last_steps) - 1
        elif room:
            self.left -= 1


class _Steps:
    """Address generator, queue of the activation buffer, and issue."""

    def __init__(self, config: Configuration, delays: Delays):
        self.room = activation_buffer.queue_depth(config)
        self.level = 0
        self.delay = delays.found
        self.fetched = 0  # a bit a cycle, this one's lowest
        self.kernel = False
        self.valid = False
        self.left = 0
        self.spacing = delays.rows
        self.wait = 0
        self.of_sum = self.at = 0

    def permit(self) -> bool:
        return self.level > 0 and not (self.wait and self.at == self.of_sum - 1)

    def step(self, go: bool, writing: bool, kernel: bool, walk: int) -> bool:
        """Whether the step that is issued is the last of a sum."""
        fetch = self.valid and self.room > 0 and not writing
        self.level += (self.fetched >> self.delay - 1 & 1) + self.kernel - go
        self.room += go - (fetch or kernel)
        self.fetched = (self.fetched << 1 | fetch) & 0xFF
        self.kernel = kernel
        if fetch or not self.valid:
            self.valid = self.left > 0
            self.left -= self.valid
        if walk:
            self.left = walk
        if self.wait:
            self.wait -= 1
        if not go:
            return False
        self.at += 1
        if self.at != self.of_sum:
            return False
        self.at = 0
        self.wait = self.spacing - 1
        return True


class _Control:
    """All of them, and the sequencer."""

    def __init__(self, shape: Shape, config: Configuration):
        self.shape = shape
        self.delays = delays = Delays(config)
        self.loader = _ParameterLoader(shape)
        self.fetch = _CoefficientFetch(shape)
        self.memory = _CoefficientMemory(config, delays)
        self.decoder = _CoefficientDecoder(shape, config)
        self.generator = _WeightGenerator(shape, delays)
        self.broadcast = _WeightBroadcast(shape, config)
        self.steps = _Steps(config, delays)
        self.one_port = config.activation_ports == 1
        self.cross = shape.dataflow == CROSS
        self.intra = shape.dataflow == INTRA
        self.weights = shape.repeats * shape.taps if self.cross else 0
        self.whole = shape.steps * shape.pixels * (1 if self.cross else shape.groups)
        self.now = 0
        self.walk = 0  # steps of the walk that begins in this cycle
        self.writes: deque[int] = deque()
        self.releases: deque[int] = deque()
        self.finish = 0
        self.trace = Trace([], [], [], 0)
        self.group = -1
        self._begin_group()
        if shape.dataflow in (STORED, INTRA):
            self.steps.left = self.whole

    def _begin_group(self) -> None:
        self.group += 1
        self.trace.segments.append([])
        self.trace.pixels.append([])
        self.generating = self.permitted = self.cross
        self.left = self.weights  # of the tile
        self.steps.of_sum = self.shape.cross.vectors if self.cross else self.shape.steps

    def run(self) -> Trace:
        while not self.step():
            pass
        return self.trace._replace(end=self.now)

    def step(self) -> bool:
        """A cycle; whether it is the last."""
        self.now += 1
        loader, fetch, memory, steps = self.loader, self.fetch, self.memory, self.steps
        generator, broadcast, queue = self.generator, self.broadcast, self.memory.queue
        permit = steps.permit()
        kind = self.decoder.next(queue)
        if kind is not None and not self._room(kind, permit):
            kind = None
        issue = (self.intra or self.cross) and generator.issue(permit)
        if self.intra:
            go = issue
        elif self.shape.dataflow == TILE or (self.cross and not self.generating):
            go = permit
        else:
            go = kind == (_CROSS if self.cross else _STREAM)

        last, popped = self.decoder.step(queue, kind)
        if kind == _STREAM and last:
            self.trace.segments[-1].append(self.now)
        arrived = memory.arrives()
        started = fetch.waiting and loader.ahead > 0 and (self.permitted or not self.cross)
        request = loader.left > 0 and not loader.waits
        taken, granted = memory.step(fetch, request, popped)
        fetch.step(started, taken)
        loader.step(granted, arrived, self._due(self.releases), started)
        kernel = False
        if self.cross:
            room = steps.room > 0
            kernel, offered = broadcast.valid and room, generator.ready > 0
            generator.step(kind, last, issue, offered and broadcast.takes(room))
            broadcast.step(room, offered)
        elif self.intra:
            generator.step(kind, last, issue, False)
        if steps.step(go, self._due(self.writes), kernel, self.walk):
            self._sum_ends()
        self.walk = 0
        if started:
            self.permitted = False
            if self.shape.dataflow == TILE:
                self.walk = self.whole
        return self.now == self.finish and self._finished()

    def _due(self, times: deque[int]) -> bool:
        if times and times[0] == self.now:
            times.popleft()
            return True
        return False

    def _room(self, kind: int, permit: bool) -> bool:
        if kind == _BASIS:
            return self.generator.basis_room()
        if kind == _STREAM and (self.intra or self.cross):
            return not self.generator.filled[self.generator.write_slot]
        return permit

    def _sum_ends(self) -> None:
        """What follows from the last step of a sum."""
        shape, delays, pixels = self.shape, self.delays, self.trace.pixels[-1]
        end = self.now + (delays.generated if self.intra else delays.weights) + delays.sums
        last = end + delays.rows - 1
        if self.generating:
            self.left -= 1
            if not self.left:
                self.finish = last + delays.results
            return
        pixels.append(self.now)
        final = self.group == shape.groups - 1
        if self.one_port:
            for n in range(shape.last_group_words if final else shape.words):
                self.writes.append(end + (n + 1) * delays.pieces - 1 + delays.results)
        if len(pixels) == shape.pixels:
            self.releases.append(last + delays.released)
            if final or self.cross:
                self.finish = last + delays.results
            else:
                self._begin_group()

    def _finished(self) -> bool:
        """The tile is complete, or the last result of a walk is written."""
        if self.generating:
            self.generating = False
            self.trace.tiles.append(self.now)
            self.walk = self.whole
            self.steps.of_sum = self.shape.steps
            return False
        if self.group < self.shape.groups - 1:
            self._begin_group()
            return False
        return True


def trace(shape: Shape, config: Configuration) -> Trace:
    """Run the control through an operation, from the cycle in which its blocks are started.

    Parameters
    ----------
    shape : Shape
    config : Configuration

    Returns
    -------
    Trace
    """
    return _Control(shape, config).run()
