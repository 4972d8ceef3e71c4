"""Small `.tflite` files for tests, and LiteRT to run them."""

import contextlib

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

__all__ = [
    "NONE",
    "RELU",
    "RELU6",
    "SAME",
    "VALID",
    "Builder",
    "classifier",
    "dilated",
    "linear",
    "output_size",
    "run_all",
    "window",
]

SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
NONE, RELU, RELU6 = 0, 1, 3
"""Fused activations."""

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
    "HARD_SWISH": "HardSwishOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MUL": "MulOptions",
    "PAD": "PadOptions",
    "QUANTIZE": "QuantizeOptions",
    "RESHAPE": "ReshapeOptions",
    "SOFTMAX": "SoftmaxOptions",
}


def window(stride, padding, **options):
    """Options of a pooling."""
    return {"strideH": stride[0], "strideW": stride[1], "padding": padding, **options}


def dilated(stride, padding, dilation, **options):
    """Options of a convolution."""
    return window(
        stride, padding, dilationHFactor=dilation[0], dilationWFactor=dilation[1], **options
    )


def linear(
    rng,
    kind,
    size,
    channels,
    outputs,
    kernel=(1, 1),
    *,
    gain=1.0,
    scale=None,
    zero_points=(-3, 7),
    per_channel=True,
    largest_bias=None,
    weights=None,
    groups=1,
    **options,
):
    """A model of one convolution, depthwise convolution or fully connected layer.

    Its outputs spread over int8 with `gain` 1.
    """
    builder = Builder()
    input_scale, output_scale = np.float32(rng.uniform(0.01, 1)), np.float32(rng.uniform(0.01, 1))
    taps = kernel[0] * kernel[1]
    fan_in = {"CONV_2D": taps * channels // groups, "DEPTHWISE_CONV_2D": taps}.get(kind, channels)
    if scale is None:
        scale = gain * output_scale / (input_scale * 90 * fan_in**0.5)
        scale = scale * rng.uniform(0.3, 1.5, outputs if per_channel else 1)
    scale = np.asarray(scale, np.float32)
    shape = {
        "CONV_2D": (outputs, *kernel, channels // groups),
        "DEPTHWISE_CONV_2D": (1, *kernel, outputs),
        "FULLY_CONNECTED": (outputs, channels),
    }[kind]
    if weights is None:
        weights = rng.integers(-127, 128, shape)
    tensors = [
        builder.tensor((1, *size, channels), input_scale, zero_points[0]),
        builder.tensor(
            shape,
            scale,
            data=np.asarray(weights).astype(np.int8).reshape(shape),
            axis=3 if kind == "DEPTHWISE_CONV_2D" else 0,
        ),
    ]
    most = largest_bias or 60 * fan_in**0.5 * 90
    bias = rng.integers(-most, most + 1, outputs).astype(np.int32)
    bias_scale = (np.float64(input_scale) * scale).astype(np.float32)
    tensors.append(builder.tensor((outputs,), bias_scale, data=bias))
    height, width = output_size(kind, size, kernel, options)
    result = (1, height, width, outputs) if size else (1, outputs)
    y = builder.tensor(result, output_scale, zero_points[1])
    builder.operator(kind, tensors, [y], version=3, **options)
    return builder.build(tensors[:1], [y])


def output_size(kind, size, kernel, options):
    """Height and width that an operator with these options gives."""
    if kind == "FULLY_CONNECTED":
        return size or (1, 1)
    sizes = []
    for axis, letter in enumerate("HW"):
        reach = options.get(f"dilation{letter}Factor", 1) * (kernel[axis] - 1)
        inside = size[axis] - (reach if options["padding"] == VALID else 0)
        sizes.append(-(-inside // options[f"stride{letter}"]))
    return sizes


def classifier(rng, *, flat_input=False):
    """RESHAPE of the input, convolution, pooling, RESHAPE, fully connected, SOFTMAX."""
    builder = Builder()
    x = builder.tensor((1, 42) if flat_input else (1, 7, 6, 1), 0.1, -9)
    current = x
    if flat_input:
        current = builder.tensor((1, 7, 6, 1), 0.1, -9)
        builder.operator("RESHAPE", [x], [current], newShape=[1, 7, 6, 1])
    w = rng.integers(-127, 128, (4, 3, 3, 1)).astype(np.int8)
    w = builder.tensor((4, 3, 3, 1), rng.uniform(0.001, 0.005, 4), data=w)
    c = builder.tensor((1, 4, 3, 4), 0.05, -128)
    b = builder.tensor((4,), data=np.array([30, -500, 0, 200], np.int32))
    options = dilated((2, 2), SAME, (1, 1), fusedActivationFunction=RELU)
    builder.operator("CONV_2D", [current, w, b], [c], version=3, **options)
    p = builder.tensor((1, 2, 3, 4), 0.05, -128)
    pool = window((2, 1), VALID, filterHeight=2, filterWidth=1)
    builder.operator("AVERAGE_POOL_2D", [c], [p], version=2, **pool)
    f = builder.tensor((1, 24), 0.05, -128)
    shape = builder.tensor((2,), data=np.array([-1, 24], np.int32))
    builder.operator("RESHAPE", [p, shape], [f])
    w = rng.integers(-127, 128, (5, 24)).astype(np.int8)
    w = builder.tensor((5, 24), 0.003, data=w)
    d = builder.tensor((1, 5), 0.04, 3)
    builder.operator("FULLY_CONNECTED", [f, w, -1], [d], version=4)
    s = builder.tensor((1, 5), 1 / 256, -128)
    builder.operator("SOFTMAX", [d], [s], version=2, beta=1.0)
    return builder.build([x], [s])


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
        # Scratch tensors have no name, what no operator makes has no data.
        with contextlib.suppress(ValueError):
            if details["name"]:
                tensors[details["index"]] = runtime.get_tensor(details["index"])
    return tensors
