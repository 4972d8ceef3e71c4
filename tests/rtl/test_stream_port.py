"""The port of streams, between frames of every length, a host, and an accelerator of the test."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

import cocotb
import pytest
from cocotb.triggers import Timer

import sim
from rtl.registers import (
    ACTIVATIONS,
    CONTROL_BITS,
    REGISTERS,
    STATUS_BITS,
    STREAM_CONTROL_BITS,
    STREAM_REGISTERS,
    STREAM_STATUS_BITS,
    stream_markdown,
)
from rtl.stream_port import StreamPort
from sim import Bench, WishboneError, testbench
from sim.build import ROOT
from tests.rtl.axi import Streams

AT = {name: register.offset // 4 for name, register in (REGISTERS | STREAM_REGISTERS).items()}
ENABLE, CLEAR = (1 << STREAM_CONTROL_BITS[name].number for name in ("enable", "clear"))
CAUSE = {name: 1 << bit.number for name, bit in STREAM_STATUS_BITS.items()}
START = sum(1 << CONTROL_BITS[name].number for name in ("start", "clear"))
FRAMES = 60


class FakeAccelerator:
    """Registers and memory behind a bus; a run inverts words of the one map into the other.

    `fate` decides what becomes of a start: "runs", "refused" or "fault".
    """

    def __init__(
        self, bench: Bench, maps: dict[str, int], fate: Callable[[], str], slowest: int = 3
    ) -> None:
        self.words: dict[int, int] = {}
        self.broken: set[int] = set()
        """Words of memory that answer with `err`."""
        self.starts = 0
        self.looks = 0
        """Looks at STATUS that find a run at work, if not a random number."""
        self.maps = maps
        self._bench = bench
        self._rng = Random(bench.rng.getrandbits(64))
        self._fate = fate
        self._flags: set[str] = set()
        self._slowest = slowest
        self._looks = 0
        cocotb.start_soon(self._serve())

    async def _serve(self) -> None:
        dut, rng, wait = self._bench.dut, self._rng, 0
        while True:
            await self._bench.clock.edge
            await Timer(1)
            dut.bus__ack.value = dut.bus__err.value = 0
            dut.bus__dat_r.value = rng.getrandbits(32)
            assert dut.bus__cyc.value == dut.bus__stb.value
            if not dut.bus__stb.value:
                wait = rng.randint(0, self._slowest)
                continue
            if wait:
                wait -= 1
                continue
            wait = rng.randint(0, self._slowest)
            address = int(dut.bus__adr.value)
            if address in self.broken or dut.bus__sel.value != 15:
                dut.bus__err.value = 1
                continue
            dut.bus__ack.value = 1
            if dut.bus__we.value:
                self._write(address, int(dut.bus__dat_w.value))
            else:
                dut.bus__dat_r.value = self._read(address)

    def _write(self, address: int, word: int) -> None:
        if address == AT["CONTROL"]:
            assert word == START
            self.starts += 1
            fate = self._fate()
            self._flags = {"runs": {"done"}, "refused": {"start_refused"}, "fault": {"fault"}}[fate]
            if fate == "refused":
                return
            self._flags |= {"done"}
            self._looks = self.looks or self._rng.randint(0, self._slowest)
            maps = self.maps
            for n in range(maps["OUTPUT_WORDS"]):
                source = maps["INPUT_ADDRESS"] // 4 + n % maps["INPUT_WORDS"]
                self.words[maps["OUTPUT_ADDRESS"] // 4 + n] = self.words[source] ^ 0xFFFF_FFFF
        else:
            assert address >= ACTIVATIONS // 4, hex(address)
            self.words[address] = word

    def _read(self, address: int) -> int:
        if address != AT["STATUS"]:
            return self.words.get(address, 0)
        if self._looks:
            self._looks -= 1
            return 1 << STATUS_BITS["busy"].number
        return sum(1 << STATUS_BITS[name].number for name in {"locked", *self._flags})


def invert(data: bytes, words: int) -> bytes:
    """What the accelerator of the test makes of an input."""
    given = struct.unpack(f"<{len(data) // 4}I", data)
    inverted = [given[n % len(given)] ^ 0xFFFF_FFFF for n in range(words)]
    return struct.pack(f"<{words}I", *inverted)


@testbench
async def answers_every_frame(bench: Bench) -> None:
    """Right frames by outputs, wrong ones by their error, in order, beside a busy host."""
    rng = bench.rng
    inputs, outputs = bench.parameters["words"]
    maps = {
        "INPUT_ADDRESS": ACTIVATIONS + 0x100,
        "INPUT_WORDS": inputs,
        "OUTPUT_ADDRESS": ACTIVATIONS + 0x800,
        "OUTPUT_WORDS": outputs,
    }
    fates: list[str] = []

    def fate() -> str:
        fates.append(rng.choice(["runs"] * 6 + ["refused", "fault"]))
        return fates[-1]

    fake = FakeAccelerator(bench, maps, fate)
    streams = Streams(bench)
    host = bench.wishbone("host", bench.parameters["pause"])
    for name, value in maps.items():
        await host.write(AT[name], value)
    lengths = [
        inputs if rng.random() < 0.6 else rng.choice([1, inputs - 1, inputs + 1, 2 * inputs]) or 1
        for _ in range(FRAMES)
    ]
    frames = [rng.randbytes(4 * length) for length in lengths]
    for frame in frames:
        streams.send(frame)
    await bench.cycles(50)
    assert not fake.words, "a frame was taken though not enabled"
    await host.write(AT["STREAM_CONTROL"], ENABLE)

    async def disturb() -> None:
        for n in range(10_000):
            assert await host.read(AT["INPUT_ADDRESS"]) == maps["INPUT_ADDRESS"]
            await host.write(ACTIVATIONS // 4 + 0x1000 + n % 7, n)
            assert await host.read(ACTIVATIONS // 4 + 0x1000 + n % 7) == n

    disturber = cocotb.start_soon(disturb())
    expected_flags = set()
    for number, (length, frame) in enumerate(zip(lengths, frames, strict=True)):
        data, users = await streams.receive()
        cause = None
        if length != inputs:
            cause = "short_frame" if length < inputs else "long_frame"
        elif (ended := fates.pop(0)) != "runs":
            cause = "run_failed"
        what = f"frame {number} of {length} words, {cause or ended}"
        if cause is None:
            assert (data, users) == (invert(frame, outputs), [False] * outputs), what
        else:
            assert (data, users) == (CAUSE[cause].to_bytes(4, "little"), [True]), what
            expected_flags.add(cause)
    assert fake.starts == lengths.count(inputs)
    disturber.cancel()
    assert expected_flags == set(CAUSE) - {"active"}, "the seed tries all kinds"


@testbench
async def reports(bench: Bench) -> None:
    """Registers keep what is written, flags stay until a clear, enable holds back frames only."""
    maps = {
        "INPUT_ADDRESS": ACTIVATIONS + 0x10,
        "INPUT_WORDS": 3,
        "OUTPUT_ADDRESS": ACTIVATIONS + 0x40,
        "OUTPUT_WORDS": 4,
    }
    fake = FakeAccelerator(bench, maps, lambda: "runs")
    streams = Streams(bench)
    host = bench.wishbone("host")

    async def flags() -> set[str]:
        value = await host.read(AT["STREAM_STATUS"])
        return {name for name, bit in CAUSE.items() if value & bit}

    extremes = {name: 0x3F_FFFC if "ADDRESS" in name else 0x7_FFFF for name in maps}
    for values in (extremes, maps):
        for name, value in values.items():
            await host.write(AT[name], value)
        for name, value in values.items():
            assert await host.read(AT[name]) == value, name
    assert await host.read(AT["STREAM_CONTROL"]) == 0
    assert await flags() == set()

    frame = bench.rng.randbytes(12)
    good = (invert(frame, 4), [False] * 4)
    error = {name: (bit.to_bytes(4, "little"), [True]) for name, bit in CAUSE.items()}
    await host.write(AT["STREAM_CONTROL"], ENABLE)
    assert await host.read(AT["STREAM_CONTROL"]) == ENABLE
    streams.send(frame)
    assert await streams.receive() == good
    await bench.cycles(10)
    assert await flags() == set()

    # Begun with enable, brought to its end without.
    streams.send(frame)
    await bench.cycles(5)
    await host.write(AT["STREAM_CONTROL"], 0)
    streams.send(frame)
    assert await streams.receive() == good
    await bench.cycles(100)
    assert fake.starts == 2
    await host.write(AT["STREAM_CONTROL"], ENABLE)
    assert await streams.receive() == good

    streams.send(frame[:8])
    assert await streams.receive() == error["short_frame"]
    streams.send(frame + frame)
    assert await streams.receive() == error["long_frame"]
    await bench.cycles(10)
    assert await flags() == {"short_frame", "long_frame"}
    await host.write(AT["STREAM_STATUS"], 0xFFFF_FFFF)
    assert await flags() == {"short_frame", "long_frame"}
    await host.write(AT["STREAM_CONTROL"], ENABLE | CLEAR)
    assert await flags() == set()

    # An access that is refused: going in, the frame is still taken whole; going out, it ends.
    for broken, words in ((0x14, 0), (0x40, 0), (0x48, 2)):
        fake.broken = {(ACTIVATIONS + broken) // 4}
        streams.send(frame)
        data, users = await streams.receive()
        assert data == good[0][: 4 * words] + error["run_failed"][0], hex(broken)
        assert users == [False] * words + [True]
        fake.broken = set()
        streams.send(frame)
        assert await streams.receive() == good
    assert await flags() == {"run_failed"}
    await host.write(AT["STREAM_CONTROL"], ENABLE | CLEAR)

    # Maps without words.
    await host.write(AT["OUTPUT_WORDS"], 0)
    streams.send(frame)
    assert await streams.receive() == error["run_failed"]
    await host.write(AT["INPUT_WORDS"], 0)
    streams.send(frame)
    assert await streams.receive() == error["long_frame"]
    assert fake.starts == 9


@testbench
async def clears_for_good(bench: Bench) -> None:
    """Flags that are cleared while the frame's error still waits do not come back."""
    maps = {
        "INPUT_ADDRESS": ACTIVATIONS,
        "INPUT_WORDS": 3,
        "OUTPUT_ADDRESS": ACTIVATIONS + 0x100,
        "OUTPUT_WORDS": 1,
    }
    FakeAccelerator(bench, maps, lambda: "refused")
    streams = Streams(bench)
    host = bench.wishbone("host")
    for name, value in maps.items():
        await host.write(AT[name], value)
    await host.write(AT["STREAM_CONTROL"], ENABLE)
    for _ in range(2):
        for name, words in (("short_frame", 2), ("long_frame", 4), ("run_failed", 3)):
            streams.stall(True)
            streams.send(bytes(4 * words))
            while not bench.dut.m_axis__tvalid.value:
                await bench.cycles()
            assert await host.read(AT["STREAM_STATUS"]) == CAUSE["active"] | CAUSE[name]
            await host.write(AT["STREAM_CONTROL"], ENABLE | CLEAR)
            await bench.cycles(5)
            assert await host.read(AT["STREAM_STATUS"]) == CAUSE["active"], name
            streams.stall(False)
            assert await streams.receive() == (CAUSE[name].to_bytes(4, "little"), [True])
            assert await host.read(AT["STREAM_STATUS"]) == 0, name


