"""ONNX's operators on integers, as real ones with QuantizeLinear and DequantizeLinear around.

What ONNX Runtime's quantiser writes in its operator form: QLinearConv and QLinearMatMul of the
standard, and those of its own domain (com.microsoft).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = ["QLINEAR", "expand"]

Constants = Mapping[str, NDArray[Any]]

_PAIRS = {
    "QGemm": ("Gemm", 2),
    "QLinearAdd": ("Add", 2),
    "QLinearAveragePool": ("AveragePool", 1),
    "QLinearConv": ("Conv", 2),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", 1),
    "QLinearMatMul": ("MatMul", 2),
    "QLinearMul": ("Mul", 2),
    "QLinearSigmoid": ("Sigmoid", 1),
    "QLinearSoftmax": ("Softmax", 1),
}
"""What each stands for, and how many operands it takes, each with a scale and a zero point."""

QLINEAR = (*_PAIRS, "QLinearConcat")


def expand(
    nodes: Iterable[Any], constants: Constants, fail: Callable[..., Exception]
) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """Nodes with those on integers taken apart, and further constants that they need.

    Parameters
    ----------
    nodes : iterable of NodeProto
    constants : mapping
        Arrays of the file by name.
    fail : callable
        Makes the error for a node and what is wrong with it.
    """
    result: list[Any] = []
    extra: dict[str, NDArray[Any]] = {}
    for node in nodes:
        if node.op_type in QLINEAR:
            result += _taken_apart(node, constants, extra, fail)
        else:
            result.append(node)
    return result, extra


def _taken_apart(
    node: Any, constants: Constants, extra: dict[str, NDArray[Any]], fail: Callable[..., Exception]
) -> list[Any]:
    inputs = list(node.input)
    bias = ""
    if node.op_type == "QLinearConcat":
        operator = "Concat"
        output, operands = inputs[:2], inputs[2:]
    else:
        operator, count = _PAIRS[node.op_type]
        operands, rest = inputs[: 3 * count], inputs[3 * count :]
        if node.op_type == "QGemm":
            bias, *output = rest
        else:
            output, bias = rest[:2], (rest[2:] or [""])[0]
    if len(operands) % 3 or len(output) != 2 or not all(operands[:2] + output[:1]):
        raise fail(node, f"has {len(inputs)} inputs, too few for its scales")
    stem = node.output[0]
    made = []
    reals = []
    for index in range(0, len(operands), 3):
        reals.append(f"{stem}/real{index // 3}")
        operand = operands[index : index + 3]
        axis = _axis(node, index // 3)
        made.append(_node("DequantizeLinear", operand, reals[-1], node, axis=axis))
    if bias:
        scales = [constants.get(operands[index]) for index in (1, 4)]
        if scales[0] is None or scales[1] is None:
            raise fail(node, "takes its scale from the graph", "quantise the model statically")
        # In single precision, as the quantiser rounds biases with it.
        scale = np.asarray(scales[0], np.float32) * np.asarray(scales[1], np.float32)
        extra[f"{stem}/scale"] = scale.reshape(-1) if scale.size > 1 else scale.reshape(())
        reals.append(f"{stem}/bias")
        made.append(_node("DequantizeLinear", [bias, f"{stem}/scale"], reals[-1], node, axis=0))
    attributes = {
        a.name: onnx.helper.get_attribute_value(a)
        for a in node.attribute
        if a.name not in ("channels_last", "opset")
    }
    if any(a.name == "channels_last" and a.i for a in node.attribute):
        raise fail(node, "has its channels last", "export it with channels first")
    made.append(_node(operator, reals, f"{stem}/real", node, **attributes))
    made.append(_node("QuantizeLinear", [f"{stem}/real", *output], stem, node))
    return made


def _axis(node: Any, operand: int) -> int:
    """Along which axis an operand may have several scales: the output channels of weights."""
    if node.op_type == "QLinearConv":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if operand == 1 and transposed else 1


def _node(operator: str, inputs: list[str], output: str, node: Any, **attributes: Any) -> Any:
    return onnx.helper.make_node(operator, inputs, [output], name=node.name, **attributes)
