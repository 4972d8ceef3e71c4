"""The RTL behind a pseudo-terminal: hosts that do not know that there is no board."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
import pytest
from litex.tools.remote.comm_uart import CommUART

from golden.network import run
from insitu.demo import EXAMPLE
from insitu.device import Device
from insitu.errors import DeviceError
from insitu.image import Image
from insitu.link import Link, open_port
from insitu.maps import Map
from insitu.network import load
from insitu.pack import make_image
from insitu.plan import plan
from insitu.quantise import load_inputs, quantise_inputs
from rtl.config import CONFIGURATIONS
from rtl.registers import (
    ACTIVATIONS,
    COEFFICIENTS,
    IDENTITY,
    REGISTERS,
    STATUS_BITS,
    UNLOCK,
    geometry,
    version,
)
from sim.board import LEVELS, SimulatedBoard
from sim.build import ROOT
from tests.insitu.fake_device import Fault, random_fault
from tests.insitu.networks import random_generated, random_network, random_stored

CONFIG = CONFIGURATIONS["up5k"]
START_S = 600
"""To build the simulator on a busy machine."""

AT = {name: register.offset for name, register in REGISTERS.items()}
LOCKED = 1 << STATUS_BITS["locked"].number
DONE = 1 << STATUS_BITS["done"].number
BUSY = 1 << STATUS_BITS["busy"].number


def insitu(*arguments: object) -> list[str]:
    command = [sys.executable, "-c", "from insitu.cli import main; main()"]
    return command + [str(argument) for argument in arguments]


def call(*arguments: object) -> str:
    done = subprocess.run(
        insitu(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def terminate(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


def interrupt(pid: int) -> None:
    """As a terminal does: the whole group."""
    os.killpg(pid, signal.SIGINT)


@contextmanager
def served(
    folder: Path,
    level: str = "byte",
    end: Callable[[int], None] = terminate,
    options: tuple[object, ...] = (),
) -> Iterator[str]:
    """A board that is served; the path of its port."""
    ready = folder / f"{level}.json"
    arguments = ("serve", "--config", CONFIG.name, "--level", level, "--json", ready, *options)
    # A shell's background jobs ignore interrupts, and what they start would do so, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            insitu(*arguments), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
    signal.signal(signal.SIGINT, before)
    try:
        began = time.monotonic()
        while not ready.exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() - began < START_S
            time.sleep(0.1)
        yield json.loads(ready.read_text())["port"]
    finally:
        end(process.pid)
        try:
            assert process.wait(30) == 0, (folder / "log").read_text()
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[str]:
    with served(tmp_path) as name:
        yield name


def small(seed: int) -> tuple[Image, np.ndarray, np.ndarray]:
    """An image of a small network, inputs, and what golden makes of them."""
    rng = np.random.default_rng(seed)
    layers = [
        {
            "weights": random_generated(rng, 12, 3, 9, terms=2, kernels=9, s1=0),
            "kernel": (3, 3),
            "padding": (1, 1, 1, 1),
        },
        {"weights": random_stored(rng, 10, 12, 30, 4), "kernel": (6, 5)},
    ]
    network = random_network(rng, layers, (6, 5, 3))
    inputs = rng.integers(-128, 128, (3, 6, 5, 3)).astype(np.int8)
    return make_image(plan(network, CONFIG, name="small")), inputs, run(network, inputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "samples", "end"), [("byte", 4, terminate), ("bit", 1, interrupt)]
)
def test_example_network_answers(
    level: str, samples: int, end: Callable[[int], None], tmp_path: Path
) -> None:
    """The example network, by the command line alone."""
    network = load(EXAMPLE / "fashion_compressed.npz", (28, 28, 1))
    images, _ = load_inputs(EXAMPLE / "fashion500.npz", network.input_shape)
    inputs = quantise_inputs(images[:samples], network.input_scale, network.input_zero_point)
    made, out, report = (tmp_path / name for name in ("a.image", "out.npz", "a.json"))
    make_image(plan(network, CONFIG, name="fashion")).write(made)
    with served(tmp_path, level, end) as port:
        assert "none known" in call("ping", "--port", port)
        call("load", made, "--port", port)
        assert "fashion, 23,204 bytes" in call("ping", "--port", port)
        arguments = ("--inputs", EXAMPLE / "fashion500.npz", "--samples", samples)
        call("infer", "--port", port, *arguments, "-o", out, "--json", report)
    with np.load(out) as saved:
        assert np.array_equal(saved["outputs"], run(network, inputs))
    figures = json.loads(report.read_text())
    assert figures["retries"] == 0
    assert figures["accuracy"] >= 0.75
    assert abs(figures["cycles"] - figures["predicted_cycles"]) < 100
    assert not Path(port).exists()


@pytest.mark.slow
def test_example_network_answers_from_the_flash(tmp_path: Path) -> None:
    """From power-up to answers, with nothing loaded over the line."""
    network = load(EXAMPLE / "fashion_compressed.npz", (28, 28, 1))
    images, _ = load_inputs(EXAMPLE / "fashion500.npz", network.input_shape)
    inputs = quantise_inputs(images[:2], network.input_scale, network.input_zero_point)
    made, out, report = (tmp_path / name for name in ("a.image", "out.npz", "a.json"))
    make_image(plan(network, CONFIG, name="fashion")).write(made)
    with served(tmp_path, options=("--flash", made)) as port:
        call("ping", "--port", port, "--json", report)
        found = json.loads(report.read_text())
        assert (found["self_load"], found["image"]["network"]) == ("loaded", "fashion")
        arguments = ("--inputs", EXAMPLE / "fashion500.npz", "--samples", 2)
        call("infer", "--port", port, *arguments, "-o", out, "--json", report)
    with np.load(out) as saved:
        assert np.array_equal(saved["outputs"], run(network, inputs))
    assert json.loads(report.read_text())["retries"] == 0


@pytest.mark.slow
def test_faults_on_the_way_to_the_rtl(port: str, seed: int) -> None:
    """As tests/insitu/test_faults.py, with the hardware itself at the other end."""
    image, inputs, expected = small(seed)
    rng = Random(seed)
    with open_port(port) as opened:
        device = Device(Link(opened))
        loaded = device.load(image)
        for number in range(8):
            faulty = _Faulty(opened, rng)
            device = Device(Link(faulty))
            faulty.begin()
            batch = device.run(loaded, [loaded.input.place(x) for x in inputs])
            got = np.stack([loaded.output.take(data) for data in batch.outputs])
            assert np.array_equal(got, expected), (number, faulty.fault)
        # Cut off in the middle of a load: the device takes part in nothing until it is whole.
        faulty = _Faulty(opened, rng)
        device = Device(Link(faulty))
        faulty.begin(Fault("vanish"))
        with pytest.raises(DeviceError, match="has gone: unplugged"):
            device.load(image)
        device = Device(Link(opened))
        assert device.loaded() is None
        device.load(image)
        assert device.loaded() == loaded


class _Faulty:
    """A port on which one byte meets with something."""

    def __init__(self, port: object, rng: Random) -> None:
        self._port, self._rng = port, rng
        self._left = {"in": 1 << 60, "out": 1 << 60}
        self.fault = Fault("none")

    def begin(self, fault: Fault | None = None) -> None:
        kind = self._rng.choice(["drop", "double", "flip"])
        self.fault = fault or random_fault(self._rng, kind)
        way = "out" if fault else self._rng.choice(["in", "out"])
        self._left[way] = self._rng.randrange(500)

    @property
    def in_waiting(self) -> int:
        return self._port.in_waiting

    def read(self, size: int) -> bytes:
        return self._through("in", self._port.read(size))

    def write(self, data: bytes) -> int:
        return self._port.write(self._through("out", data))

    def _through(self, way: str, data: bytes) -> bytes:
        at = self._left[way]
        self._left[way] -= len(data)
        if not 0 <= at < len(data):
            return data
        if self.fault.kind == "vanish":
            self._port.write(data[:at])
            raise OSError("unplugged")
        middle = {
            "drop": b"",
            "double": data[at : at + 1] * 2,
            "flip": bytes([data[at] ^ 1 << self.fault.amount % 8]),
        }[self.fault.kind]
        return data[:at] + middle + data[at + 1 :]


@pytest.mark.slow
def test_litex_speaks_with_the_device(port: str, seed: int) -> None:
    """LiteX's own client of the protocol: registers, memories, the lock, a run."""
    image, inputs, expected = small(seed)
    signal.alarm(300)  # It waits for answers without end.
    client = CommUART(port, 1_000_000)
    try:
        assert client.read(AT["IDENTITY"], 4) == [
            *(IDENTITY, version(), geometry(CONFIG), CONFIG.digest)
        ]
        payload = np.frombuffer(image.payload, "<u4").tolist()
        client.write(AT["LOCK"], UNLOCK)
        client.write(COEFFICIENTS, payload)
        client.write(AT["LOCK"], 0)
        for first in range(0, len(payload), 100):
            part = payload[first : first + 100]
            assert client.read(COEFFICIENTS + 4 * first, len(part)) == part
        device_map = {key: image.metadata[key] for key in ("input", "output")}
        for x, y in zip(inputs, expected, strict=True):
            placed = Map.from_report(device_map["input"]).place(x)
            at = ACTIVATIONS + device_map["input"]["address"]
            client.write(at, np.frombuffer(placed + bytes(-len(placed) % 4), "<u4").tolist())
            client.write(AT["CONTROL"], 1)
            while client.read(AT["STATUS"]) & BUSY:
                pass
            assert client.read(AT["STATUS"]) == DONE | LOCKED
            words = client.read(ACTIVATIONS + device_map["output"]["address"], 3)
            got = np.array(words, "<u4").view(np.int8)[: y.size]
            assert np.array_equal(got, y.reshape(-1))
    finally:
        client.close()
        signal.alarm(0)


@pytest.mark.slow
def test_a_simulator_does_not_outlive_its_parent(tmp_path: Path) -> None:
    ready = tmp_path / "a.json"
    process = subprocess.Popen(
        insitu("serve", "--config", CONFIG.name, "--json", ready),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    began = time.monotonic()
    while not ready.exists() and time.monotonic() - began < START_S:
        time.sleep(0.1)
    port = json.loads(ready.read_text())["port"]
    process.kill()
    process.wait()
    began = time.monotonic()
    while Path(port).exists() and time.monotonic() - began < 20:
        time.sleep(0.1)
    assert not Path(port).exists()


def test_levels() -> None:
    assert set(SimulatedBoard(CONFIG, "bit").signature.members) == {"rx", "tx"}
    assert "to_byte" in SimulatedBoard(CONFIG, "byte").signature.members
    assert LEVELS == ("byte", "bit")
    with pytest.raises(ValueError, match="level must be one of byte, bit, not 'word'"):
        SimulatedBoard(CONFIG, "word")
