"""Faults of the link: a retry succeeds or a clear error ends it; no wrong answer, no hang.

Every step of every trial runs against the model of a device whose answers hang on every bit of its
memories, and whose second run on one input gives another answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from insitu.device import Device
from insitu.errors import DeviceError
from insitu.link import PATIENCE_S, Link
from rtl.config import CONFIGURATIONS
from rtl.registers import ACTIVATIONS, STATUS_BITS
from tests.insitu import fake_device
from tests.insitu.fake_device import FakeDevice, FakePort, Fault, answer, image, random_fault

CONFIG = CONFIGURATIONS["up5k"]
IDLE = 1 << STATUS_BITS["locked"].number
DONE = IDLE | 1 << STATUS_BITS["done"].number
KINDS = ["drop", "double", "flip", "late", "reset", "vanish"]
WEIGHTS = [6, 6, 6, 4, 2, 1]
SAMPLES = 3
BYTES = 1100
"""About what goes over the line each way when nothing happens."""


class Trial:
    """A device, what to load and run, and how that ended."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.image = image(rng, words=rng.randint(20, 60))
        took = rng.choice([5, 500, 20_000])

        def engine(coefficients: bytearray, activations: bytearray) -> int:
            fake_device.engine(coefficients, activations)
            return took

        self.device = FakeDevice(CONFIG, engine, Random(rng.random()))
        self.retries = 0

    def run(self, port: FakePort) -> str:
        """Load and run: "right", or the error."""
        try:
            outputs = self._run(port)
        except DeviceError as error:
            return error.cause
        finally:
            assert port.now() < 600 * PATIENCE_S
        assert outputs == self.expected, "a wrong answer was reported as right"
        return "right"

    def _run(self, port: FakePort) -> list[bytes]:
        device = Device(Link(port, now=port.now))
        loaded = device.load(self.image)
        inputs = [self.rng.randbytes(loaded.input.size) for _ in range(SAMPLES)]
        self.expected = [answer(self.image.payload, x, loaded.output.size) for x in inputs]
        outputs = device.run(loaded, inputs).outputs
        self.retries = device.retries
        return list(outputs)


def some_faults(rng: Random) -> dict[tuple[str, int], Fault]:
    """One to four faults, anywhere or close to each other."""
    count = rng.randint(1, 4)
    centre, spread = rng.randrange(BYTES), rng.choice([30, BYTES])
    faults = {}
    for _ in range(count):
        at = (centre + rng.randrange(spread)) % (BYTES + 100)
        (kind,) = rng.choices(KINDS, WEIGHTS)
        faults[rng.choice(["in", "out"]), at] = random_fault(rng, kind)
    return faults


def campaign(seed: int, faults: int) -> Counter[str]:
    """Trials with so many faults in all; how they ended."""
    ends: Counter[str] = Counter()
    done = number = 0
    while done < faults:
        trial = Trial(seed + number)
        these = some_faults(trial.rng)
        try:
            end = trial.run(FakePort(trial.device, these))
        except AssertionError as error:
            raise AssertionError(f"seed {seed + number}, {these}: {error}") from None
        ends["right" if end == "right" else "refused"] += 1
        number += 1
        done += len(these)
    return ends


def test_no_fault() -> None:
    trial = Trial(0)
    assert trial.run(FakePort(trial.device)) == "right"
    assert trial.retries == 0
    assert trial.device.runs == SAMPLES


@pytest.mark.parametrize("part", range(4))
def test_hundreds_of_faults(part: int, seed: int) -> None:
    ends = campaign(seed, 200)
    assert ends["right"] > ends["refused"] > 0, ends


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_faults(part: int, seed: int) -> None:
    ends = campaign(seed, 1000)
    assert ends["right"] > ends["refused"] > 0, ends


@pytest.mark.parametrize("kind", ["drop", "double", "flip"])
@pytest.mark.parametrize("way", ["in", "out"])
def test_one_byte_anywhere_is_made_good(kind: str, way: str, seed: int) -> None:
    """A fault of one byte, wherever it is, never ends in an error."""
    step = 7
    for at in range(seed % step, BYTES, step):
        trial = Trial(seed)
        fault = random_fault(trial.rng, kind)
        assert trial.run(FakePort(trial.device, {(way, at): fault})) == "right", (at, fault)


@pytest.mark.parametrize("kind", ["drop", "double", "flip", "late"])
@pytest.mark.parametrize("probability", [0.0003, 0.01, 0.3])
def test_noise_without_end(kind: str, probability: float, seed: int) -> None:
    ends = Counter()
    for number in range(20):
        trial = Trial(seed + number)
        port = FakePort(trial.device, noise={kind: probability})
        ends[trial.run(port) == "right"] += 1
    if probability < 0.001:
        assert ends[True] >= 15, ends
    if probability > 0.1 and kind != "late":
        assert ends[True] == 0, ends


def _never(self: Device, *_: object) -> bool:
    return True


def _expect(unless: Callable[[int, int | None], bool], status: bool = True) -> Callable[..., None]:
    """`Device._expect`, without some checks of memory, or any of the status."""
    expect = Device._expect

    def instead(self: Device, address: int, data: bytes, wanted: int | None = None) -> None:
        if not unless(address, wanted):
            expect(self, address, data, wanted if status else None)

    return instead


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("holds", _never),
        ("_expect", _expect(lambda address, wanted: address >= ACTIVATIONS and wanted == IDLE)),
        ("_expect", _expect(lambda address, wanted: wanted == DONE)),
        pytest.param("_expect", _expect(lambda *_: False, status=False), marks=pytest.mark.slow),
    ],
    ids=["image", "input", "output", "status"],
)
def test_each_check_is_needed(
    name: str, instead: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a wrong answer is reported as right, and found here."""
    monkeypatch.setattr(Device, name, instead)
    with pytest.raises(AssertionError, match="a wrong answer was reported as right"):
        campaign(0, 10_000)
