"""Small `.tflite` files for tests, and LiteRT to run them."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

__all__ = ["SAME", "VALID", "Builder", "run_all", "schema"]

SAME, VALID = schema.Padding.SAME, schema.Padding.VALID

_TYPES = {
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
    np.dtype(np.int16): schema.TensorType.INT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int64): schema.TensorType.INT64,
    np.dtype(np.float32): schema.TensorType.FLOAT32,
}


class Builder:
    """Puts a model together, operator by operator.

    Tensors are named by their index; those without data are made when the model runs.
    """

    def __init__(self):
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.operatorCodes = []
        self.model.buffers = [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.tensors = []
        self.graph.operators = []
        self.model.subgraphs = [self.graph]

    def tensor(self, shape, scale=None, zero_point=0, *, data=None, dtype=np.int8, axis=0, name=""):
        """The index of a new tensor; `data` makes it a constant, which `dtype` is then that of."""
        made = schema.TensorT()
        made.shape = [int(n) for n in shape]
        made.name = name or f"tensor{len(self.graph.tensors)}"
        if data is not None:
            data = np.ascontiguousarray(data)
            dtype = data.dtype
            made.buffer = len(self.model.buffers)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
        made.type = _TYPES[np.dtype(dtype)]
        if scale is not None:
            scales = [float(value) for value in np.atleast_1d(scale)]
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = scales
            made.quantization.zeroPoint = [int(zero_point)] * len(scales)
            made.quantization.quantizedDimension = axis
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def operator(self, name, inputs, outputs, version=1, **options):
        """Add an operator, such as "CONV_2D", with what its options are called in the schema."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = len(self.model.operatorCodes) - 1
        made.inputs, made.outputs = list(inputs), list(outputs)
        kind = _OPTIONS.get(name)
        if kind is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            made.builtinOptions = getattr(schema, f"{kind}T")()
            for key, value in options.items():
                if not hasattr(made.builtinOptions, key):
                    raise AttributeError(f"{kind} has no {key}")
                setattr(made.builtinOptions, key, value)
        self.graph.operators.append(made)

    def build(self, inputs, outputs):
        """The file's bytes."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


_OPTIONS = {
    "ADD": "AddOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MUL": "MulOptions",
    "PAD": "PadOptions",
    "QUANTIZE": "QuantizeOptions",
    "RESHAPE": "ReshapeOptions",
    "SOFTMAX": "SoftmaxOptions",
}


def run_all(model, *inputs):
    """Every tensor that LiteRT's reference kernels compute, by index, for inputs of one sample."""
    runtime = Interpreter(
        model_content=model,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
        num_threads=1,
    )
    runtime.allocate_tensors()
    for details, value in zip(runtime.get_input_details(), inputs, strict=True):
        runtime.set_tensor(details["index"], value)
    runtime.invoke()
    tensors = {}
    for details in runtime.get_tensor_details():
        if details["name"]:
            tensors[details["index"]] = runtime.get_tensor(details["index"])
    return tensors
