"""A device, step by step: what it is refused for, and what each step notices."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from random import Random

import pytest

import insitu.device
from insitu.device import ATTEMPTS, Device, Loaded
from insitu.errors import DeviceError, ImageError
from insitu.image import Image
from insitu.infer import make_ready
from insitu.link import PATIENCE_S, Link, LinkError
from rtl.config import CONFIGURATIONS, Configuration
from rtl.registers import ACTIVATIONS, COEFFICIENTS, FIELDS, REGISTERS, SelfLoad
from tests.insitu import fake_device
from tests.insitu.fake_device import FakeDevice, FakePort, Fault, answer, engine, image

CONFIG = CONFIGURATIONS["up5k"]
STATUS = REGISTERS["STATUS"].offset


class Bench:
    """A device with its model at the other end of the line."""

    def __init__(self, seed: int, config: Configuration = CONFIG, run: fake_device.Engine = engine):
        self.rng = Random(seed)
        self.image = image(self.rng)
        self.model = FakeDevice(config, run, self.rng)
        self.port = FakePort(self.model)

    def open(self) -> Device:
        self.link = Link(self.port, now=self.port.now)
        return Device(self.link)

    def inputs(self, loaded: Loaded, count: int = 1) -> list[bytes]:
        return [self.rng.randbytes(loaded.input.size) for _ in range(count)]


@pytest.fixture
def bench(seed: int) -> Bench:
    return Bench(seed)


# --- what it is ---


@pytest.mark.parametrize("name", ["up5k", "sim-8x1", "ecp5-45f"])
def test_identity(name: str, seed: int) -> None:
    config = CONFIGURATIONS[name]
    found = Bench(seed, config).open().identity
    assert found.configuration == config
    assert (found.lanes, found.width) == (config.lanes, config.width)
    assert found.coefficient_bytes == config.coefficient_bytes
    assert found.activation_bytes == config.activation_bytes
    assert found.digest == config.digest


def test_a_configuration_unknown_here(seed: int) -> None:
    bench = Bench(seed, replace(CONFIG, tile_bytes=64))
    device = bench.open()
    assert device.identity.configuration is None
    with pytest.raises(ImageError, match=r"is for up5k .* is a configuration unknown here"):
        device.load(bench.image)


@pytest.mark.parametrize(("register", "flip"), [(1, 1 << 24), (1, 1 << 3)])
def test_another_version(register: int, flip: int, bench: Bench) -> None:
    read = bench.model._read
    bench.model._read = lambda at: read(at) ^ (flip if at == register else 0)
    with pytest.raises(DeviceError, match=r"this insitu drives hardware 0\.x with format 1"):
        bench.open()


def test_something_else_at_the_port(bench: Bench) -> None:
    bench.model._read = lambda at: 0x12345678
    with pytest.raises(DeviceError, match="says 0x12345678 where the accelerator says") as error:
        bench.open()
    assert "--baud" in error.value.next_step


def test_nothing_at_the_port(bench: Bench) -> None:
    bench.model.receive = lambda byte, at: None
    with pytest.raises(DeviceError, match="0 of 16 bytes came within 3 s"):
        bench.open()
    assert bench.port.now() < (ATTEMPTS + 1) * (PATIENCE_S + 1)


def test_a_line_that_is_never_quiet(bench: Bench) -> None:
    bench.port.read = lambda size: bench.model.advance(0) or _later(bench.port)
    with pytest.raises(DeviceError, match="the line is never quiet"):
        bench.open()


def _later(port: FakePort) -> bytes:
    port.time += 100
    return b"x"


# --- loading ---


def test_what_is_loaded_is_known_to_the_next_host(bench: Bench) -> None:
    assert bench.open().loaded() is None
    loaded = bench.open().load(bench.image)
    assert loaded == Loaded.of_image(bench.image)
    assert bench.open().loaded() == loaded
    assert bench.open().holds(loaded)


def test_memory_that_outlasts_another_bitstream(bench: Bench) -> None:
    loaded = bench.open().load(bench.image)
    bench.model.config = replace(CONFIG, tile_bytes=64)
    device = bench.open()
    assert device.loaded() is None
    assert not device.holds(loaded)
    with pytest.raises(ImageError, match="is for up5k"):
        make_ready(device, bench.image)


def test_a_long_image_is_loaded_window_by_window(bench: Bench) -> None:
    rest = bench.rng.randbytes(20_000)
    long = Image(bench.image.digest, bench.image.metadata, bench.image.payload + rest, b"")
    bench.open().load(long)
    assert bench.model.memories[0][: len(long.payload)] == long.payload


def test_an_image_that_leaves_no_room_for_its_note(bench: Bench) -> None:
    rest = bytes(CONFIG.coefficient_bytes - len(bench.image.payload) - 8)
    full = Image(bench.image.digest, bench.image.metadata, bench.image.payload + rest, b"")
    loaded = bench.open().load(full)
    assert bench.open().loaded() is None
    device = bench.open()
    assert device.holds(loaded)
    (data,) = bench.inputs(loaded)
    expected = answer(bench.image.payload, data, loaded.output.size)
    assert device.run(loaded, [data]).outputs == (expected,)


@pytest.mark.parametrize("damage", ["payload", "magic", "length", "text", "not JSON", "not ours"])
def test_a_note_that_is_not_true(damage: str, bench: Bench) -> None:
    device = bench.open()
    device.load(bench.image)
    memory = bench.model.memories[0]
    if damage == "payload":
        memory[7] ^= 1
    elif damage == "magic":
        memory[-20] ^= 1
    elif damage == "length":
        memory[-14] ^= 1
    elif damage == "text":
        memory[-24] ^= 1
    else:
        text = b"{oops}  " if damage == "not JSON" else json.dumps({"network": 1}).encode()
        text += bytes(-len(text) % 4)
        head = memory[-20:-16] + len(text).to_bytes(4, "little") + memory[-12:-4]
        crc = zlib.crc32(head, zlib.crc32(text)).to_bytes(4, "little")
        memory[-20 - len(text) :] = text + head + crc
    assert device.loaded() is None


def test_an_image_for_another_configuration(seed: int) -> None:
    bench = Bench(seed, CONFIGURATIONS["ecp5-45f"])
    with pytest.raises(ImageError, match="is for up5k") as error:
        bench.open().load(bench.image)
    assert "--config ecp5-45f" in error.value.next_step


def test_an_image_that_is_too_large(bench: Bench) -> None:
    large = Image(
        bench.image.digest, bench.image.metadata, bytes(CONFIG.coefficient_bytes + 4), b""
    )
    with pytest.raises(ImageError, match="65540 bytes for a memory of 65536"):
        bench.open().load(large)


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan")])
def test_an_image_with_a_scale_that_cannot_be(scale: float, bench: Bench) -> None:
    metadata = bench.image.metadata
    metadata |= {"input": metadata["input"] | {"scale": scale}}
    with pytest.raises(ImageError, match="scale must be positive and finite"):
        Loaded.of_image(Image(CONFIG.digest, metadata, bench.image.payload, b""))


@pytest.mark.parametrize("key", ["cycles", "scale"])
def test_an_image_that_does_not_say_enough(key: str, bench: Bench) -> None:
    metadata = {**bench.image.metadata, "input": {**bench.image.metadata["input"]}}
    del (metadata if key == "cycles" else metadata["input"])[key]
    with pytest.raises(ImageError, match=f"is no use: KeyError.'{key}'"):
        Loaded.of_image(Image(CONFIG.digest, metadata, bench.image.payload, b""))


@pytest.mark.parametrize(
    ("name", "address"), [("input", 65_532), ("output", 2), ("output", 1 << 20)]
)
def test_maps_that_are_not_in_the_memory(name: str, address: int, bench: Bench) -> None:
    device = bench.open()
    loaded = device.load(bench.image)
    wrong = replace(loaded, **{name: replace(getattr(loaded, name), address=address)})
    with pytest.raises(ImageError, match=f"has its map {name} at {address}"):
        device.run(wrong, bench.inputs(loaded))


def test_a_memory_that_does_not_keep_what_it_gets(bench: Bench) -> None:
    bus = bench.model._bus

    def stuck(address: int, value: int | None) -> int:
        if address == COEFFICIENTS // 4 + 3 and value is not None:
            value |= 1 << 30
        return bus(address, value)

    bench.model._bus = stuck
    payload = bench.image.payload[:15] + b"\0" + bench.image.payload[16:]
    with pytest.raises(DeviceError, match=f"are not in the device .* last of {ATTEMPTS}"):
        bench.open().load(Image(CONFIG.digest, bench.image.metadata, payload, b""))
    assert bench.model.locked


# --- running ---


def test_runs(bench: Bench) -> None:
    device = bench.open()
    loaded = device.load(bench.image)
    inputs = bench.inputs(loaded, 4)
    batch = device.run(loaded, inputs)
    assert list(batch.outputs) == [
        answer(bench.image.payload, data, loaded.output.size) for data in inputs
    ]
    assert batch.cycles == bench.model.cycles
    assert 0 < batch.seconds < bench.port.now()
    assert device.retries == 0


def test_an_engine_that_does_not_end(seed: int) -> None:
    bench = Bench(seed, run=lambda *_: 1 << 60)
    device = bench.open()
    loaded = device.load(bench.image)
    with pytest.raises(DeviceError, match="still at work after"):
        device.run(loaded, bench.inputs(loaded))
    assert bench.port.now() < 60


@pytest.mark.parametrize("flag", ["fault", "write_refused", "access_error"])
def test_a_device_that_complains(flag: str, seed: int) -> None:
    def complain(coefficients: bytearray, activations: bytearray) -> int:
        bench.model.flags.add(flag)
        return engine(coefficients, activations)

    bench = Bench(seed, run=complain)
    device = bench.open()
    loaded = device.load(bench.image)
    with pytest.raises(DeviceError, match=f"STATUS shows .*{flag}"):
        device.run(loaded, bench.inputs(loaded))
    assert device.retries == ATTEMPTS - 1


def test_a_device_that_was_left_unlocked(bench: Bench) -> None:
    device = bench.open()
    loaded = device.load(bench.image)
    bench.model.locked = False
    assert not device.holds(loaded)
    with pytest.raises(DeviceError, match="STATUS shows nothing"):
        device.run(loaded, bench.inputs(loaded))


def test_a_device_that_was_reset_while_it_ran(bench: Bench) -> None:
    device = bench.open()
    loaded = device.load(bench.image)
    run = device._run

    def reset(*arguments: object) -> bytes:
        bench.model.reset()
        return run(*arguments)

    device._run = reset
    with pytest.raises(DeviceError, match="has lost fake"):
        device.run(loaded, bench.inputs(loaded))


def test_an_old_crc_is_not_taken_for_a_new_one(bench: Bench) -> None:
    """The start gets lost and the next order; then a bit of the input and the order to check it.

    What CRC_VALUE still said of the first attempt would be right.
    """
    device = bench.open()
    loaded = device.load(bench.image)
    (data,) = bench.inputs(loaded)
    words = len(data) // 4
    start = bytes([1, 1, *(REGISTERS["CONTROL"].offset // 4).to_bytes(4, "big"), 0, 0, 0, 1])
    the_input = bytes([1, words, *((ACTIVATIONS + loaded.input.address) // 4).to_bytes(4, "big")])
    write = bench.port.write
    sent: list[str] = []

    def disturb(order: bytes) -> int:
        what = "start" if order == start else "input" if order.startswith(the_input) else "other"
        sent.append(what)
        if sent.count("start") == 1 and "start" in sent[-2:]:
            return len(order)
        if sent.count("input") == 2 and sent[-2:] == ["input", "other"]:
            return len(order)
        if what == "input" and sent.count("input") == 2:
            order = order[:-1] + bytes([order[-1] ^ 1])
        return write(order)

    bench.port.write = disturb
    batch = device.run(loaded, [data])
    assert batch.outputs == (answer(bench.image.payload, data, loaded.output.size),)
    assert device.retries == 2


# --- the link ---


def test_long_reads_and_writes(bench: Bench) -> None:
    link = Link(bench.port, now=bench.port.now)
    bench.model.locked = False
    words = [bench.rng.getrandbits(32) for _ in range(2500)]
    link.write(COEFFICIENTS, words)
    assert link.read(COEFFICIENTS, 2500) == words


def test_a_device_that_does_not_keep_up(bench: Bench) -> None:
    link = Link(bench.port, now=bench.port.now)
    bench.model._read = lambda at: 0
    with pytest.raises(LinkError, match="does not say who it is"):
        link.write(COEFFICIENTS, [0] * 2000)


@pytest.mark.parametrize("patience", [0.5, PATIENCE_S])
def test_patience(patience: float, seed: int) -> None:
    bench = Bench(seed)
    late = {("in", 0): Fault("late", 1_000_000)}
    port = FakePort(bench.model, late)
    link = Link(port, patience=patience, now=port.now)
    if patience < 1:
        with pytest.raises(LinkError, match=r"0 of 4 bytes came within 0\.5 s"):
            link.read(STATUS)
        assert port.now() < 0.7
        port.time = 2_000_000
        with pytest.raises(LinkError, match="nobody asked for"):
            link.read(STATUS)
        link.restart()
    assert link.read(STATUS) == [bench.model.status()]


# --- the flash ---


def test_waits_while_the_device_reads_its_flash(bench: Bench) -> None:
    bench.model.self_load = SelfLoad.LOADED
    bench.model.reading_until = 500_000
    device = bench.open()
    assert device.self_load == SelfLoad.LOADED
    assert bench.port.time > 500_000
    assert device.retries == 0
    device.load(bench.image)
    assert device.holds(Loaded.of_image(bench.image)), "the field is not taken for a fault"


def test_does_not_wait_for_a_flash_without_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insitu.device, "_SLOWEST_HZ", 1 << 30)
    bench.model.reading_until = 1 << 60
    with pytest.raises(DeviceError, match=r"still reading its flash after 3 s"):
        bench.open()


@pytest.mark.parametrize("bit", range(FIELDS["STATUS"]["self_load"].bits))
def test_a_state_is_believed_only_twice(bit: int, bench: Bench) -> None:
    """A flipped bit of the field, in the first look or in the second."""
    bench.model.self_load = SelfLoad.LOADED
    bench.open()
    field = FIELDS["STATUS"]["self_load"]
    for number in (bench.port.bytes["in"] - 6, bench.port.bytes["in"] - 2):
        port = FakePort(
            FakeDevice(CONFIG, engine, bench.rng),
            {("in", number): Fault("flip", (field.low + bit) % 8)},
        )
        port._device.self_load = SelfLoad.LOADED
        device = Device(Link(port, now=port.now))
        assert device.self_load == SelfLoad.LOADED
        # "Reading" is looked at again anyhow.
        again = SelfLoad.LOADED ^ 1 << bit != SelfLoad.READING or number % 8
        assert device.retries == bool(again)
