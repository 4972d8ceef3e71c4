"""The model of a device, on which the link's tests rest, against the RTL it stands for."""

from __future__ import annotations

from random import Random

import pytest

import sim
from rtl.config import configuration
from rtl.registers import ACTIVATIONS, COEFFICIENTS, REGISTERS, UNLOCK
from sim import Bench, testbench
from tests.insitu.fake_device import BIT_CYCLES, BYTE, UNDEFINED, FakeDevice
from tests.rtl.host import Engine, Memories
from tests.rtl.test_uart_bone import TIMEOUT_BITS, Line, System, read, write

RUN_BITS = 30
QUIET = TIMEOUT_BITS + 2 * BYTE
AT = {name: register.offset // 4 for name, register in REGISTERS.items()}
CONFIG = configuration("up5k")
WORDS = CONFIG.coefficient_bytes // 4


def model(memories: Memories) -> FakeDevice:
    """A model with the same in its memories."""
    device = FakeDevice(CONFIG, lambda *_: RUN_BITS, Random(0), timeout=TIMEOUT_BITS)
    for base, memory in zip((COEFFICIENTS, ACTIVATIONS), device.memories, strict=True):
        words = (memories.read(base + 4 * word) for word in range(WORDS))
        memory[:] = b"".join(word.to_bytes(4, "little") for word in words)
    return device


class Pair:
    """The RTL and its model, told the same; each says what it has to say."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._memories = Memories(bench, 2)
        Engine(bench, RUN_BITS * BIT_CYCLES)
        self._line = Line(bench, BIT_CYCLES)
        self.device = model(self._memories)

    def _now(self) -> int:
        return round(self._bench.cycle / BIT_CYCLES)

    async def send(self, data: bytes) -> None:
        """Bytes without a pause."""
        for byte in data:
            await self._line.send([byte])
            self.device.receive(byte, self._now())

    async def pause(self, bits: int) -> None:
        """Silence of the host."""
        await self._line.quiet(bits)
        self.device.advance(self._now())

    async def answers(self, what: str) -> bytes:
        """Wait until all has been said, and compare; where one was interrupted, to a byte."""
        while True:
            before = len(self._line.starts)
            await self.pause(QUIET)
            if len(self._line.starts) == before:
                break
        got = await self._line.receive(before - self._taken) if before > self._taken else b""
        self._taken = before
        expected = bytes(byte for _, byte in self.device.sent)
        self.device.sent.clear()
        apart = abs(len(got) - len(expected))
        said = f"{what}: {expected.hex()} expected, {got.hex()} came"
        assert apart <= self.device.interrupted, said
        self.device.interrupted = False
        undefined = UNDEFINED.to_bytes(4, "big")
        both = min(len(got), len(expected))
        for at in range(0, both, 4):
            word = slice(at, min(at + 4, both))
            assert expected[word] in (got[word], undefined[: both - at]), said
        return got

    _taken = 0

    async def compare_state(self) -> None:
        """All registers that mean something, and every word that was written."""
        await self.send(read(AT["STATUS"], 4))
        await self.answers("STATUS to CYCLES")
        for base, memory in zip((COEFFICIENTS, ACTIVATIONS), self.device.memories, strict=True):
            for address, word in self._memories.words.items():
                if base <= address < base + len(memory):
                    at = address - base
                    expected = int.from_bytes(memory[at : at + 4], "little")
                    self._bench.compare(expected, word, what=f"word at {address:#x}")


def somewhere(rng: Random) -> int:
    """A word address: registers, memories and their edges, and nowhere."""
    return rng.choice(
        [
            rng.randrange(16),
            rng.randrange(20),
            COEFFICIENTS // 4 + rng.randrange(8),
            COEFFICIENTS // 4 + WORDS - rng.randrange(5),
            ACTIVATIONS // 4 + rng.randrange(8),
            ACTIVATIONS // 4 + WORDS - rng.randrange(5),
            3 << 18,
        ]
    )


def some_words(rng: Random) -> list[int]:
    # Small, so that no range checked by chance is long.
    return [rng.choice([0, 1, 2, 3, rng.randrange(64)]) for _ in range(rng.randint(1, 4))]


@testbench
async def agree(bench: Bench) -> None:
    """Commands that are well, and commands that are not."""
    pair, rng = Pair(bench), bench.rng
    # There is no CRC before the first check.
    await pair.send(write(AT["CRC_ADDRESS"], [COEFFICIENTS, 1]))
    for number in range(bench.parameters["rounds"]):
        if rng.random() < 0.5:
            await pair.send(write(AT["LOCK"], [UNLOCK * rng.randrange(2)]))
        kind = rng.choice(["write", "read", "check", "start", "flip", "cut", "drop", "double"])
        what = f"round {number}, {kind}"
        order = write(somewhere(rng), some_words(rng))
        if rng.random() < 0.3:
            order = read(somewhere(rng), rng.randint(1, 4))
        at = rng.randrange(len(order))
        if kind == "write":
            await pair.send(write(somewhere(rng), some_words(rng)))
        elif kind == "read":
            await pair.send(read(somewhere(rng), rng.randint(1, 6)))
        elif kind == "check":
            # The longest takes longer than the bridge waits.
            base, words = rng.choice([COEFFICIENTS, ACTIVATIONS]), rng.choice([0, 1, 5, 10, 200])
            await pair.send(write(AT["CRC_ADDRESS"], [base + 4 * rng.randrange(99), words]))
            await pair.send(read(AT["STATUS"], 7))
            await pair.answers(what)
            await pair.pause(3 * 200)
            await pair.send(read(AT["CRC_VALUE"]))
        elif kind == "start":
            await pair.send(write(AT["CONTROL"], [rng.randrange(4)]))
            await pair.send(read(AT["STATUS"]) if rng.random() < 0.5 else read(ACTIVATIONS // 4, 2))
        elif kind == "flip":
            await pair.send(
                order[:at] + bytes([order[at] ^ 1 << rng.randrange(8)]) + order[at + 1 :]
            )
        elif kind == "cut":
            await pair.send(order[:at])
            await pair.pause(rng.choice([TIMEOUT_BITS // 2, QUIET]))
            await pair.send(order[at:])
        elif kind == "drop":
            await pair.send(order[:at] + order[at + 1 :])
        else:
            await pair.send(order[: at + 1] + order[at:])
        await pair.answers(what)
        await pair.compare_state()


@testbench
async def agree_on_interruptions(bench: Bench) -> None:
    """A byte that comes too early ends the command; what is said until then may differ by one."""
    pair, rng = Pair(bench), bench.rng
    for _ in range(8):
        await pair.send(read(AT["IDENTITY"], 8))
        await pair.pause(10 * rng.randint(2, 20) + 5)
        await pair.send(read(AT["IDENTITY"], 2))
        await pair.pause(QUIET)
        said = len(pair.device.sent)
        assert 2 < said < 30
        await pair.answers("what came before the interruption")
        await pair.send(read(AT["VERSION"]))
        assert len(await pair.answers("afterwards")) == 4


def test_model_is_like_the_rtl(seed: int) -> None:
    run("agree", seed, rounds=12)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_model_is_like_the_rtl_for_long(part: int, seed: int) -> None:
    run("agree", seed, rounds=60)


def test_model_is_interrupted_like_the_rtl(seed: int) -> None:
    run("agree_on_interruptions", seed)


def run(name: str, seed: int, **parameters: int) -> None:
    sim.run(
        System(BIT_CYCLES),
        __name__,
        name,
        parameters=parameters,
        seed=seed,
        timeout_cycles=10_000_000,
    )
