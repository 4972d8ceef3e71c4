"""Prove the assertions of a block with yowasp-sby and z3.

Write a component that holds the block under proof, free inputs, and ``Assert``/``Assume``
statements from :mod:`amaranth.hdl`; then

    assert prove(Claims()).passed

The proof starts from the initial state; the reset is never pulled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Elaboratable, Module, Value
from amaranth.lib import wiring

from .build import ROOT, BuildError

FORMAL = ROOT / "build" / "formal"

MODES = ("prove", "bmc", "cover")

_SCRIPT = """\
[options]
mode {mode}
depth {depth}
timeout {timeout_s}

[engines]
smtbmc z3

[script]
read_rtlil dut.il
prep -top {name}

[files]
dut.il
"""


@dataclass(frozen=True)
class Proof:
    """How a proof went.

    Attributes
    ----------
    status
        ``PASS``; ``FAIL`` with a counterexample; ``UNKNOWN`` where no counterexample was found but
        the induction did not close at this depth either; ``TIMEOUT``.
    trace
        The counterexample, or the last cover, as a VCD file.
    log
        What the tool said.
    """

    status: str
    trace: Path | None
    log: str

    @property
    def passed(self) -> bool:
        """Whether every assertion holds, or every cover was reached."""
        return self.status == "PASS"


class _Top(Elaboratable):
    """The component under a domain that has no reset for the solver to play with."""

    def __init__(self, component: wiring.Component) -> None:
        self._component = component
        self.domain = ClockDomain("sync", reset_less=True)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains += self.domain
        m.submodules.dut = self._component
        return m


def prove(
    component: wiring.Component, *, mode: str = "prove", depth: int = 20, timeout_s: int = 300
) -> Proof:
    """Prove the assertions in ``component``.

    Parameters
    ----------
    mode
        ``"prove"``: for all time, by induction over ``depth`` cycles. ``"bmc"``: for the first
        ``depth`` cycles. ``"cover"``: that every ``Cover`` can be reached within ``depth`` cycles.
    timeout_s
        Seconds after which to give up.

    Raises
    ------
    BuildError
        The tools could not run the proof.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    name = type(component).__name__
    top = _Top(component)
    ports = [Value.cast(value) for _, _, value in component.signature.flatten(component)]
    source = rtlil.convert(top, name, ports=[top.domain.clk, *ports], emit_src=True)
    FORMAL.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=FORMAL))
    (work / "dut.il").write_text(source)
    script = _SCRIPT.format(mode=mode, depth=depth, timeout_s=timeout_s, name=name)
    (work / "proof.sby").write_text(script)
    done = subprocess.run(
        ["yowasp-sby", "-f", "proof.sby"],
        cwd=work,
        env=_environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    status_file = work / "proof" / "status"
    status = status_file.read_text().split()[0] if status_file.is_file() else "ERROR"
    if status == "ERROR":
        raise BuildError(f"the proof of {name} did not run, see {work}:\n{done.stdout}")
    if status == "PASS" and mode != "cover":
        shutil.rmtree(work)
        return Proof(status, None, done.stdout)
    traces = sorted(work.glob("proof/engine_0/trace*.vcd"))
    return Proof(status, traces[-1] if traces else None, done.stdout)


def _environment() -> dict[str, str]:
    """Where sby finds its parts and the solver: all are programs beside this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    parts = ("yosys", "yosys-smtbmc", "yosys-witness")
    return os.environ | {"PATH": path} | {p.split("-")[-1].upper(): f"yowasp-{p}" for p in parts}