@testbench
async def keeps_time(bench: Bench) -> None:
    """Cycles of a word in and out, where an access takes one, and what comes between."""
    taken = []
    for inputs, outputs in ((4, 3), (8, 3), (4, 9)):
        maps = {
            "INPUT_ADDRESS": ACTIVATIONS,
            "INPUT_WORDS": inputs,
            "OUTPUT_ADDRESS": ACTIVATIONS + 0x100,
            "OUTPUT_WORDS": outputs,
        }
        if not taken:
            fake = FakeAccelerator(bench, maps, lambda: "runs", slowest=0)
            streams = Streams(bench)
            host = bench.wishbone("host")
        fake.maps.update(maps)
        for name, value in maps.items():
            await host.write(AT[name], value)
        await host.write(AT["STREAM_CONTROL"], ENABLE)
        begun = bench.cycle
        streams.send(bytes(4 * inputs))
        await streams.receive()
        taken.append(bench.cycle - begun)
    assert taken[1] - taken[0] == 4 * 3
    assert taken[2] - taken[0] == 6 * 3
    # A start and a look at the status.
    assert taken[0] - 4 * 3 - 3 * 3 <= 2 * 2 + 3


@testbench
async def takes_turns(bench: Bench) -> None:
    """A host that asks without a pause does not hold up frames, nor a long run the host."""
    maps = {
        "INPUT_ADDRESS": ACTIVATIONS,
        "INPUT_WORDS": 4,
        "OUTPUT_ADDRESS": ACTIVATIONS + 0x100,
        "OUTPUT_WORDS": 3,
    }
    fake = FakeAccelerator(bench, maps, lambda: "runs")
    fake.looks = 100
    streams = Streams(bench)
    host = bench.wishbone("host")
    for name, value in maps.items():
        await host.write(AT[name], value)
    await host.write(AT["STREAM_CONTROL"], ENABLE)
    streams.send(bytes(16))
    await host.read_burst(AT["IDENTITY"], 1)
    dut = bench.dut
    dut.host__adr.value, dut.host__we.value, dut.host__sel.value = AT["DIGEST"], 0, 15
    dut.host__cyc.value = dut.host__stb.value = 1
    answered = 0
    while not dut.m_axis__tvalid.value:
        await bench.clock.edge
        answered += bool(dut.host__ack.value)
        assert bench.cycle < 3000
    # One access of the host's for each of the frame's: words, a start, looks, a word.
    assert abs(answered - (4 + 1 + 101 + 1)) <= 2


