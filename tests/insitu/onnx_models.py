"""Quantised ONNX models for tests, and ONNX Runtime to run them."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Quantised", "run_tensors"]

MICROSOFT = "com.microsoft"


class Quantised:
    """Puts a quantised model together, operator by operator, in one of the two forms.

    Parameters
    ----------
    form : "qdq" or "qlinear"
    dtype : type
        Of maps: np.int8 or np.uint8.
    """

    def __init__(self, form="qdq", dtype=np.int8):
        self.form, self.dtype = form, dtype
        self.nodes, self.constants, self.scales = [], {}, {}
        self.inputs = []
        self.opset = 17

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def scaling(self, scale, zero_point):
        """Names of a scale and a zero point; that of uint8 is 128 more."""
        offset = 128 if self.dtype == np.uint8 else 0
        return [
            self.constant(np.float32(scale)),
            self.constant(np.array(zero_point + offset, self.dtype)),
        ]

    def node(self, operator, inputs, output="", domain="", **attributes):
        output = output or f"t{len(self.nodes)}"
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=name, domain=domain, **attributes)
        )
        return output

    def input(self, shape, scale, zero_point):
        """The quantised input."""
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])]
        return self.quantise("x", scale, zero_point)

    def quantise(self, name, scale, zero_point):
        pair = self.scaling(scale, zero_point)
        result = self.node("QuantizeLinear", [name, *pair])
        self.scales[result] = pair
        return result

    def real(self, name):
        return self.node("DequantizeLinear", [name, *self.scales[name]])

    def operator(self, name, operands, scale, zero_point, constants=(), **attributes):
        """An operator on maps, with further real inputs; QDQ only. Its quantised output."""
        reals = [self.real(operand) for operand in operands]
        made = self.node(name, [*reals, *(self.constant(c) for c in constants)], **attributes)
        return self.quantise(made, scale, zero_point)

    def linear(self, kind, source, weights, weight_scale, bias, scale, zero_point, **attributes):
        """Conv, Gemm or MatMul, in either form. Weights and bias are integers."""
        weight_scale = np.asarray(weight_scale, np.float32)
        per_channel = weight_scale.ndim > 0
        axis = 0 if kind == "Conv" or attributes.get("transB") else 1
        w = self.constant(weights.astype(np.int8))
        ws = self.constant(weight_scale)
        wz = self.constant(np.zeros(weight_scale.shape, np.int8))
        bias_scale = self.constants[self.scales[source][0]] * weight_scale
        b = "" if bias is None else self.constant(bias.astype(np.int32))
        if self.form == "qdq":
            axes = {"axis": axis} if per_channel else {}
            inputs = [self.real(source), self.node("DequantizeLinear", [w, ws, wz], **axes)]
            if b:
                axes = {"axis": 0} if per_channel else {}
                zero = self.constant(np.zeros(weight_scale.shape, np.int32))
                bias_inputs = [b, self.constant(bias_scale), zero]
                inputs.append(self.node("DequantizeLinear", bias_inputs, **axes))
            made = self.node(kind, inputs, **attributes)
            return self.quantise(made, scale, zero_point)
        pair = self.scaling(scale, zero_point)
        inputs = [source, *self.scales[source], w, ws, wz]
        if kind == "Gemm":
            made = self.node("QGemm", [*inputs, b, *pair], domain=MICROSOFT, **attributes)
        else:
            bias_inputs = [b] if b else []
            made = self.node(f"QLinear{kind}", [*inputs, *pair, *bias_inputs], **attributes)
        self.scales[made] = pair
        return made

    def microsoft(self, kind, operands, scale, zero_point, **attributes):
        """QLinearAdd and its like."""
        pair = self.scaling(scale, zero_point)
        inputs = [name for one in operands for name in (one, *self.scales[one])]
        inputs = [*pair, *inputs] if kind == "QLinearConcat" else [*inputs, *pair]
        made = self.node(kind, inputs, domain=MICROSOFT, **attributes)
        self.scales[made] = pair
        return made

    def build(self, output, rank=4):
        """The model, which ends in DequantizeLinear of `output`."""
        end = self.real(output)
        graph = helper.make_graph(
            self.nodes,
            "test",
            self.inputs,
            [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", *[None] * (rank - 1)])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        version = helper.find_min_ir_version_for(opsets[:1])
        return helper.make_model(graph, opset_imports=opsets, ir_version=version)


def run_tensors(model, names, x, *, optimised):
    """What ONNX Runtime computes for some tensors of a quantised model, as int8."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    del extended.graph.output[:]
    for name in names:
        extended.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    session = onnxruntime.InferenceSession(
        extended.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results = session.run(list(names), {model.graph.input[0].name: x})
    return [
        (y.astype(np.int16) - 128).astype(np.int8) if y.dtype == np.uint8 else y for y in results
    ]
