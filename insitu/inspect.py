"""What a model holds, as figures: layers, weights, work, and how it fits a configuration."""

import math
from typing import Any

from golden.network import INPUT, Convolution, Layer, shapes
from insitu.errors import FitError
from insitu.memory_map import memory
from insitu.models import Model
from insitu.plan import plan
from rtl.config import Configuration

__all__ = ["inspect"]


def inspect(model: Model, configuration: Configuration | None = None) -> dict[str, Any]:
    """The figures of a model.

    Parameters
    ----------
    model : Model
    configuration : Configuration, optional
        What to plan it for.

    Returns
    -------
    dict
        Plain data. `activation_bytes` is the most that the maps which some later layer still reads
        take together. With a configuration, `plan` is its report and `memory` says what lies where,
        or `misfit` says why there is none.
    """
    network = model.network
    sizes = dict(
        zip([INPUT, *(layer.name for layer in network.layers)], shapes(network), strict=True)
    )
    layers = [_layer(layer, sizes) for layer in network.layers]
    report: dict[str, Any] = {
        "model": str(model.path),
        "input": list(network.input_shape),
        "layers": layers,
        "weights": sum(layer["weights"] for layer in layers),
        "weight_bytes": -(-sum(layer["weight_bits"] for layer in layers) // 8),
        "macs": sum(layer["macs"] for layer in layers),
        "activation_bytes": _activations(network.layers, sizes),
        "notes": list(model.notes),
    }
    if configuration is not None:
        report["configuration"] = configuration.name
        try:
            report["plan"] = plan(network, configuration, name=model.path.stem).report()
        except FitError as error:
            report["misfit"] = {"cause": error.cause, "next": error.next_step}
        else:
            report["memory"] = memory(report["plan"])
    return report


def _layer(layer: Layer, sizes: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
    output = sizes[layer.name]
    values: dict[str, Any] = {
        "name": layer.name,
        "kind": layer.kind,
        "inputs": list(layer.inputs),
        "output": list(output),
        "weights": 0,
        "weight_bits": 0,
        "bits": 0,
        "macs": 0,
    }
    if isinstance(layer, Convolution):
        co, ci, taps = layer.weights.shape
        bits = sum(layer.weights.bits.values())
        values |= {
            "kind": _kind(layer, sizes[layer.inputs[0]], output),
            "weights": co * ci * taps,
            "weight_bits": bits,
            "bits": round(bits / (co * ci * taps), 2),
            "macs": output[0] * output[1] * co * ci * taps,
        }
    return values


def _kind(layer: Convolution, source: tuple[int, int, int], output: tuple[int, int, int]) -> str:
    if layer.groups == layer.input_channels and layer.groups > 1:
        return "depthwise"
    if layer.groups > 1:
        return f"{layer.groups} groups"
    if output[:2] == (1, 1) and layer.kernel == source[:2]:
        return "fully connected"
    return "pointwise" if layer.kernel == (1, 1) else layer.kind


def _activations(layers: tuple[Layer, ...], sizes: dict[str, tuple[int, int, int]]) -> int:
    """Most bytes of maps that are needed at a time, run layer by layer."""
    last = {name: index for index, layer in enumerate(layers) for name in layer.inputs}
    living = {INPUT}
    most = 0
    for index, layer in enumerate(layers):
        living.add(layer.name)
        most = max(most, sum(math.prod(sizes[name]) for name in living))
        living -= {name for name in layer.inputs if last[name] == index}
    return most
