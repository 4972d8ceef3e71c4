"""What goes into a flash, against the layout of docs/host.md, written here a second time."""

from __future__ import annotations

from random import Random

import pytest

from insitu.device import Device
from insitu.errors import ImageError
from insitu.flash import flash_contents
from insitu.link import Link
from rtl.config import CONFIGURATIONS
from rtl.registers import SelfLoad
from sim.board import flash_bytes, serve
from tests.insitu.fake_device import FakeDevice, FakePort, engine, image
from tests.rtl.flash import contents

CONFIG = CONFIGURATIONS["up5k"]


def test_contents_are_what_a_host_leaves_in_the_memory(seed: int) -> None:
    rng = Random(seed)
    made = image(rng)
    device = FakeDevice(CONFIG, engine, rng)
    device.memories[0][:] = bytes(CONFIG.coefficient_bytes)
    port = FakePort(device)
    Device(Link(port, now=port.now)).load(made)
    got = flash_contents(made, CONFIG)
    assert got == contents(CONFIG, bytes(device.memories[0]))
    assert len(got) == flash_bytes(CONFIG)


def test_a_device_that_loaded_it_says_what_it_is(seed: int) -> None:
    rng = Random(seed)
    made = image(rng)
    device = FakeDevice(CONFIG, engine, rng)
    device.memories[0][:] = flash_contents(made, CONFIG)[28:-44]
    device.self_load = SelfLoad.LOADED
    port = FakePort(device)
    host = Device(Link(port, now=port.now))
    loaded = host.loaded()
    assert host.self_load == SelfLoad.LOADED
    assert loaded is not None
    assert loaded.network == "fake"
    inputs = rng.randbytes(loaded.input.span)
    assert host.run(loaded, [inputs]).outputs


def test_an_image_for_another_configuration() -> None:
    with pytest.raises(ImageError, match="is for up5k"):
        flash_contents(image(Random(1)), CONFIGURATIONS["ecp5-25f"])


def test_a_flash_of_another_length_is_not_served() -> None:
    with pytest.raises(ValueError, match=r"flash must have 65608 bytes, not 3"):
        serve(CONFIG, flash=b"abc", ready=lambda port: None)
