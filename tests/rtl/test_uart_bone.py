"""The UART bridge against a line, and a protocol, written here from their definitions."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable
from random import Random

import cocotb
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from cocotb.triggers import Event, FallingEdge, Timer, with_timeout

import sim
from rtl.config import configuration
from rtl.host_port import HostPort, MemoryPort
from rtl.registers import ACTIVATIONS, COEFFICIENTS, REGISTERS, UNLOCK
from rtl.uart import bit_cycles
from rtl.uart_bone import UartBone
from sim import Bench, testbench
from tests.rtl.host import Memories

BAUD = 1_000_000
TIMEOUT_BITS = 64
CYCLE = 10_000  # simulator steps


class Line:
    """The far end of the line: sends and receives bytes by the bit, at a rate of its own."""

    def __init__(self, bench: Bench, cycles_a_bit: float, *, skew: float = 0.0) -> None:
        self._dut = bench.dut
        self._bench = bench
        self.bit = round(cycles_a_bit * CYCLE * (1 + skew))
        self.starts: list[int] = []
        """When each byte received began, in cycles."""
        self._bytes: deque[int] = deque()
        self._arrived = Event()
        self._dut.rx.value = 1
        cocotb.start_soon(self._listen())

    async def quiet(self, bits: float) -> None:
        """Leave the line alone for some bits."""
        if bits:
            await Timer(round(self.bit * bits))

    async def level(self, value: int, bits: float) -> None:
        """Hold the line at a level, then let it go."""
        self._dut.rx.value = value
        await self.quiet(bits)
        self._dut.rx.value = 1

    async def send(self, data: Iterable[int], *, stop: int = 1, gap: float = 0) -> None:
        """Send bytes: start bit, eight bits from the lowest, stop bit."""
        for byte in data:
            frame = [0, *(byte >> n & 1 for n in range(8)), stop]
            for value in frame:
                await self.level(value, 1)
            await self.quiet(gap)

    async def receive(self, count: int, *, patience_bits: float | None = None) -> bytes:
        """The next bytes that come."""

        async def collect() -> None:
            while len(self._bytes) < count:
                self._arrived.clear()
                await self._arrived.wait()

        patience = patience_bits or 11 * (count + 4) + 20
        await with_timeout(cocotb.start_soon(collect()), round(patience * self.bit))
        return bytes(self._bytes.popleft() for _ in range(count))

    def silent(self) -> bool:
        """Whether nothing has come that was not received."""
        return not self._bytes and bool(self._dut.tx.value)

    async def _listen(self) -> None:
        while True:
            await FallingEdge(self._dut.tx)
            self.starts.append(self._bench.cycle)
            await Timer(self.bit // 2)
            bits = []
            for _ in range(10):
                bits.append(int(self._dut.tx.value))
                if len(bits) < 10:
                    await Timer(self.bit)
            assert (bits[0], bits[9]) == (0, 1), f"no frame: {bits}"
            self._bytes.append(sum(bit << n for n, bit in enumerate(bits[1:9])))
            self._arrived.set()


def command(code: int, address: int, count: int, words: Iterable[int] = ()) -> bytes:
    """A command as it goes over the line; `address` counts words."""
    out = bytes([code, count % 256]) + address.to_bytes(4, "big")
    return out + b"".join(word.to_bytes(4, "big") for word in words)


def write(address: int, words: list[int]) -> bytes:
    return command(1, address, len(words), words)


def read(address: int, count: int = 1) -> bytes:
    return command(2, address, count)


class Slave:
    """A bus slave that remembers; answers after some cycles, with `err` above `size` words."""

    def __init__(self, bench: Bench, *, slowest: int = 0, size: int = 1 << 20) -> None:
        self.words: dict[int, int] = {}
        self.log: list[tuple[str, int, int]] = []
        """Kind, address and cycle in which `cyc` rose, of each bus cycle."""
        self.given_up = 0
        self.dead = False
        self._bench, self._slowest, self._size = bench, slowest, size
        cocotb.start_soon(self._serve())

    def writes(self) -> list[int]:
        return [address for kind, address, _ in self.log if kind == "write"]

    async def _serve(self) -> None:
        dut, edge = self._bench.dut, self._bench.clock.edge
        rng = Random(self._bench.rng.getrandbits(64))
        while True:
            await dut.bus__cyc.rising_edge
            begun = self._bench.cycle
            wait = rng.randint(0, self._slowest)
            await Timer(1)
            assert dut.bus__stb.value
            assert int(dut.bus__sel.value) == 15
            address, we = int(dut.bus__adr.value), bool(dut.bus__we.value)
            while (wait or self.dead) and dut.bus__cyc.value:
                assert (int(dut.bus__adr.value), bool(dut.bus__we.value)) == (address, we)
                wait -= 1
                await edge
                await Timer(1)
            if not dut.bus__cyc.value:
                self.given_up += 1
                continue
            self.log.append(("write" if we else "read", address, begun))
            answer = dut.bus__ack if address < self._size else dut.bus__err
            if address >= self._size:
                pass
            elif we:
                self.words[address] = int(dut.bus__dat_w.value)
            else:
                dut.bus__dat_r.value = self.words.get(address, ~address & 0xFFFF_FFFF)
            answer.value = 1
            await edge
            answer.value = 0
            dut.bus__dat_r.value = rng.getrandbits(32)
            await Timer(1)
            assert not dut.bus__cyc.value


@testbench
async def reads_and_writes(bench: Bench) -> None:
    """Words and bursts, with the far end off in rate, with gaps, on a slow bus."""
    cycles = bench.parameters["cycles_a_bit"]
    line = Line(bench, cycles, skew=bench.parameters["skew"])
    slave = Slave(bench, slowest=round(5 * cycles))
    rng, model = bench.rng, {}
    await line.quiet(rng.random() * 20)
    for count in (1, 1, 2, 3, 7, 16):
        address = rng.getrandbits(20)
        words = [rng.choice([0, 0xFFFF_FFFF, rng.getrandbits(32)]) for _ in range(count)]
        at = [(address + n) % (1 << 20) for n in range(count)]
        # The upper bits of an address are of no consequence.
        await line.send(write(address | rng.getrandbits(12) << 20, words), gap=rng.random() * 2)
        model.update(zip(at, words, strict=True))
        await line.quiet(8)
        assert slave.writes()[-count:] == at
        assert slave.words == model
        await line.send(read(address | rng.getrandbits(12) << 20, count))
        got = await line.receive(4 * count)
        bench.compare(list(b"".join(word.to_bytes(4, "big") for word in words)), list(got))
        await line.quiet(rng.random() * 3)
    assert slave.given_up == 0
    assert line.silent()


@testbench
async def bursts_long(bench: Bench) -> None:
    """255 words, and 256 as the number 0; across the end of the address space."""
    cycles = bench.parameters["cycles_a_bit"]
    line = Line(bench, cycles)
    slave = Slave(bench)
    for count in (255, 256):
        address = (1 << 20) - 100
        words = [bench.rng.getrandbits(32) for _ in range(count)]
        await line.send(write(address, words))
        await line.quiet(2)
        assert slave.writes()[-count:] == [(address + n) % (1 << 20) for n in range(count)]
        await line.send(read(address, count))
        got = await line.receive(4 * count)
        bench.compare(words, [int.from_bytes(got[n : n + 4], "big") for n in range(0, len(got), 4)])
    await line.send(read(300))
    assert await line.receive(4) == (~300 & 0xFFFF_FFFF).to_bytes(4, "big")


@testbench
async def keeps_time(bench: Bench) -> None:
    """From the line to the bus and back, in cycles."""
    cycles = bench.parameters["cycles_a_bit"]
    line = Line(bench, cycles)
    slave = Slave(bench)
    for way, payload in (("write", write(5, [1])), ("read", read(5))):
        await line.send(payload[:-1])
        await bench.clock.edge
        begun = bench.cycle
        await line.send(payload[-1:])
        await line.quiet(1)
        kind, _, cycle = slave.log[-1]
        assert kind == way
        # Nine bits to the stop bit, half a bit into it, two cycles of synchroniser, one to see the
        # edge, one to have the byte, one from there to the bus.
        assert cycle - begun == 9 * cycles + cycles // 2 + 5
    await line.receive(4)
    first, *others = line.starts
    assert 0 < first - slave.log[-1][2] <= cycles + 2
    assert others == [first + 10 * cycles * n for n in (1, 2, 3)]


@testbench
async def ignores_noise(bench: Bench) -> None:
    """Bytes that are no commands, glitches, and a break between commands."""
    line = Line(bench, bench.parameters["cycles_a_bit"])
    slave = Slave(bench)
    for byte in [0, *range(3, 256)]:
        await line.send([byte])
        if byte % 32 == 0:
            await line.send(write(byte, [byte]))
    await line.quiet(2)
    assert slave.writes() == list(range(0, 256, 32))
    # Between commands and within one: too short for a start bit.
    message = write(7, [0x0102_0304])
    for n, byte in enumerate(message):
        for length in (0.1, 0.3, 0.4):
            await line.level(0, length)
            await line.quiet((0.7, 1.05, 1.15)[n % 3])
        await line.send([byte])
    await line.quiet(2)
    assert slave.words[7] == 0x0102_0304
    # A break, and a byte without its stop bit, where a command is due: one lost byte each.
    await line.level(0, 30)
    await line.quiet(1)
    await line.send([1], stop=0)
    await line.quiet(1)
    await line.send(write(8, [8]))
    await line.quiet(2)
    assert slave.words[8] == 8
    assert line.silent()


@testbench
async def abandons_damaged_commands(bench: Bench) -> None:
    """A byte lost at any place: nothing more is done until the line has been quiet."""
    line = Line(bench, bench.parameters["cycles_a_bit"])
    slave = Slave(bench)
    message = write(0x100, [0x0101_0101, 0x0202_0202, 0x0102_0102])
    for lost in range(1, len(message)):
        slave.words.clear()
        await line.send(message[:lost])
        await line.send(message[lost : lost + 1], stop=0)
        await line.quiet(1)
        await line.send(message[lost + 1 :])
        # As long as bytes come, whatever they are, nothing happens.
        await line.send(write(0x200, [5]) * 3)
        for _ in range(2 * TIMEOUT_BITS // 10):
            await line.send([0], stop=0)
            await line.quiet(1)
        await line.quiet(TIMEOUT_BITS - 14)
        await line.send(write(0x200, [5]))
        whole = max(0, (lost - 6) // 4)
        assert slave.words == dict(list({0x100: 0x0101_0101, 0x101: 0x0202_0202}.items())[:whole])
        await line.quiet(TIMEOUT_BITS + 2)
        await line.send(write(0x300, [lost]))
        await line.quiet(2)
        assert slave.words.pop(0x300) == lost
        assert 0x200 not in slave.words
    assert line.silent()


@testbench
async def starts_afresh(bench: Bench) -> None:
    """A command cut off anywhere is forgotten after the timeout, and not before."""
    line = Line(bench, bench.parameters["cycles_a_bit"])
    slave = Slave(bench)
    for message in (write(0x10, [0x0203_0405]), read(0x10)):
        for cut in range(1, len(message)):
            await line.send(message[:cut])
            # Counted from the middle of the last stop bit.
            await line.quiet(TIMEOUT_BITS - 12)
            await line.send(message[cut:])
            await line.quiet(2)
            assert slave.log.pop()[:2] == ("write" if message[0] == 1 else "read", 0x10)
            if message[0] == 2:
                assert await line.receive(4) == bytes([2, 3, 4, 5])
            await line.send(message[:cut])
            await line.quiet(TIMEOUT_BITS + 2)
            await line.send(write(0x20 + cut, [cut]))
            await line.quiet(2)
            assert slave.log.pop()[:2] == ("write", 0x20 + cut)
            assert slave.log == []
    assert line.silent()


@testbench
async def survives_the_bus(bench: Bench) -> None:
    """`err` counts as an answer; without one the bus is let go of after the timeout."""
    line = Line(bench, bench.parameters["cycles_a_bit"])
    slave = Slave(bench, size=0x100)
    await line.send(write(0xFE, [1, 2, 3, 4]))
    await line.send(read(0xFE, 4))
    got = await line.receive(16)
    assert got[:8] == bytes([0, 0, 0, 1, 0, 0, 0, 2])
    assert [address for _, address, _ in slave.log] == [0xFE, 0xFF, 0x100, 0x101] * 2

    for message in (write(3, [3]), read(3)):
        slave.dead = True
        given_up = slave.given_up
        await line.send(message)
        await line.quiet(TIMEOUT_BITS - 3)
        assert slave.given_up == given_up
        await line.quiet(4)
        assert slave.given_up == given_up + 1
        slave.dead = False
        await line.send(write(4, [44]))
        await line.quiet(2)
        assert slave.log.pop()[:2] == ("write", 4)
    assert line.silent()


@testbench
async def takes_no_byte_too_early(bench: Bench) -> None:
    """A byte that comes while a word is written, read or sent ends the command."""
    line = Line(bench, bench.parameters["cycles_a_bit"])
    slave = Slave(bench)
    # While the bus is waited for.
    for message in (write(1, [0x0101_0101, 0x0101_0101]), read(1, 2)):
        slave.dead = True
        await line.send(message[:10] if message[0] == 1 else message)
        await line.send(message[10:] or [1])
        await line.quiet(1)
        assert not bench.dut.bus__cyc.value
        slave.dead = False
        await line.send(write(2, [2]))
        await line.quiet(TIMEOUT_BITS + 2)
        assert slave.log == []
        await line.send(write(2, [3]))
        await line.quiet(2)
        assert slave.log.pop()[:2] == ("write", 2)
    # While words are sent: the byte being sent is sent whole, and is the last.
    await line.send(read(1, 50))
    await line.quiet(55)
    slave.log.clear()
    await line.send([2])
    await line.quiet(12)
    sent = len(line.starts)
    await line.quiet(TIMEOUT_BITS - 20)
    assert len(line.starts) == sent
    assert slave.log == []
    await line.quiet(20)
    await line.receive(sent)
    await line.send(read(7))
    assert await line.receive(4) == (~7 & 0xFFFF_FFFF).to_bytes(4, "big")
    assert line.silent()


class System(wiring.Component):
    """A bridge with a host port behind it."""

    def __init__(self, cycles_a_bit: int) -> None:
        self._cycles_a_bit = cycles_a_bit
        super().__init__(
            {
                "rx": In(1),
                "tx": Out(1),
                "memory": Out(MemoryPort()),
                "start": Out(1),
                "busy": In(1),
                "cycles": In(32),
                "fault": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.bone = bone = make(self._cycles_a_bit)
        m.submodules.host_port = host_port = HostPort(configuration("up5k"))
        connect(m, bone.bus, host_port.bus)
        connect(m, host_port.memory, flipped(self.memory))
        m.d.comb += [bone.rx.eq(self.rx), self.tx.eq(bone.tx), self.start.eq(host_port.start)]
        for name in ("busy", "cycles", "fault"):
            m.d.comb += getattr(host_port, name).eq(getattr(self, name))
        return m


@testbench
async def reaches_the_host_port(bench: Bench) -> None:
    """Identity, an image, its CRC, an input and an output, over the line; noise is noticed."""
    line = Line(bench, bench.parameters["cycles_a_bit"])
    memories = Memories(bench, 3)
    at = {name: register.offset // 4 for name, register in REGISTERS.items()}

    async def get(address: int, count: int = 1) -> list[int]:
        await line.send(read(address, count))
        got = await line.receive(4 * count, patience_bits=200 + 60 * count)
        return [int.from_bytes(got[n : n + 4], "big") for n in range(0, len(got), 4)]

    async def crc(address: int, words: int) -> int:
        await line.send(write(at["CRC_ADDRESS"], [address, words]))
        return (await get(at["CRC_VALUE"]))[0]

    assert (await get(at["IDENTITY"]))[0].to_bytes(4, "little") == b"inst"
    config = configuration("up5k")
    assert (await get(at["GEOMETRY"], 2))[1] == config.digest
    image = [bench.rng.getrandbits(32) for _ in range(40)]
    await line.send(write(COEFFICIENTS // 4, image[:1]))
    await line.send(write(at["LOCK"], [UNLOCK]))
    await line.quiet(1)
    assert memories.words == {}
    await line.send(write(COEFFICIENTS // 4, image))
    await line.send(write(at["LOCK"], [0]))
    expected = zlib.crc32(b"".join(word.to_bytes(4, "little") for word in image))
    assert await crc(COEFFICIENTS, 40) == expected
    assert await get(ACTIVATIONS // 4, 3) == [memories.read(ACTIVATIONS + 4 * n) for n in range(3)]
    # Words gone astray on the way are noticed.
    await line.send(write(at["LOCK"], [UNLOCK]))
    damaged = bytearray(write(COEFFICIENTS // 4, image))
    damaged[50] ^= 4
    await line.send(damaged)
    await line.send(write(at["LOCK"], [0]))
    assert await crc(COEFFICIENTS, 40) != expected


def make(cycles_a_bit: int) -> UartBone:
    return UartBone(cycles_a_bit * BAUD, BAUD, timeout=TIMEOUT_BITS / BAUD)


def run(name: str, cycles_a_bit: float, seed: int, dut: wiring.Component | None = None, **more):
    parameters = {"cycles_a_bit": cycles_a_bit, **more}
    return sim.run(
        dut or make(cycles_a_bit),
        __name__,
        name,
        parameters=parameters,
        seed=seed,
        timeout_cycles=3_000_000,
    )


@pytest.mark.parametrize("skew", [-0.02, 0.0, 0.02])
@pytest.mark.parametrize("cycles_a_bit", [8, 24, 25])
def test_reads_and_writes(cycles_a_bit: int, skew: float, seed: int) -> None:
    run("reads_and_writes", cycles_a_bit, seed, skew=skew)


def slowest_and_quickest(clk_hz: int, cycles: int) -> tuple[int, int]:
    """The rates between which `bit_cycles` makes a bit as many cycles."""

    def accepted(baud: int) -> bool:
        try:
            return bit_cycles(clk_hz, baud) == cycles
        except ValueError:
            return False

    inside = clk_hz // cycles
    ends = []
    for step in (-1, 1):
        near, far = 0, inside // 10
        while far - near > 1:
            middle = (near + far) // 2
            near, far = (middle, far) if accepted(inside + step * middle) else (near, middle)
        ends.append(inside + step * near)
    return ends[0], ends[1]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("cycles", [8, 9, 10, 18, 21])
def test_whatever_rate_is_accepted_may_be_missed_by_2_percent(
    cycles: int, quick: bool, seed: int
) -> None:
    clk_hz = cycles * BAUD
    baud = slowest_and_quickest(clk_hz, cycles)[quick]
    dut = UartBone(clk_hz, baud, timeout=TIMEOUT_BITS / BAUD)
    skew = -0.02 if quick else 0.02
    run("reads_and_writes", clk_hz / baud, seed, dut, skew=skew)


@pytest.mark.parametrize("cycles_a_bit", [8, 25])
def test_keeps_time(cycles_a_bit: int, seed: int) -> None:
    run("keeps_time", cycles_a_bit, seed)


@pytest.mark.parametrize(
    "name",
    [
        "bursts_long",
        "ignores_noise",
        "abandons_damaged_commands",
        "starts_afresh",
        "survives_the_bus",
        "takes_no_byte_too_early",
    ],
)
def test_uart_bone(name: str, seed: int) -> None:
    run(name, 8, seed)


def test_reaches_the_host_port(seed: int) -> None:
    run("reaches_the_host_port", 24, seed, System(24))


def test_bad_arguments() -> None:
    for clk_hz, baud, says in (
        (0, 1, "clk_hz must be a positive integer, not 0"),
        (1e6, 1, "clk_hz must be a positive integer, not 1000000.0"),
        (12_000_000, -1, "baud must be a positive integer, not -1"),
        (12_000_000, 2_000_000, "baud must be at most an eighth of clk_hz 12000000, not 2000000"),
        (12_000_000, 1_152_000, "baud must be within 2 % of clk_hz 12000000 .*, not 1152000"),
        (18_000_000, 1_020_000, "at most 1019653 where a bit of .* takes 18 cycles, not 1020000"),
        (8_000_000, 1_005_129, "at most 1005128 where a bit of .* takes 8 cycles, not 1005129"),
    ):
        with pytest.raises(ValueError, match=says):
            bit_cycles(clk_hz, baud)
        with pytest.raises(ValueError, match=says):
            UartBone(clk_hz, baud)
    assert bit_cycles(12_000_000, 115_200) == 104
    for timeout in (31e-6, 17.0):
        with pytest.raises(ValueError, match=f"32 to 2.*24 bits long, which .* {timeout} s is not"):
            UartBone(24_000_000, 1_000_000, timeout=timeout)
    assert UartBone(24_000_000, 1_000_000).timeout_bits == 131072
    assert UartBone(24_000_000, 115_200).timeout_bits == 16384
