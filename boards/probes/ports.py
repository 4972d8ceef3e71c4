"""What the ports of the accelerator take, placed by themselves on the smallest devices.

python -m boards.probes.ports
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rtl.axi_lite import AxiLiteBridge
from rtl.stream_port import StreamPort

from .harness import placed

PORTS = {"axi-lite": AxiLiteBridge, "stream": StreamPort}


def main() -> None:
    """Place them and write what they take."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    for family in ("ice40", "ecp5"):
        for name, port in PORTS.items():
            folder = Path("build/probes") / f"{name}-{family}"
            blocks, fmax = placed(port(), family, folder, seeds=options.seeds)
            cells = {
                kind: sum(blocks.get(part, {}).get(kind, 0) for part in blocks if part != "top")
                for kind in ("lc", "lut", "ff")
            }
            sys.stdout.write(f"{name}, {family}: {cells}, {fmax} MHz\n")


if __name__ == "__main__":
    main()
