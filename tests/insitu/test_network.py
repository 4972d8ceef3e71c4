"""The network file: what is saved comes back, and every damage is named."""

import dataclasses

import numpy as np
import pytest

from golden.code import Code
from golden.network import Network, Rounding, run
from insitu.errors import FileError, NetworkError
from insitu.network import held_out_accuracy, load, save, to_bytes, training_record
from tests.golden.graphs import every_kind
from tests.insitu.networks import random_generated, random_network, random_stored


@pytest.fixture
def network(seed):
    """One that each version of the file can hold."""
    rng = np.random.default_rng(seed)
    layers = [
        {"weights": random_stored(rng, 4, 3, 9, 5), "kernel": (3, 3), "stride": (2, 1)},
        {"weights": random_generated(rng, 6, 4, 4, terms=2), "kernel": (2, 2)},
        {"weights": random_generated(rng, 9, 6, 2, terms=1, kernels=5), "kernel": (1, 2)},
        {"weights": random_generated(rng, 5, 9, 1, kernels=3), "kernel": (1, 1)},
    ]
    for index, layer in enumerate(layers):
        layer["rounding"] = (Rounding.UP, Rounding.TWICE)[index % 2]
    return random_network(rng, layers, (7, 6, 3))


@pytest.fixture
def arrays(network, tmp_path):
    save(network, tmp_path / "n.npz")
    with np.load(tmp_path / "n.npz", allow_pickle=False) as archive:
        return dict(archive)


def test_the_record_of_training_comes_back(network, tmp_path):
    path = tmp_path / "n.npz"
    save(network, path)
    assert training_record(path) is None
    assert held_out_accuracy(path) is None
    path.write_bytes(to_bytes(network, {"held_out": 91.5}))
    assert training_record(path) == {"held_out": 91.5}
    assert held_out_accuracy(path) == 91.5
    same(load(path), network)
    for damage, message in (("[1]", "is no JSON object"), ("{", "training: "), (5, "a string")):
        with np.load(path) as archive:
            np.savez(tmp_path / "bad.npz", **dict(archive) | {"training": damage})
        with pytest.raises(NetworkError, match=f"is inconsistent.*{message}"):
            training_record(tmp_path / "bad.npz")
    for unknown in ({}, {"held_out": "91.5"}, {"held_out": float("nan")}, {"held_out": 101.0}):
        path.write_bytes(to_bytes(network, unknown))
        assert held_out_accuracy(path) is None


def same(a, b):
    if dataclasses.is_dataclass(a):
        assert type(a) is type(b)
        for field in dataclasses.fields(a):
            same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, tuple) and a and dataclasses.is_dataclass(a[0]):
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        np.testing.assert_array_equal(a, b)


def test_comes_back(network, tmp_path):
    path = tmp_path / "n.npz"
    save(network, path)
    again = load(path)
    assert isinstance(again, Network)
    same(again, network)
    data = path.read_bytes()
    save(again, path)
    assert path.read_bytes() == data
    assert [p.name for p in tmp_path.iterdir()] == ["n.npz"]


def test_powers_of_two_come_back(seed, tmp_path):
    rng = np.random.default_rng(seed)
    weights = random_generated(rng, 6, 3, 4, terms=2, powers=True)
    network = random_network(rng, [{"weights": weights, "kernel": (2, 2)}], (5, 5, 3))
    save(network, tmp_path / "n.npz")
    again = load(tmp_path / "n.npz")
    same(again, network)
    assert again.layers[0].weights.code is Code.POWER_OF_TWO
    with np.load(tmp_path / "n.npz") as archive:
        np.savez(tmp_path / "bad.npz", **dict(archive) | {"L0.code": "ternary"})
    with pytest.raises(NetworkError, match="code must be one of uniform, power-of-two, not 'tern"):
        load(tmp_path / "bad.npz")


def test_graph_comes_back(seed, tmp_path):
    network = every_kind(np.random.default_rng(seed))
    save(network, tmp_path / "n.npz")
    again = load(tmp_path / "n.npz")
    same(again, network)
    assert [layer.inputs for layer in again.layers] == [layer.inputs for layer in network.layers]
    x = np.random.default_rng(seed).integers(-128, 128, (2, 6, 5, 3)).astype(np.int8)
    np.testing.assert_array_equal(run(again, x), run(network, x))


def fourth(arrays):
    """The file as version 4 had it."""
    values = {key: value for key, value in arrays.items() if not key.endswith(".code")}
    return values | {"format": "insitu-network-4"}


def second(arrays):
    """The file as version 2 had it."""
    arrays = fourth(arrays) | {"format": "insitu-network-2"}
    for key in [key for key in arrays if key.endswith(".rounding")]:
        arrays[key.replace("rounding", "double_rounding")] = arrays.pop(key) == "twice"
    return arrays