@testbench
async def passes_on(bench: Bench) -> None:
    """Whatever is not of the streams reaches the accelerator, and its errors the host."""
    fake = FakeAccelerator(bench, {}, lambda: "runs")
    host = bench.wishbone("host")
    last = max(AT[name] for name in STREAM_REGISTERS)
    fake.broken = {AT["STREAM_CONTROL"] - 1, last + 1, AT["STREAM_CONTROL"] + 0x100, 0xF_FFFF}
    for address in sorted(fake.broken):
        with pytest.raises(WishboneError, match="err"):
            await host.read(address)
        with pytest.raises(WishboneError, match="err"):
            await host.write(address, 1)
    # Less than a whole word is an error everywhere, the accelerator's to report.
    bench.dut.host__sel.value = 7
    bench.dut.host__adr.value = AT["STREAM_CONTROL"]
    bench.dut.host__cyc.value = bench.dut.host__stb.value = 1
    for _ in range(20):
        await bench.clock.edge
        assert not bench.dut.host__ack.value
        if bench.dut.host__err.value:
            break
    else:
        pytest.fail("no answer to an access to a part of a word")


@pytest.mark.parametrize("words", [(3, 5), (9, 1), (2, 2)])
@pytest.mark.parametrize("pause", sim.PATTERNS)
def test_answers_every_frame(pause: str, words: tuple[int, int], seed: int) -> None:
    parameters = {"pause": pause, "words": words}
    sim.run(StreamPort(), __name__, "answers_every_frame", parameters=parameters, seed=seed)


@pytest.mark.parametrize("pause", ["never", "often"])
def test_reports(pause: str, seed: int) -> None:
    sim.run(StreamPort(), __name__, "reports", parameters={"pause": pause}, seed=seed)


def test_clears_for_good(seed: int) -> None:
    sim.run(StreamPort(), __name__, "clears_for_good", parameters={"pause": "never"}, seed=seed)


def test_keeps_time(seed: int) -> None:
    sim.run(StreamPort(), __name__, "keeps_time", parameters={"pause": "never"}, seed=seed)


def test_takes_turns(seed: int) -> None:
    sim.run(StreamPort(), __name__, "takes_turns", parameters={"pause": "never"}, seed=seed)


def test_passes_on(seed: int) -> None:
    sim.run(StreamPort(), __name__, "passes_on", seed=seed)


def test_registers_are_documented() -> None:
    assert stream_markdown() in (ROOT / "docs" / "host.md").read_text()
