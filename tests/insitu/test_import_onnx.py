"""Import of ONNX models, against ONNX Runtime; every refusal names its node."""

import numpy as np
import onnx
import onnxruntime
import pytest

from insitu.errors import FileError, ModelError
from insitu.float_network import FloatConvolution, FloatPad
from insitu.import_onnx import import_onnx
from insitu.quantise import quantised_network
from tests.insitu.models import branches, chain, example, graph
from tests.insitu.onnx_models import Quantised


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
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
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


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


ANY = ["N", None, None, None]


def test_groups_and_depthwise(tmp_path, seed):
    rng = np.random.default_rng(seed)
    constants = {"g": normal(rng, 6, 2, 3, 3), "d": normal(rng, 12, 1, 3, 2), "b": normal(rng, 12)}
    nodes = [
        ("Conv", ["g"], {"group": 2, "pads": [1, 1, 1, 1]}),
        ("Conv", ["d", "b"], {"group": 6, "strides": [2, 1]}),
    ]
    network = check_against_runtime(chain(nodes, (4, 7, 6), constants, ANY), tmp_path, rng)
    assert [layer.groups for layer in network.layers] == [2, 6]
    assert network.chain is None


def test_residual_block(tmp_path, seed):
    """What two nodes read does not take in what follows."""
    rng = np.random.default_rng(seed)
    norm = ["gain", "offset", "mean", "variance"]
    constants = {
        "a": normal(rng, 5, 3, 3, 3),
        "b": normal(rng, 5, 5, 3, 3),
        "gain": normal(rng, 5),
        "offset": normal(rng, 5),
        "mean": normal(rng, 5),
        "variance": rng.uniform(0.5, 2, 5).astype(np.float32),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        ("Conv", ["x", "a"], "c", pads),
        ("BatchNormalization", ["c", *norm], "n", {}),
        ("Conv", ["n", "b"], "d", pads),
        ("BatchNormalization", ["d", *norm], "e", {}),
        ("Add", ["e", "n"], "s", {}),
        ("Relu", ["s"], "r", {}),
        ("Relu", ["n"], "q", {}),
        ("Mul", ["r", "q"], "y", {}),
    ]
    network = check_against_runtime(graph(nodes, (3, 6, 5), constants, ANY), tmp_path, rng)
    assert [layer.name for layer in network.layers] == ["Conv0", "Conv2", "Add4", "Relu6", "Mul7"]
    assert network.layers[2].low == 0
    assert network.layers[0].low == -np.inf


def test_scales_before_the_activation(tmp_path, seed):
    """DenseNet: a convolution of one tap, which takes in what follows; and other arithmetic."""
    rng = np.random.default_rng(seed)
    constants = {
        "w": normal(rng, 4, 3, 1, 1),
        "gain": normal(rng, 3),
        "v": rng.uniform(0.5, 2, 3).astype(np.float32),
        "a": normal(rng, 3, 1, 1),
        "b": normal(rng, 1, 3, 1, 1),
        "c": np.float32(0.7),
    }
    nodes = [
        ("Sub", ["x", "a"], "p", {}),
        ("Div", ["p", "v3"], "q", {}),
        ("BatchNormalization", ["q", "gain", "gain", "gain", "v"], "n", {}),
        ("Relu", ["n"], "r", {}),
        ("Mul", ["b", "r"], "s", {}),
        ("Add", ["s", "c"], "t", {}),
        ("Conv", ["t", "w"], "u", {}),
        ("Mul", ["u", "c"], "y", {}),
    ]
    constants["v3"] = constants["v"].reshape(3, 1, 1)
    network = check_against_runtime(graph(nodes, (3, 6, 5), constants, ANY), tmp_path, rng)
    assert [layer.name for layer in network.layers] == ["Sub0", "Mul4", "Conv6"]
    assert [layer.groups for layer in network.layers] == [3, 3, 1]


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [3, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 0, 1]}),
        (
            "AveragePool",
            {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0], "count_include_pad": 1},
        ),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("GlobalAveragePool", {}),
        ("ReduceMean", {"axes": [2, -1]}),
    ],
)
def test_pooling(operator, attributes, tmp_path, seed):
    rng = np.random.default_rng(seed)
    model = chain([(operator, [], attributes)], (3, 8, 7), {}, ANY)
    check_against_runtime(model, tmp_path, rng)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("HardSwish", {}),
        ("HardSigmoid", {}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        ("Relu", {}),
        ("Dropout", {}),
    ],
)
def test_functions(operator, attributes, tmp_path, seed):
    rng = np.random.default_rng(seed)
    nodes = [("Conv", ["w"], {}), (operator, [], attributes)]
    model = chain(nodes, (3, 8, 7), {"w": 3 * normal(rng, 4, 3, 1, 1)}, ANY)
    check_against_runtime(model, tmp_path, rng)


