"""Runs blocks of ``rtl`` under cocotb on Verilator; see :mod:`sim.bench` for a testbench's form."""

from .bench import Bench, testbench
from .bits import decode, encode, pack, pack_rows, unpack, unpack_rows
from .build import Build, BuildError, build, build_verilog
from .patterns import PATTERNS, bursts, never, randomly
from .run import Run, SimulationError, run
from .scoreboard import compare
from .streams import StreamMonitor, StreamRuleError, StreamSink, StreamSource, intervals
from .wishbone import WishboneError, WishboneMaster

__all__ = [
    "PATTERNS",
    "Bench",
    "Build",
    "BuildError",
    "Run",
    "SimulationError",
    "StreamMonitor",
    "StreamRuleError",
    "StreamSink",
    "StreamSource",
    "WishboneError",
    "WishboneMaster",
    "build",
    "build_verilog",
    "bursts",
    "compare",
    "decode",
    "encode",
    "intervals",
    "never",
    "pack",
    "pack_rows",
    "randomly",
    "run",
    "testbench",
    "unpack",
    "unpack_rows",
]
