"""The networks of MLPerf Tiny: every tensor equal to LiteRT's reference kernels.

They are not in the repository. The folder is found through INSITU_MLPERF_TINY, or as
`shared/mlperf_tiny` beside the repository.
"""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from golden.network import Convolution, Stored, run
from insitu.errors import FitError, ModelError
from insitu.import_tflite import import_tflite
from insitu.plan import plan
from insitu.prune import prune
from rtl.config import CONFIGURATIONS
from sim.build import ROOT
from tests.insitu.tflite_models import run_all

FOLDER = Path(os.environ.get("INSITU_MLPERF_TINY", ROOT.parent / "shared" / "mlperf_tiny"))
NETWORKS = {"ic": 14, "ic2": 14, "kws": 11, "vww": 29, "ad": 10}
SHAPES = {
    "ic": (1, 32, 32, 3),
    "ic2": (1, 32, 32, 3),
    "kws": (1, 49, 10, 1),
    "vww": (1, 96, 96, 3),
    "ad": (1, 640),
}

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason=f"no folder {FOLDER}: name one with the networks in INSITU_MLPERF_TINY",
)


def structured(shape):
    """Constants, ramps, a checkerboard and one pixel."""
    values = [np.full(shape, value) for value in (-128, 127, 0)]
    ramps = np.indices(shape)
    values += [
        np.broadcast_to(ramps[axis] * 255 // max(1, shape[axis] - 1) - 128, shape)
        for axis in (0, 1)
    ]
    values.append(ramps.sum(axis=0) % 2 * 255 - 128)
    pixel = np.full(shape, -128)
    pixel[tuple(n // 2 for n in shape)] = 127
    return np.stack([*values, pixel]).astype(np.int8)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor(name, seed):
    path = FOLDER / f"{name}_int8.tflite"
    made = import_tflite(path)
    network = made.network
    assert len(network.layers) == NETWORKS[name]
    rng = np.random.default_rng(seed)
    random = rng.integers(-128, 128, (4, *network.input_shape)).astype(np.int8)
    narrow = (network.input_zero_point + rng.integers(-6, 7, random.shape)).clip(-128, 127)
    x = np.concatenate([random, narrow.astype(np.int8), structured(network.input_shape)])
    outputs = run(network, x, keep=True)
    model = path.read_bytes()
    for number, sample in enumerate(x):
        tensors = run_all(model, sample.reshape(SHAPES[name]))
        for layer, output in zip(network.layers, outputs, strict=True):
            np.testing.assert_array_equal(
                output[number].reshape(-1),
                tensors[made.tensors[layer.name]].reshape(-1),
                f"seed {seed}, sample {number}, layer {layer.name}",
            )


def test_dead_channels_of_vww_are_folded():
    made = import_tflite(FOLDER / "vww_int8.tflite")
    folded = [note for note in made.notes if "are constant" in note]
    assert len(folded) == 13
    for layer in made.network.layers:
        if isinstance(layer, Convolution):
            assert np.abs(layer.bias.astype(np.int64)).max() < 1 << 26, layer.name


@pytest.mark.parametrize("name", NETWORKS)
def test_float_networks_are_refused(name):
    # That of KWS keeps the weights of its convolutions as int8.
    cause = "a hybrid model" if name == "kws" else "is float32, not int8"
    with pytest.raises(ModelError, match=cause) as error:
        import_tflite(FOLDER / f"{name}_float32.tflite")
    assert "full int8" in error.value.next_step


def test_the_autoencoder_can_be_planned():
    network = import_tflite(FOLDER / "ad_int8.tflite").network
    assert len(plan(network, CONFIGURATIONS["sim-8x1"]).layers) == NETWORKS["ad"]


FITS = {
    "ic": ["ecp5-85f"],
    "ic2": [],
    "kws": ["up5k", "ecp5-25f", "ecp5-45f", "ecp5-85f"],
    "vww": [],
    "ad": ["ecp5-85f"],
}

FITS_PRUNED = [("vww", "up5k"), ("vww", "ecp5-45f"), ("vww", "ecp5-85f")]
"""Where a network fits without the channels that do not matter, and not with them."""


@pytest.mark.parametrize("name", FITS)
def test_boards_that_hold_a_network_at_8_bits(name):
    network = import_tflite(FOLDER / f"{name}_int8.tflite").network
    for config in CONFIGURATIONS.values():
        if config.family == "sim" or config.name in FITS[name]:
            plan(network, config)
            continue
        with pytest.raises(
            FitError, match=r"needs (at least )?\d+ bytes of .* bytes are missing"
        ) as error:
            plan(network, config)
        told = f"{error.value.cause}; {error.value.next_step}"
        assert re.search(r"bits a weight|% smaller|in bands of rows, \d+ as a whole", told)
        assert all(other in error.value.next_step for other in [*FITS[name], "sim-8x1"])
        assert ("--prune" in error.value.next_step) == ((name, config.name) in FITS_PRUNED)


MISFITS = {
    ("ic2", "up5k"): (425_504, "conv_9", 0, 1),
    ("ic2", "ecp5-25f"): (9_728, "conv_2", None, None),
    ("ic2", "ecp5-45f"): (439_936, "conv_9", 0, 1),
    ("ic2", "ecp5-85f"): (220_288, "conv_9", 4, 2),
    ("ic", "up5k"): (16_796, "conv_9", 6, 2),
    ("ic", "ecp5-25f"): (18_928, "conv_9", 6, 2),
    ("vww", "up5k"): (179_600, "conv_26", 1, 0),
}
"""Bytes that are missing, the layer, and the largest precision and rank Bi that fit: 0 where none
does, None where they are of no help."""


@pytest.mark.parametrize(("name", "board"), MISFITS)
def test_what_is_missing_and_what_would_fit(name, board):
    missing, layer, bits, terms = MISFITS[name, board]
    network = import_tflite(FOLDER / f"{name}_int8.tflite").network
    config = CONFIGURATIONS[board]
    with pytest.raises(FitError) as error:
        plan(network, config)
    cause, advice = error.value.cause, error.value.next_step
    assert f"{missing} bytes are missing" in cause
    assert f"layer {layer!r}" in cause or f"layer, {layer!r}" in cause
    if bits is None:
        assert re.search(r"must be \d+% smaller, whatever the rank and precision", advice)
        return
    assert bool(bits) == bool(re.search(r"(\d) bits? for each of its coefficients", advice))
    assert bool(terms) == (f"kernels of rank Bi {terms} " in advice)
    if not bits:
        return
    assert f"{bits} bit" in advice
    plan(narrowed(network, bits), config)
    with pytest.raises(FitError, match="of coefficient memory"):
        plan(narrowed(network, bits + 1), config)


def narrowed(network, bits):
    """The network with its weights divided to so many bits."""
    most = max(1, 2 ** (bits - 1) - 1)

    def narrow(layer):
        if not isinstance(layer, Convolution):
            return layer
        W = np.round(layer.weights.W / 127 * most).astype(np.int8)
        W = np.where(layer.weights.W < 0, -1, 1).astype(np.int8) if bits == 1 else W
        return replace(layer, weights=Stored(W=W, q=bits))

    return replace(network, layers=tuple(narrow(layer) for layer in network.layers))


def test_most_of_vww_can_be_pruned(seed):
    network = import_tflite(FOLDER / "vww_int8.tflite").network
    pruned = prune(network)
    counts = [
        sum(layer.weights.W.size for layer in made.layers if isinstance(layer, Convolution))
        for made in (network, pruned.network)
    ]
    assert counts == [208_112, 29_066]
    rng = np.random.default_rng(seed)
    random = rng.integers(-128, 128, (20, *network.input_shape)).astype(np.int8)
    x = np.concatenate([random, structured(network.input_shape)])
    whole, left = run(network, x, keep=True), run(pruned.network, x, keep=True)
    for layer, a, b in zip(network.layers, whole, left, strict=True):
        np.testing.assert_array_equal(a[..., pruned.kept[layer.name]], b, layer.name)
