"""Import of ONNX models, against ONNX Runtime; every refusal names its node."""

import numpy as np
import onnx
import onnxruntime
import pytest

from insitu.errors import FileError, ModelError
from insitu.import_onnx import import_onnx
from tests.insitu.models import chain, example


def imported(model, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return import_onnx(path)


def check_against_runtime(model, tmp_path, rng, n=4):
    network = imported(model, tmp_path)
    height, width, channels = network.input_shape
    rank = len(model.graph.input[0].type.tensor_type.shape.dim)
    shape = (n, channels, height, width) if rank == 4 else (n, channels)
    x = rng.standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, {"x": x})[0]
    y = network.run(x.reshape(n, channels, height, width).transpose(0, 2, 3, 1).astype(float))
    got = y.transpose(0, 3, 1, 2).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    return network


def test_example_computes_what_onnx_runtime_computes(tmp_path, seed):
    rng = np.random.default_rng(seed)
    network = check_against_runtime(example(rng), tmp_path, rng)
    assert network.name == "model"
    assert network.input_shape == (9, 8, 3)
    assert [layer.name for layer in network.layers] == ["Conv0", "Conv2", "Gemm6"]
    assert [(layer.low, layer.high) for layer in network.layers] == [
        (0, np.inf),
        (0, 6),
        (-np.inf, np.inf),
    ]
    assert [layer.dense for layer in network.layers] == [False, False, True]


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_padding_by_name(auto_pad, tmp_path, seed):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((2, 1, 3, 2)).astype(np.float32)
    attributes = {"auto_pad": auto_pad, "strides": [2, 1]}
    model = chain([("Conv", ["w"], attributes)], (1, 8, 5), {"w": weights}, ["N", 2, None, None])
    check_against_runtime(model, tmp_path, rng)


def test_uneven_padding_and_dilation(tmp_path, seed):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((2, 3, 3, 2)).astype(np.float32)
    attributes = {"pads": [0, 2, 1, 3], "dilations": [2, 3], "strides": [1, 2]}
    model = chain([("Conv", ["w"], attributes)], (3, 8, 5), {"w": weights}, ["N", 2, None, None])
    layer = check_against_runtime(model, tmp_path, rng).layers[0]
    assert layer.padding == (0, 2, 1, 3)


def test_vectors_matmul_add_and_reshape(tmp_path, seed):
    rng = np.random.default_rng(seed)
    constants = {
        "w": rng.standard_normal((6, 4)).astype(np.float32),
        "b": rng.standard_normal(4).astype(np.float32),
        "v": rng.standard_normal((3, 4)).astype(np.float32),
        "shape": np.array([-1, 4]),
    }
    nodes = [
        ("MatMul", ["w"], {}),
        ("Add", ["b"], {}),
        ("Relu", [], {}),
        ("Identity", [], {}),
        ("Reshape", ["shape"], {}),
        ("Gemm", ["v"], {"transB": 1}),
    ]
    model = chain(nodes, (6,), constants, ["N", 3])
    network = check_against_runtime(model, tmp_path, rng)
    assert network.input_shape == (1, 1, 6)


def W(*shape):
    return np.ones(shape, np.float32)


CONV = ("Conv", ["w"], {})
REFUSED = {
    "operator": (
        [CONV, ("MaxPool", [], {"kernel_shape": [2, 2]})],
        "node 'MaxPool1' .MaxPool. is an operator that insitu cannot run",
        "use a convolution with a stride",
    ),
    "unknown": ([CONV, ("Erf", [], {})], "node 'Erf1'", "build the model from Conv, Gemm"),
    "softmax": ([CONV, ("Softmax", [], {})], "Softmax", "the largest output stays the largest"),
    "groups": ([("Conv", ["g"], {"group": 2})], "has 2 groups", "an ordinary convolution"),
    "channels": ([("Conv", ["g"], {})], "takes 1 channels, its input has 2", "check the model"),
    "kernel": ([("Conv", ["big"], {})], r"a kernel of \(9, 9\) is larger", "check the model"),
    "branch": ([("Conv", ["w"], {}), ("Add", ["x"], {})], "adds two maps", "residual"),
    "computed weights": ([("Conv", ["x"], {})], "takes its input 'x' from", "constant weights"),
    "flatten": ([CONV, ("Gemm", ["m"], {})], "is not flattened", "put a Flatten before it"),
    "features": (
        [("Flatten", [], {}), ("Gemm", ["m"], {})],
        "takes 7 features, its input has 32",
        "check the model",
    ),
    "axis": ([("Flatten", [], {"axis": 2}), CONV], "from axis 1", "axis=1"),
    "after flatten": ([("Flatten", [], {}), CONV], "follows a Flatten", "before it"),
    "nothing before": ([("Relu", [], {}), CONV], "before the first layer", "put a Conv"),
    "norm after relu": (
        [CONV, ("Relu", [], {}), ("BatchNormalization", ["v", "v", "v", "v"], {})],
        "does not directly follow a Conv",
        "put it before the activation",
    ),
    "variance": (
        [CONV, ("BatchNormalization", ["v", "v", "v", "minus"], {})],
        "variance that is not positive",
        "train it again",
    ),
    "nan": ([("Conv", ["nan"], {})], "infinities or NaN", "train it again"),
    "bias": ([("Conv", ["w", "long"], {})], "'long' of 5 values, not 3", "check the model"),
    "reshape": ([CONV, ("Reshape", ["shape"], {})], "more than flatten", "use Flatten"),
    "transpose": (
        [("Flatten", [], {}), ("Gemm", ["m"], {"transA": 1})],
        "transposes its input",
        "without transA",
    ),
    "limits": ([CONV, ("Clip", ["six", "zero"], {})], "leaves nothing", "check the model"),
}
CONSTANTS = {
    "w": W(3, 2, 1, 1),
    "g": W(4, 1, 1, 1),
    "big": W(3, 2, 9, 9),
    "m": W(7, 3),
    "v": W(3),
    "minus": -W(3),
    "nan": np.full((3, 2, 1, 1), np.nan, np.float32),
    "long": W(5),
    "shape": np.array([1, 2, 24]),
    "six": np.float32(6),
    "zero": np.float32(0),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_named(case, tmp_path):
    nodes, cause, next_step = REFUSED[case]
    with pytest.raises(ModelError, match=cause) as error:
        imported(chain(nodes, (2, 4, 4), CONSTANTS), tmp_path)
    assert next_step in error.value.next_step


def test_branches_are_refused(tmp_path):
    model = chain([CONV, ("Relu", [], {}), ("Relu", [], {})], (2, 4, 4), CONSTANTS)
    model.graph.node[2].input[0] = "t0"
    with pytest.raises(ModelError, match=r"node 'Relu2' \(Relu\) does not read 't1'"):
        imported(model, tmp_path)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, "H", 4)])
def test_input_shape_must_be_fixed(shape, tmp_path):
    nodes = [CONV] if len(shape) != 1 else [("Relu", [], {})]
    with pytest.raises(ModelError, match=r"inputs of shape|before the first layer"):
        imported(chain(nodes, shape, CONSTANTS), tmp_path)


def test_damaged_files_are_named(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / "model.onnx"
    data = example(rng).SerializeToString()
    damaged = [b"", b"hello", rng.bytes(500), data[: len(data) // 2], data[:-1], data[1:]]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ModelError, match="is not an undamaged ONNX model"):
            import_onnx(path)
    with pytest.raises(FileError, match="does not exist"):
        import_onnx(tmp_path / "none.onnx")
