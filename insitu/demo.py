"""The main job: the example network on generated weights, from its files to the RTL's answers.

The compressed network is compiled for `up5k`, judged on the images that come with it, and simulated
image by image on the RTL with every layer's output compared. Then, on `sim-8x1`, whose memory ports
hide nothing, its speed is set against that of the same network with its weights stored, and with
the intra level alone.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.network import Convolution, Generated, Network, Stored, run
from insitu import __version__
from insitu.errors import FileError
from insitu.import_onnx import import_onnx
from insitu.network import load
from insitu.pack import make_image
from insitu.plan import Plan, plan
from insitu.progress import Progress
from insitu.quantise import load_inputs, quantise_inputs
from insitu.simulate import Simulation, prepare, simulate_image
from rtl.config import configuration

__all__ = ["EXAMPLE", "demo", "intra_only", "stored"]

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "fashion"
DEVICE = "up5k"
COMPARISON = "sim-8x1"

_BATCH = 50
"""Images of the floating-point network at a time."""


def demo(
    *, samples: int = 16, example: Path = EXAMPLE, progress: Progress | None = None
) -> dict[str, Any]:
    """Run the demonstration.

    Parameters
    ----------
    samples : int, optional
        Images to simulate.
    example : path, optional
        The folder with `fashion.onnx`, `fashion_compressed.npz` and `fashion500.npz`.
    progress : callable, optional

    Returns
    -------
    dict
        Plain data: what `build/demo.json` holds.

    Raises
    ------
    InsituError
        If a file is missing or damaged, or the network does not fit.
    DeviceError
        If a device reports an error or does not come to an end.
    """
    tell = progress or (lambda done, total, what: None)
    started = time.monotonic()
    if not example.is_dir():
        raise FileError(
            f"the example's folder {example} does not exist",
            "run the demo from a clone, with insitu installed by `make demo`",
        )
    floating = import_onnx(example / "fashion.onnx")
    network = load(example / "fashion_compressed.npz", floating.input_shape)
    images, found = load_inputs(example / "fashion500.npz", network.input_shape, labels=True)
    labels = np.asarray(found)
    inputs = quantise_inputs(images, network.input_scale, network.input_zero_point)

    right, right_float = [], []
    for first in range(0, len(images), _BATCH):
        tell(first, len(images), "accuracy on all images")
        part = slice(first, first + _BATCH)
        right.append(_classes(run(network, inputs[part])) == labels[part])
        right_float.append(_classes(floating.run(images[part])) == labels[part])

    planned = plan(network, configuration(DEVICE), name=example.name)
    device = simulate_image(
        make_image(planned), inputs[:samples], layers=True, network=network, progress=progress
    )
    speed = _speed(network, inputs[:1], tell)
    mismatches = device.mismatches + sum(figures["mismatches"] for figures in speed.values())
    return {
        "insitu": __version__,
        "network": example.name,
        "configuration": DEVICE,
        "samples": device.samples,
        "values": device.values,
        "mismatches": mismatches,
        "first_mismatch": device.first,
        "accuracy": float(np.mean(np.concatenate(right))),
        "accuracy_float": float(np.mean(np.concatenate(right_float))),
        "images": len(images),
        "weights": planned.dense_int8_bytes,
        "weight_bytes": -(-planned.weight_bits // 8),
        "dense_int8_bytes": planned.dense_int8_bytes,
        "payload_bytes": len(make_image(planned).payload),
        "activation_bytes": planned.activation_bytes,
        "cycles": device.cycles,
        "predicted_cycles": device.predicted,
        "ideal_cycles": device.ideal,
        "clock_mhz": planned.configuration.clock_hz / 1e6,
        "inferences_per_second": round(planned.configuration.clock_hz / device.cycles, 1),
        "generated": _generated(planned),
        "layers": _layers(planned, device),
        "speed": {"configuration": COMPARISON, **speed},
        "seconds": round(time.monotonic() - started, 1),
    }


def _classes(outputs: NDArray[Any]) -> NDArray[np.int64]:
    return outputs.reshape(len(outputs), -1).argmax(axis=1)


def _generated(planned: Plan) -> dict[str, Any]:
    """What is recovered on chip, and from how much."""
    weights = bits = both = 0
    for one in planned.layers:
        form = one.layer.weights if isinstance(one.layer, Convolution) else None
        if isinstance(form, Generated):
            weights += form.W.size
            bits += one.weight_bits
            both += form.W.size * (form.B is not None and form.V is not None)
    total = planned.dense_int8_bytes
    return {
        "weights": weights,
        "bits": bits,
        "bits_per_weight": round(bits / max(1, weights), 3),
        "share": round(weights / total, 4),
        "share_both_levels": round(both / total, 4),
    }


def _layers(planned: Plan, device: Simulation) -> list[dict[str, Any]]:
    rows = []
    for one, ran in zip(planned.layers, device.layers, strict=True):
        report = one.report(planned.configuration)
        kept = ("kind", "kernel", "precisions", "ranks", "weight_bytes", "dense_int8_bytes")
        rows.append(
            ran.report()
            | {key: report[key] for key in kept if key in report}
            | {
                "weights": one.weights,
                "output": list(one.output.shape),
                "bound": one.cost.bound,
                "error_cycles": ran.cycles - ran.predicted,
            }
        )
    return rows


def _speed(network: Network, inputs: NDArray[np.int8], tell: Progress) -> dict[str, Any]:
    """Cycles of one image on the comparison configuration, by dataflow."""
    config = configuration(COMPARISON)
    variants = {"stored": stored(network), "generated": network, "intra": intra_only(network)}
    images = {name: make_image(plan(net, config)) for name, net in variants.items()}
    done = dict.fromkeys(images, 0)
    prepare(config, tell)

    def go(name: str) -> Simulation:
        def note(now: int, total: int | None, what: str) -> None:
            if total is not None:
                done[name] = now
                tell(sum(done.values()), len(done), what)

        return simulate_image(
            images[name], inputs, network=variants[name], workers=1, progress=note
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(images, pool.map(go, images), strict=True))
    return {
        name: {
            "cycles": result.cycles,
            "ideal_cycles": result.ideal,
            "ratio": round(result.cycles / result.ideal, 4),
            "predicted_cycles": result.predicted,
            "mismatches": result.mismatches,
        }
        for name, result in results.items()
    }


def _with_weights(
    network: Network, change: Callable[[Stored | Generated], Stored | Generated]
) -> Network:
    layers = tuple(
        replace(layer, weights=change(layer.weights)) if isinstance(layer, Convolution) else layer
        for layer in network.layers
    )
    return replace(network, layers=layers)


def stored(network: Network) -> Network:
    """The same network with the same weights, stored at 8 bits."""
    return _with_weights(network, lambda weights: Stored(weights.W, 8))


def intra_only(network: Network) -> Network:
    """A network of the same shapes with basis kernels for kernels: no cross level."""

    def change(weights: Stored | Generated) -> Stored | Generated:
        if isinstance(weights, Stored) or weights.B is None or weights.V is None:
            return weights
        kernel = np.arange(len(weights.V)) % len(weights.U)
        return Generated(
            U=weights.U[kernel],
            B=weights.B[kernel],
            qu=weights.qu,
            qb=weights.qb,
            s1=weights.s1,
            code=weights.code,
        )

    return _with_weights(network, change)
