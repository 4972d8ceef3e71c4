"""ONNX models for tests, built node by node."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["branches", "chain", "example", "graph"]


def chain(nodes, input_shape, constants, output_shape=("N", "M")):
    """A model whose nodes follow each other.

    `nodes` are (operator, further inputs, attributes); each reads the output of the one before.
    """
    built, current = [], "x"
    for index, (operator, inputs, attributes) in enumerate(nodes):
        built.append((operator, [current, *inputs], f"t{index}", attributes))
        current = f"t{index}"
    return graph(built, input_shape, constants, output_shape)


def graph(nodes, input_shape, constants, output_shape=("N", "M")):
    """A model of any nodes: (operator, inputs, output, attributes). The last gives its output."""
    built = [
        helper.make_node(operator, inputs, [output], name=f"{operator}{index}", **attributes)
        for index, (operator, inputs, output, attributes) in enumerate(nodes)
    ]
    made = helper.make_graph(
        built,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *input_shape])],
        [helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opset, ir_version=8)


def example(rng, channels=(3, 8, 12), size=(9, 8), classes=5):
    """Two convolutions, the second normalised, and a fully connected layer; 1/2 size each."""
    first, second, third = channels

    def normal(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    height, width = -(-size[0] // 2), -(-size[1] // 2) - 1
    constants = {
        "w0": normal(second, first, 3, 3, scale=(first * 9) ** -0.5),
        "b0": normal(second, scale=0.1),
        "w1": normal(third, second, 2, 2, scale=(second * 4) ** -0.5),
        "gain": rng.uniform(0.5, 2, third).astype(np.float32),
        "offset": normal(third, scale=0.3),
        "mean": normal(third, scale=0.3),
        "variance": rng.uniform(0.5, 2, third).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(6),
        "w2": normal(third * (height - 1) * width, classes, scale=(third * height * width) ** -0.5),
        "b2": normal(classes),
    }
    nodes = [
        ("Conv", ["w0", "b0"], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("Relu", [], {}),
        ("Conv", ["w1"], {"pads": [0, 0, 0, 0]}),
        ("BatchNormalization", ["gain", "offset", "mean", "variance"], {"epsilon": 1e-3}),
        ("Clip", ["low", "high"], {}),
        ("Flatten", [], {"axis": 1}),
        ("Gemm", ["w2", "b2"], {"alpha": 0.5, "beta": 2.0}),
    ]
    model = chain(nodes, (first, *size), constants, ["N", classes])
    onnx.checker.check_model(model, full_check=True)
    return model


def branches(rng, size=(9, 8), classes=5):
    """A residual block, squeeze-and-excitation, a concatenation, poolings: every kind of layer."""

    def normal(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    constants = {
        "w0": normal(8, 3, 3, 3, scale=27**-0.5),
        "w1": normal(8, 4, 3, 3, scale=36**-0.5),
        "w2": normal(8, 8, 1, 1, scale=8**-0.5),
        "b2": normal(8),
        "gain": rng.uniform(0.5, 2, 16).astype(np.float32),
        "offset": normal(16, scale=0.3),
        "pads": np.array([0, 0, 1, 1, 0, 0, 0, 1]),
        "w3": normal(16, classes, scale=0.25),
        "b3": normal(classes),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        ("Conv", ["x", "w0"], "c0", pads),
        ("HardSwish", ["c0"], "h0", {}),
        ("Conv", ["h0", "w1"], "c1", {"group": 2, **pads}),
        ("Add", ["c1", "h0"], "s", {}),
        ("Relu", ["s"], "r", {}),
        ("GlobalAveragePool", ["r"], "m", {}),
        ("Conv", ["m", "w2", "b2"], "e", {}),
        ("HardSigmoid", ["e"], "g", {}),
        ("Mul", ["r", "g"], "p", {}),
        ("Concat", ["h0", "p"], "k", {"axis": 1}),
        ("Pad", ["k", "pads"], "q", {}),
        ("MaxPool", ["q"], "a", {"kernel_shape": [2, 2]}),
        ("AveragePool", ["a"], "v", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        ("BatchNormalization", ["v", "gain", "offset", "offset", "gain"], "n", {}),
        ("Relu", ["n"], "l", {}),
        ("ReduceMean", ["l"], "u", {"axes": [2, 3], "keepdims": 0}),
        ("Gemm", ["u", "w3", "b3"], "y", {}),
    ]
    return graph(nodes, (3, *size), constants, ["N", classes])