def test_squeeze_and_excitation_and_concatenation(tmp_path, seed):
    rng = np.random.default_rng(seed)
    constants = {"w": normal(rng, 4, 4, 1, 1), "v": normal(rng, 3, 4, 3, 3)}
    nodes = [
        ("GlobalAveragePool", ["x"], "m", {}),
        ("Conv", ["m", "w"], "e", {}),
        ("HardSigmoid", ["e"], "h", {}),
        ("Mul", ["x", "h"], "s", {}),
        ("Conv", ["s", "v"], "c", {"pads": [1, 1, 1, 1]}),
        ("Concat", ["x", "c", "s"], "y", {"axis": 1}),
    ]
    check_against_runtime(graph(nodes, (4, 5, 6), constants, ANY), tmp_path, rng)


def test_padding_goes_into_the_convolution(tmp_path, seed):
    rng = np.random.default_rng(seed)
    constants = {"w": normal(rng, 4, 3, 3, 3), "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1])}
    nodes = [("Pad", ["pads"], {}), ("Conv", ["w"], {"pads": [1, 1, 1, 1]})]
    network = check_against_runtime(chain(nodes, (3, 6, 5), constants, ANY), tmp_path, rng)
    (layer,) = network.layers
    assert isinstance(layer, FloatConvolution)
    assert layer.padding == (2, 3, 1, 2)
    assert network.notes == ("node 'Pad0' (Pad) is done by what reads it",)
    model = chain([*nodes[:1], ("Relu", [], {})], (3, 6, 5), constants, ANY)
    assert isinstance(check_against_runtime(model, tmp_path, rng).layers[0], FloatPad)


LAYOUTS = {
    "flatten": [("Flatten", [], {})],
    "reshape": [("Reshape", ["all"], {})],
    "channels last": [("Transpose", [], {"perm": [0, 2, 3, 1]}), ("Flatten", [], {})],
    "columns first": [
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Relu", [], {}),
        ("Reshape", ["zero"], {}),
    ],
    "there and back": [
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Conv", ["one"], {}),
        ("Flatten", [], {}),
    ],
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts(case, tmp_path, seed):
    rng = np.random.default_rng(seed)
    constants = {
        "w": normal(rng, 3 * 4 * 5, 6),
        "one": normal(rng, 3, 3, 1, 1),
        "all": np.array([-1, 60]),
        "zero": np.array([0, -1]),
    }
    model = chain([*LAYOUTS[case], ("MatMul", ["w"], {})], (3, 4, 5), constants)
    network = check_against_runtime(model, tmp_path, rng)
    assert network.layers[-1].kernel == (4, 5)


@pytest.mark.parametrize("part", [{}, {"start": 0, "end": 1}])
def test_flattening_by_a_computed_shape(part, tmp_path, seed):
    """As exporters write x.view(x.size(0), -1)."""
    rng = np.random.default_rng(seed)
    constants = {
        "w": normal(rng, 60, 6),
        "zero": np.array([0]),
        "rest": np.array([-1]),
        "one": normal(rng, 3, 3, 1, 1),
    }
    nodes = [
        ("Conv", ["x", "one"], "c", {}),
        ("Relu", ["c"], "r", {}),
        ("Shape", ["r"], "s", part),
        ("Gather", ["s", "zero"], "n", {}),
        ("Concat", ["n", "rest"], "t", {"axis": 0}),
        ("Reshape", ["r", "t"], "f", {}),
        ("MatMul", ["f", "w"], "y", {}),
    ]
    model = graph(nodes, (3, 4, 5), constants)
    network = check_against_runtime(model, tmp_path, rng)
    assert [layer.low for layer in network.layers] == [0, -np.inf]


def test_single_pixels_change_their_axes(tmp_path, seed):
    rng = np.random.default_rng(seed)
    constants = {
        "w": normal(rng, 6, 3),
        "v": normal(rng, 4, 6, 1, 1),
        "axes": np.array([2, 3]),
        "shape": np.array([-1, 4, 1, 1]),
    }
    nodes = [
        ("ReduceMean", [], {"axes": [2, 3], "keepdims": 0}),
        ("Gemm", ["w"], {"transB": 1}),
        ("Unsqueeze", ["axes"], {}),
        ("Conv", ["v"], {}),
        ("Squeeze", ["axes"], {}),
        ("Reshape", ["shape"], {}),
        ("Flatten", [], {}),
        ("Softmax", [], {}),
    ]
    model = chain(nodes, (3, 4, 5), constants)
    network = imported(model, tmp_path)
    assert [layer.name for layer in network.layers] == ["ReduceMean0", "Gemm1", "Conv3"]
    assert "'Softmax7' (Softmax) is left to the host" in network.notes[0]
    end = onnx.helper.make_tensor_value_info("t6", onnx.TensorProto.FLOAT, ["N", 4])
    model.graph.output[0].CopyFrom(end)
    del model.graph.node[-1]
    check_against_runtime(model, tmp_path, rng)


def test_what_follows_from_constants_is_one(tmp_path, seed):
    rng = np.random.default_rng(seed)
    half = onnx.numpy_helper.from_array(np.float32(0.5))
    nodes = [
        ("Constant", [], "h", {"value": half}),
        ("Transpose", ["w"], "v", {"perm": [1, 0, 2, 3]}),
        ("Mul", ["v", "h"], "u", {}),
        ("Conv", ["x", "u"], "y", {}),
        ("Conv", ["x", "u"], "unused", {}),
    ]
    constants = {"w": normal(rng, 3, 4, 1, 1)}
    model = graph([*nodes, ("Relu", ["y"], "z", {})], (3, 4, 5), constants, ANY)
    network = check_against_runtime(model, tmp_path, rng)
    assert [layer.name for layer in network.layers] == ["Conv3"]


def W(*shape):
    return np.ones(shape, np.float32)


CONV = ("Conv", ["w"], {})
REFUSED = {
    "operator": (
        [CONV, ("LeakyRelu", [], {})],
        "node 'LeakyRelu1' .LeakyRelu. is an operator that insitu cannot run",
        "use Relu",
    ),
    "unknown": ([CONV, ("Sin", [], {})], "node 'Sin1'", "build the model from Add, AveragePool"),
    "softmax": (
        [CONV, ("Softmax", [], {}), ("Relu", [], {})],
        "node 'Relu2' .Relu. reads what 'Softmax1' gives",
        "only there it can be left to the host",
    ),
    "groups": ([("Conv", ["w"], {"group": 2})], "has 2 groups for 3 output channels", "check"),
    "channels": ([("Conv", ["g"], {})], "takes 1 channels, its input has 2", "check the model"),
    "kernel": ([("Conv", ["big"], {})], r"kernel \(9, 9\) .* must fit into a map", "check"),
    "one dimension": ([("Conv", ["line"], {})], "is over 1 dimensions", "two-dimensional"),
    "shapes": ([CONV, ("Add", ["x"], {})], r"adds maps of shapes \(4, 4, 3\) and", "same shape"),
    "one pixel for all": (
        [CONV, ("GlobalAveragePool", [], {}), ("Add", ["t0"], {})],
        r"adds maps of shapes \(1, 1, 3\) and \(4, 4, 3\)",
        "same shape",
    ),
    "difference": ([CONV, ("Sub", ["t0"], {})], "takes two maps", "use Add"),
    "constant map": ([CONV, ("Mul", ["map"], {})], r"'map' of shape \(3, 4, 4\)", "each channel"),
    "division": ([CONV, ("Div", ["zero"], {})], "divides by 0", "check the model"),
    "window": (
        [("MaxPool", [], {"kernel_shape": [2, 2], "dilations": [2, 2]})],
        r"has dilations \(2, 2\)",
        "without dilation",
    ),
    "wide padding": (
        [("MaxPool", [], {"kernel_shape": [2, 2], "pads": [2, 2, 2, 2]})],
        "is not less than the kernel",
        "check the model",
    ),
    "mean": ([("ReduceMean", [], {"axes": [1]})], r"mean over axes \[1\]", "height and width"),
    "rows": ([("Concat", ["x"], {"axis": 2})], "concatenates along axis 2", "concatenate channels"),
    "negative pad": ([("Pad", ["cut"], {})], r"pads \[0, 0, -1", "cut nothing"),
    "reflection": ([("Pad", ["cut"], {"mode": "reflect"})], "mode reflect", "with zeros"),
    "pad with one": ([("Pad", ["pads", "six"], {})], "pads with 6", "pad with zeros"),
    "transposed": (
        [("Transpose", [], {"perm": [0, 2, 3, 1]}), CONV],
        "with its axes transposed",
        "transpose back",
    ),
    "samples": ([("Transpose", [], {"perm": [1, 0, 2, 3]})], "permutes axes", "samples first"),
    "mixed": (
        [("Transpose", [], {"perm": [0, 2, 3, 1]}), ("Add", ["x"], {})],
        "axes are in different order",
        "transpose both",
    ),
    "shape": ([CONV, ("Reshape", ["x"], {})], "takes 'x' from the graph", "fix shapes"),
    "computed weights": ([("Conv", ["x"], {})], "takes its input 'x' from", "constant weights"),
    "flatten": ([CONV, ("Gemm", ["m"], {})], "is not flattened", "put a Flatten before it"),
    "features": (
        [("Flatten", [], {}), ("Gemm", ["m"], {})],
        "takes 7 features, its input has 32",
        "check the model",
    ),
    "axis": ([("Flatten", [], {"axis": 2}), CONV], "from axis 1", "axis=1"),
    "after flatten": ([("Flatten", [], {}), CONV], "follows a Flatten", "before the Flatten"),
    "nothing": ([("Identity", [], {})], "with at least one layer", "export a network with layers"),
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
    "no number": ([CONV, ("Clip", ["v"], {})], "has no constant number 'v' as min", "one constant"),
    "no limit": ([CONV, ("Clip", ["none"], {})], "has NaN as min", "train it again"),
    "normalises in training": (
        [CONV, ("BatchNormalization", ["v", "v", "v", "v"], {"training_mode": 1})],
        "'BatchNormalization1' .* is in training mode",
        "module.eval()",
    ),
    "drops in training": (
        [CONV, ("Dropout", ["half", "yes"], {})],
        "'Dropout1' .* is in training mode",
        "module.eval()",
    ),
    "samples' axis": (
        [CONV, ("Unsqueeze", ["front"], {})],
        "more than flatten",
        "use Flatten",
    ),
    "one transposed pixel": (
        [
            ("GlobalAveragePool", [], {}),
            ("Transpose", [], {"perm": [0, 2, 3, 1]}),
            ("GlobalAveragePool", [], {}),
        ],
        "with its axes transposed",
        "transpose back",
    ),
    "a transposed pixel for all": (
        [
            ("GlobalAveragePool", [], {}),
            ("Transpose", [], {"perm": [0, 2, 3, 1]}),
            ("Mul", ["x"], {}),
        ],
        "axes are in different order",
        "transpose both",
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
    "line": W(3, 2, 1),
    "map": W(3, 4, 4),
    "cut": np.array([0, 0, -1, 0, 0, 0, 0, 0]),
    "pads": np.array([0, 0, 1, 0, 0, 0, 0, 0]),
    "zero": np.float32(0),
    "half": np.float32(0.5),
    "none": np.float32(np.nan),
    "yes": np.array(True),
    "front": np.array([0]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_named(case, tmp_path):
    nodes, cause, next_step = REFUSED[case]
    with pytest.raises(ModelError, match=cause) as error:
        imported(chain(nodes, (2, 4, 4), CONSTANTS), tmp_path)
    assert next_step in error.value.next_step


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("RandomNormal", [], {"shape": [3, 2, 1, 1]}),
        ("RandomUniformLike", ["w"], {}),
        ("Bernoulli", ["w"], {}),
    ],
)
def test_random_weights_are_refused(operator, inputs, attributes, tmp_path):
    nodes = [(operator, inputs, "r", attributes), ("Conv", ["x", "r"], "y", {})]
    with pytest.raises(ModelError, match=f"'{operator}0' .* gives random numbers"):
        imported(graph(nodes, (2, 4, 4), CONSTANTS), tmp_path)


def test_limits_of_infinity_are_none(tmp_path, seed):
    rng = np.random.default_rng(seed)
    constants = {"w": normal(rng, 3, 2, 1, 1), "low": np.float32(-0.5), "inf": np.float32(np.inf)}
    model = chain([CONV, ("Clip", ["low", "inf"], {})], (2, 4, 4), constants, ANY)
    network = check_against_runtime(model, tmp_path, rng)
    assert [(layer.low, layer.high) for layer in network.layers] == [(-0.5, np.inf)]


def test_constant_less_a_map_is_refused(tmp_path):
    model = graph([("Sub", ["six", "x"], "y", {})], (2, 4, 4), CONSTANTS)
    with pytest.raises(ModelError, match=r"'Sub0' .Sub. has the constant 'six' first") as error:
        imported(model, tmp_path)
    assert error.value.next_step == "use a Mul and an Add instead"


@pytest.mark.parametrize("shape", [(), (2, 3), (2, "H", 4)])
def test_input_shape_must_be_fixed(shape, tmp_path):
    with pytest.raises(ModelError, match="inputs of shape"):
        imported(chain([CONV], shape, CONSTANTS), tmp_path)


def test_one_sample_at_a_time(tmp_path):
    model = chain([CONV], (2, 4, 4), CONSTANTS, ANY)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    with pytest.raises(ModelError, match=r"inputs of shape \[8, 2, 4, 4\]"):
        imported(model, tmp_path)


def test_output_that_is_flattened_is_noted(tmp_path):
    network = imported(chain([CONV, ("Flatten", [], {})], (2, 4, 4), CONSTANTS), tmp_path)
    assert "stays height, width, channels" in network.notes[0]
    network = imported(chain([CONV], (2, 4, 4), CONSTANTS, ANY), tmp_path)
    assert not network.notes


def test_weights_in_another_file(tmp_path):
    model = chain([CONV], (2, 4, 4), CONSTANTS, ANY)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(ModelError, match="keeps 'w' in another file") as error:
        import_onnx(path)
    assert "save it as one file" in error.value.next_step


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


def small(rng, kind):
    if kind == "example":
        return example(rng, channels=(2, 2, 3), size=(5, 5), classes=2)
    if kind == "branches":
        return branches(rng, size=(3, 3))
    builder = Quantised(kind)
    x = builder.input((3, 5, 5), 0.1, 4)
    weights, scales = rng.integers(-64, 65, (4, 3, 2, 2)), np.full(4, 0.01)
    window = {"strides": [1, 2], "pads": [1, 0, 1, 0]}
    return builder.build(builder.linear("Conv", x, weights, scales, np.ones(4), 0.2, 5, **window))


@pytest.mark.parametrize("kind", ["example", "branches", "qdq", "qlinear"])
def test_flipped_bytes_are_found_or_give_a_network(kind, tmp_path, seed):
    rng = np.random.default_rng(seed)
    data = small(rng, kind).SerializeToString()
    path = tmp_path / "model.onnx"
    for position in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            network = import_onnx(path)
            if network.quantisations:
                quantised_network(network)
        except ModelError:
            continue
        assert network.layers
