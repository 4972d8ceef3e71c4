"""The command line and a device: what its verbs say, write and refuse."""

import json
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest

import boards.board
import boards.program
import insitu.link
import insitu.serve
from insitu import cli
from insitu.flash import flash_contents
from insitu.link import Link
from rtl.config import CONFIGURATIONS
from rtl.registers import SelfLoad
from sim.build import BuildError
from sim.run import SimulationError
from tests.insitu.fake_device import FakeDevice, FakePort, answer, engine, image
from tests.insitu.test_cli import contents, invoke, refused

CONFIG = CONFIGURATIONS["up5k"]
PORT = "/dev/ttyFAKE"
SAMPLES = 4


class Port(FakePort):
    """One that can be closed."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Setup:
    """A folder with an image and inputs, and a device at a port."""

    def __init__(self, folder, seed, monkeypatch):
        rng = Random(seed)
        self.folder, self.image = folder, image(rng)
        self.image.write(folder / "a.image")
        size = self.image.metadata["input"]["shape"][2]
        self.inputs = np.frombuffer(rng.randbytes(SAMPLES * size), np.int8).reshape(-1, 1, 1, size)
        self.outputs = self.expected()
        labels = self.outputs.argmax(axis=1)
        labels[0] += 1
        np.savez(folder / "inputs.npz", inputs=self.inputs, labels=labels)
        np.savez(folder / "plain.npz", inputs=self.inputs)
        self.device = FakeDevice(CONFIG, engine, rng)
        self.port = Port(self.device)
        monkeypatch.setattr(insitu.link, "open_port", self._open)
        monkeypatch.setattr(insitu.link, "Link", partial(Link, now=self.port.now))
        self.rates = []

    def _open(self, name, baud):
        assert name == PORT
        self.rates.append(baud)
        return self.port

    def expected(self):
        size = self.image.metadata["output"]["shape"][2]
        answers = [answer(self.image.payload, x.tobytes(), size) for x in self.inputs]
        return np.array([np.frombuffer(one, np.int8) for one in answers])

    def report(self):
        return json.loads((self.folder / "a.json").read_text())


@pytest.fixture
def setup(tmp_path, seed, monkeypatch):
    return Setup(tmp_path, seed, monkeypatch)


def test_ping(setup):
    result = invoke("ping", "--port", PORT, "--json", setup.folder / "a.json")
    assert result.status == 0, result.errors
    assert "none known" in result.output
    assert setup.report() == {
        "port": PORT,
        "configuration": "up5k",
        "digest": f"{CONFIG.digest:08x}",
        "hardware_version": "0.2",
        "image_format": 1,
        "lanes": 8,
        "width": 1,
        "coefficient_bytes": 65536,
        "activation_bytes": 65536,
        "self_load": "absent",
        "image": None,
        "retries": 0,
    }
    assert setup.rates == [1_000_000]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (SelfLoad.ABSENT, "it loads nothing by itself"),
        (SelfLoad.LOADED, "loaded, checked"),
        (SelfLoad.NONE_FOUND, "no image for this device"),
        (SelfLoad.CRC_WRONG, "the image is damaged: its CRC is wrong"),
    ],
)
def test_ping_tells_of_the_flash(state, text, setup):
    setup.device.self_load = state
    setup.device.reading_until = 500_000
    result = invoke("ping", "--port", PORT, "--json", setup.folder / "a.json")
    assert text in result.output
    assert setup.report()["self_load"] == state.name.lower()
    assert setup.port.time > 500_000, "it waits until the flash is read"
    assert setup.report()["retries"] == 0


def test_load(setup):
    arguments = ("load", setup.folder / "a.image", "--port", PORT, "--baud", 115_200)
    result = invoke(*arguments, "--json", setup.folder / "a.json")
    assert result.status == 0, result.errors
    assert setup.rates == [115_200]
    assert setup.device.memories[0].startswith(setup.image.payload)
    assert setup.report()["image"]["network"] == "fake"
    assert "fake, " in invoke("ping", "--port", PORT).output


@pytest.mark.parametrize("named", [False, True])
def test_infer(named, setup):
    """With what is loaded; or with an image, which is loaded the first time only."""
    files = ("--inputs", setup.folder / "inputs.npz", "-o", setup.folder / "out.npz")
    arguments = ("infer", "--port", PORT, *files, "--json", setup.folder / "a.json")
    if named:
        arguments += (setup.folder / "a.image",)
        assert "loading" in invoke(*arguments).errors
    else:
        invoke("load", setup.folder / "a.image", "--port", PORT)
    result = invoke(*arguments)
    assert result.status == 0, result.errors
    assert "loading" not in result.errors
    assert "75.00%" in result.output
    report = setup.report()
    assert (report["samples"], report["accuracy"], report["retries"]) == (4, 0.75, 0)
    assert report["classes"] == setup.outputs.argmax(axis=1).tolist()
    assert report["frames_per_second"]["compute"] == round(CONFIG.clock_hz / report["cycles"], 1)
    rate = SAMPLES / report["seconds"]
    assert report["frames_per_second"]["end_to_end"] == pytest.approx(rate, rel=0.05)
    with np.load(setup.folder / "out.npz") as saved:
        assert np.array_equal(saved["outputs"].reshape(SAMPLES, -1), setup.outputs)


def test_infer_some_without_labels(setup):
    files = ("--inputs", setup.folder / "plain.npz", "--json", setup.folder / "a.json")
    arguments = ("infer", setup.folder / "a.image", "--port", PORT, "--samples", 2)
    result = invoke(*arguments, *files)
    assert result.status == 0, result.errors
    assert setup.report()["samples"] == 2
    assert "accuracy" not in setup.report()


def test_infer_with_nothing_loaded(setup):
    result = invoke("infer", "--port", PORT, "--inputs", setup.folder / "inputs.npz")
    assert result.status == 1
    assert "no image that it could name" in result.errors
    assert "insitu load IMAGE" in result.errors
    assert not result.output


def test_device_that_does_not_answer(setup):
    setup.device.receive = lambda byte, at: None
    before = contents(setup.folder)
    for verb in (("ping",), ("load", setup.folder / "a.image")):
        result = invoke(*verb, "--port", PORT, "--json", setup.folder / "a.json")
        assert result.status == 1
        assert "0 of 16 bytes came" in result.errors
        assert not result.output
        assert contents(setup.folder) == before


def test_bad_files(setup):
    folder = setup.folder
    invoke("load", folder / "a.image", "--port", PORT)
    infer = ("infer", "--port", PORT, "--inputs")
    refused(folder, *infer, folder / "no.npz", cause="does not exist")
    refused(folder, *infer, folder / "plain.npz", "--samples", 9, cause="hold 4 samples, not 9")
    refused(folder, *infer, folder / "plain.npz", folder / "no.image", cause="does not exist")
    refused(folder, *infer, folder / "plain.npz", "-o", folder, cause="is a folder")
    refused(folder, "load", folder / "plain.npz", "--port", PORT, cause="is not an insitu image")
    refused(folder, "ping", "--port", PORT, "--json", folder / "no" / "a", cause="no folder")


def test_inputs_are_read_before_an_image_is_loaded(setup):
    arguments = ("infer", setup.folder / "a.image", "--port", PORT, "--inputs")
    refused(setup.folder, *arguments, setup.folder / "no.npz", cause="does not exist")
    result = invoke("infer", "--port", PORT, "--inputs", setup.folder / "plain.npz")
    assert "no image that it could name" in result.errors


def test_image_for_another_device(setup, monkeypatch):
    other = Setup(setup.folder, 1, monkeypatch)
    other.device.config = CONFIGURATIONS["ecp5-45f"]
    for verb in ("load", "infer"):
        more = ("--inputs", setup.folder / "plain.npz") if verb == "infer" else ()
        arguments = (verb, setup.folder / "a.image", "--port", PORT, *more)
        refused(setup.folder, *arguments, cause="is for up5k", next_step="--config ecp5-45f")


def test_no_such_port(tmp_path):
    arguments = ("ping", "--port", tmp_path / "no", "--json", tmp_path / "a.json")
    refused(tmp_path, *arguments, cause="cannot be opened at 1000000 baud")


def test_one_rate_by_default():
    assert cli.DEFAULT_BAUD == insitu.link.BAUD == boards.board.BAUD


# --- serve ---


@pytest.mark.parametrize("flash", [False, True])
def test_serve(flash, tmp_path, seed, monkeypatch):
    made = image(Random(seed))
    made.write(tmp_path / "a.image")
    options = ("--flash", tmp_path / "a.image") if flash else ()
    held = flash_contents(made, CONFIG) if flash else None

    monkeypatch.setattr(insitu.serve, "board", lambda config, level, self_load: None)

    (tmp_path / "b.json").write_text("of another run")
    (tmp_path / "a.json").symlink_to("b.json")

    def run(config, level, *, flash, ready):
        assert (config.name, level, flash) == ("up5k", "bit", held)
        assert not (tmp_path / "a.json").exists()
        ready("/dev/pts/9")
        raise KeyboardInterrupt

    monkeypatch.setattr(insitu.serve, "run", run)
    arguments = ("serve", "--config", "up5k", "--level", "bit", "--json", tmp_path / "a.json")
    result = invoke(*arguments, *options)
    assert result.status == 0, result.errors
    assert "insitu ping --port /dev/pts/9" in result.output
    report = json.loads((tmp_path / "b.json").read_text())
    assert (report["port"], report["configuration"]) == ("/dev/pts/9", "up5k")


def test_serve_refuses(tmp_path, seed, monkeypatch):
    image(Random(seed)).write(tmp_path / "a.image")
    arguments = ("serve", "--config", "ecp5-25f", "--flash", tmp_path / "a.image")
    refused(tmp_path, *arguments, cause="is for up5k", next_step="--config ecp5-25f")
    refused(tmp_path, "serve", "--config", "x9", cause="'x9'", next_step="up5k")
    arguments = ("serve", "--config", "up5k")
    refused(tmp_path, *arguments, "--level", "word", cause="'word'", next_step="byte, bit")

    def broken(*_, **__):
        raise BuildError("no compiler")

    monkeypatch.setattr(insitu.serve, "board", broken)
    refused(tmp_path, *arguments, cause="no compiler", next_step="g++")

    def dies(*_, **__):
        raise SimulationError("segmentation fault")

    monkeypatch.setattr(insitu.serve, "board", lambda config, level, self_load: None)
    monkeypatch.setattr(insitu.serve, "run", dies)
    result = invoke(*arguments)
    assert result.status == 1
    assert "segmentation fault" in result.errors


# --- program ---


def test_program(tmp_path, monkeypatch):
    seen = []

    def write(board, bitstream, *, folder, flash):
        seen.append((board.name, bitstream, flash))
        return bitstream or folder / "a.bin"

    monkeypatch.setattr(boards.program, "program", write)
    result = invoke("program", "--board", "icebreaker")
    assert result.status == 0, result.errors
    assert "Programmed icebreaker" in result.output
    arguments = ("program", "--board", "ulx3s-45f", "--flash", "--bitstream", tmp_path / "a")
    assert invoke(*arguments).status == 0
    assert seen == [("icebreaker", None, False), ("ulx3s-45f", Path(tmp_path / "a"), True)]


def test_program_image(setup, monkeypatch):
    seen = []
    monkeypatch.setattr(
        boards.program, "program_image", lambda board, contents: seen.append((board, contents))
    )
    arguments = ("program", "--board", "icebreaker", "--image", setup.folder / "a.image")
    result = invoke(*arguments)
    assert result.status == 0, result.errors
    assert "to the flash of icebreaker" in result.output
    assert seen == [(boards.BOARDS["icebreaker"], flash_contents(setup.image, CONFIG))]
    for more in ("--flash", "--bitstream=a.bin"):
        refused(setup.folder, *arguments, more, cause="--image is written without a bitstream")
    arguments = ("program", "--board", "ulx3s-25f", "--image", setup.folder / "a.image")
    refused(setup.folder, *arguments, cause="is for up5k", next_step="--config ecp5-25f")


def test_program_refuses(tmp_path):
    refused(tmp_path, "program", "--board", "arty", cause="no board named 'arty'")
    arguments = ("program", "--board", "icebreaker", "--bitstream", tmp_path / "no.bin")
    refused(tmp_path, *arguments, cause="no bitstream", next_step="insitu build --board icebreaker")
    assert "Example: insitu program" in invoke("program", "--help").output