def old(arrays):
    """The file as version 1 had it."""
    arrays = second(arrays) | {"format": "insitu-network-1"}
    last = int(arrays["n_layers"]) - 1
    arrays[f"L{last}.output_scale"] = arrays.pop("output_scale")
    for key in list(arrays):
        if key.startswith("L") and key.endswith((".inputs", ".kind", ".input_zero_point")):
            del arrays[key]
    return arrays


@pytest.mark.parametrize("before", [fourth, second, old])
def test_older_versions(before, network, arrays, tmp_path):
    np.savez(tmp_path / "old.npz", **before(arrays))
    same(load(tmp_path / "old.npz"), network)


def test_halves_to_even_come_back(tmp_path, seed):
    rng = np.random.default_rng(seed)
    layers = [
        {"weights": random_stored(rng, 2, 3, 1, 8), "kernel": (1, 1), "rounding": Rounding.EVEN}
    ]
    save(random_network(rng, layers, (2, 2, 3)), tmp_path / "n.npz")
    assert load(tmp_path / "n.npz").layers[0].rounding is Rounding.EVEN


def test_older_file_without_shape_or_rounding(arrays, tmp_path):
    path = tmp_path / "n.npz"
    arrays = old(arrays)
    del arrays["input_shape"]
    arrays = {key: value for key, value in arrays.items() if "double_rounding" not in key}
    np.savez(path, **arrays)
    with pytest.raises(NetworkError, match="input_shape is missing"):
        load(path)
    again = load(path, (7, 6, 3))
    assert again.input_shape == (7, 6, 3)
    assert all(layer.rounding is Rounding.UP for layer in again.layers)


def test_any_truncation_is_found(network, tmp_path):
    path = tmp_path / "n.npz"
    save(network, path)
    data = path.read_bytes()
    for size in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:size])
        with pytest.raises(NetworkError, match=r"truncated|corrupt"):
            load(path)


def test_flipped_bytes_are_found_or_harmless(network, tmp_path):
    path = tmp_path / "n.npz"
    save(network, path)
    data = path.read_bytes()
    for position in range(0, len(data), max(1, len(data) // 150)):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            again = load(path)
        except NetworkError:
            continue
        # Time stamps and the like of the archive's directory.
        same(again, network)


BAD = {
    "version": ({"format": "insitu-network-9"}, "has format 'insitu-network-9'"),
    "no format": ({"format": None}, "has no format"),
    "count": ({"n_layers": 0}, "n_layers must be positive"),
    "more layers": ({"n_layers": 5}, "L4.kind is missing"),
    "key": ({"L0.bias": None}, "L0.bias is missing"),
    "no weights": ({"L0.W": None}, "L0.U is missing"),
    "shape": ({"L1.bias": np.zeros(3, np.int32)}, "layer 'layer1': bias must have one element"),
    "kernel shape": ({"L1.kernel": np.array([2, 2, 2])}, r"L1.kernel must have shape \(2,\)"),
    "taps": ({"L1.kernel": np.array([1, 2])}, "must have the 4 taps"),
    "float": ({"L0.W": np.zeros((4, 3, 9))}, "L0.W must be of integers, not float64"),
    "too large": ({"L0.W": np.full((4, 3, 9), 300)}, "L0.W must fit int8"),
    "precision": ({"L0.q": 2}, "W of 2 bits must be in -1..1"),
    "name": ({"L0.name": 3}, "L0.name must be a string"),
    "scale": ({"input_scale": "a"}, "input_scale must be a number"),
    "negative scale": ({"input_scale": -1.0}, "input_scale must be positive"),
    "rounding": ({"L0.rounding": "down"}, "rounding must be one of up, twice, even, not 'down'"),
    "kind": ({"L0.kind": "lstm"}, "L0.kind must be one of add, .*, not 'lstm'"),
    "inputs": ({"L1.inputs": np.array(["none"])}, "reads 'none', which is not before it"),
    "names": ({"L1.inputs": np.array([1])}, "L1.inputs must be a row of strings, not int64"),
    "channels": ({"input_shape": np.array([7, 6, 2])}, "takes 3 channels, not 2"),
    "object": ({"L0.W": np.array([None])}, "truncated, corrupt or not"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case, arrays, tmp_path):
    changes, message = BAD[case]
    path = tmp_path / "bad.npz"
    arrays = {**arrays, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(NetworkError, match=message) as error:
        load(path)
    assert error.value.next_step


def test_missing_file_and_single_array(tmp_path):
    with pytest.raises(FileError, match=r"network .*none.npz does not exist"):
        load(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(NetworkError, match="is a single array"):
        load(tmp_path / "one.npy")


def test_save_to_nowhere(network, tmp_path):
    with pytest.raises(FileError, match="cannot be written"):
        save(network, tmp_path / "no" / "n.npz")
