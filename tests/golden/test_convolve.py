"""golden.convolve against loops over Python integers and against ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import golden.convolve
from golden.convolve import convolve
from tests.golden import brute

Int8 = NDArray[np.int8]

# kernel, stride, padding, dilation, groups, Ci, Co, (H, W)
CASES = {
    "one": ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, 1, 1, (1, 1)),
    "same": ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, 3, 5, (5, 6)),
    "strided": ((3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 1, 2, 3, (6, 7)),
    "awkward": ((2, 5), (3, 2), (1, 0, 2, 3), (1, 1), 1, 4, 2, (7, 8)),
    "dilated": ((3, 2), (1, 2), (2, 1, 2, 0), (2, 3), 1, 2, 3, (8, 9)),
    "pointwise": ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, 7, 6, (3, 4)),
    "whole map": ((4, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1, 5, 4, (4, 3)),
    "wide padding": ((1, 1), (1, 1), (2, 3, 1, 2), (1, 1), 1, 2, 2, (2, 2)),
    "depthwise": ((3, 3), (2, 1), (1, 1, 0, 1), (1, 1), 4, 4, 4, (5, 5)),
    "depth multiplier": ((3, 3), (1, 1), (1, 1, 1, 1), (1, 2), 3, 3, 6, (4, 7)),
    "grouped": ((2, 2), (1, 1), (0, 1, 1, 0), (1, 1), 2, 6, 4, (4, 4)),
}


def random(rng: np.random.Generator, *shape: int) -> Int8:
    return rng.integers(-128, 128, shape, dtype=np.int8)


def conv_integer(
    x: Int8,
    W: Int8,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    zero_point: int,
    groups: int,
) -> NDArray[np.int32]:
    """ONNX Runtime's sum of (x - zero_point) * W, channels last; padding counts as zero."""
    node = helper.make_node(
        "ConvInteger",
        ["x", "w", "zero"],
        ["y"],
        kernel_shape=kernel,
        strides=stride,
        pads=padding,
        dilations=dilation,
        group=groups,
    )
    weights = W.reshape(*W.shape[:2], *kernel)
    graph = helper.make_graph(
        [node],
        "conv",
        [
            helper.make_tensor_value_info("x", TensorProto.UINT8, [None] * 4),
            helper.make_tensor_value_info("w", TensorProto.INT8, weights.shape),
            helper.make_tensor_value_info("zero", TensorProto.UINT8, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [None] * 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    unsigned = (x.astype(np.int16) + 128).astype(np.uint8).transpose(0, 3, 1, 2)
    feeds = {
        "x": np.ascontiguousarray(unsigned),
        "w": weights,
        "zero": np.array(zero_point + 128, np.uint8),
    }
    (y,) = session.run(None, feeds)
    result: NDArray[np.int32] = y.transpose(0, 2, 3, 1)
    return result


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("zero_point", [-128, 5, 127])
def test_against_loops(case: str, zero_point: int, seed: int) -> None:
    kernel, stride, padding, dilation, groups, ci, co, size = CASES[case]
    rng = np.random.default_rng(seed)
    x = random(rng, 2, *size, ci)
    W = random(rng, co, ci // groups, kernel[0] * kernel[1])
    bias = rng.integers(-(1 << 20), 1 << 20, co, dtype=np.int32)
    acc = convolve(x, W, bias, kernel, stride, padding, dilation, zero_point, groups)
    assert acc.dtype == np.int32
    settings = (bias, kernel, stride, padding, dilation, zero_point, groups)
    assert acc.tolist() == [brute.convolve(image, W, *settings) for image in x]
    np.testing.assert_array_equal(convolve(x[1], W, *settings), acc[1])


@pytest.mark.parametrize("case", CASES)
def test_against_onnx_runtime(case: str, seed: int) -> None:
    kernel, stride, padding, dilation, groups, ci, co, size = CASES[case]
    rng = np.random.default_rng(seed)
    zero_point = int(rng.integers(-128, 128))
    x = random(rng, 3, 4 * size[0], 3 * size[1], ci * 3)
    W = random(rng, co * 3, ci // groups * (1 if groups > 1 else 3), kernel[0] * kernel[1])
    groups *= 3 if groups > 1 else 1
    settings = (kernel, stride, padding, dilation, zero_point, groups)
    acc = convolve(x, W, np.zeros(len(W), np.int32), *settings)
    offset = zero_point * W.astype(np.int32).sum(axis=(1, 2))
    np.testing.assert_array_equal(acc, conv_integer(x, W, *settings) + offset)


@pytest.mark.parametrize("chunk", [1, 1100, 2000])
def test_in_chunks(chunk: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    x, W = random(rng, 7, 5, 4, 3), random(rng, 6, 3, 9)
    bias = np.arange(6, dtype=np.int32)
    whole = convolve(x, W, bias, (3, 3), padding=(1, 1, 1, 1))
    monkeypatch.setattr(golden.convolve, "CHUNK", chunk)
    np.testing.assert_array_equal(convolve(x, W, bias, (3, 3), padding=(1, 1, 1, 1)), whole)


@pytest.mark.parametrize("channels", [1023, 1024, 1025, 4096, 131_000])
@pytest.mark.parametrize("value", [-128, 127])
def test_every_term_extreme(channels: int, value: int) -> None:
    """Sums on both sides of 2**24, where single precision stops being exact, and near 2**31."""
    x = np.full((1, 1, channels), value, np.int8)
    W = np.full((2, channels, 1), -128, np.int8)
    W[1] = 127
    W[1, 0] = 126
    acc = convolve(x, W, np.array([1, -1], np.int32), (1, 1))
    expected = [-128 * value * channels + 1, value * (127 * channels - 1) - 1]
    assert acc.tolist() == [[expected]]


def test_single_precision_would_not_do() -> None:
    """2**24 + 1 is the first integer that single precision cannot hold."""
    x = np.full((1, 1, 1026), -128, np.int8)
    W = np.full((1, 1026, 1), -128, np.int8)
    x[0, 0, 1024:], W[0, 1024:] = 1, [[1], [0]]
    acc = convolve(x, W, np.zeros(1, np.int32), (1, 1))
    assert acc.item() == (1 << 24) + 1


@pytest.mark.parametrize("groups", [1, 2])
def test_bias_at_the_ends_of_int32(groups: int) -> None:
    x = np.full((1, 1, 2), 1, np.int8)
    W = np.full((2, 2 // groups, 1), -1, np.int8)
    total = -2 // groups
    bias = np.array([-(1 << 31) - total, (1 << 31) - 1], np.int32)
    acc = convolve(x, W, bias, (1, 1), groups=groups)
    assert acc.ravel().tolist() == [-(1 << 31), (1 << 31) - 1 + total]
    with pytest.raises(OverflowError, match=r"^accumulator must fit int32, not be -2147483649$"):
        convolve(x, W, bias - np.array([1, 0], np.int32), (1, 1), groups=groups)
    with pytest.raises(OverflowError, match=r"^accumulator must fit int32, not be 2147483648$"):
        convolve(x, -W, np.array([0, (1 << 31) + total], np.int32), (1, 1), groups=groups)


def test_inputs_are_not_changed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, W, bias = random(rng, 2, 3, 3, 4), random(rng, 4, 1, 9), np.ones(4, np.int32)
    arrays: list[NDArray[Any]] = [x, W, bias]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    convolve(x, W, bias, (3, 3), padding=(1, 1, 1, 1), groups=4)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": np.zeros((3, 3, 2))}, TypeError, "x must be an array of int8, not float64"),
        ({"x": np.zeros((3, 2), np.int8)}, ValueError, r"x must be \[N, H, W, Ci\], not of shape"),
        ({"x": np.zeros((3, 3, 3), np.int8)}, ValueError, "x must have 1 [*] 2 channels.* not 3"),
        ({"W": np.zeros((4, 2), np.int8)}, ValueError, r"W must be \[Co, Ci, T\], not of shape"),
        ({"W": np.zeros((4, 2, 4), np.int8)}, ValueError, r"kernel \(3, 3\) must have the 4 taps"),
        ({"bias": np.zeros(4, np.int64)}, TypeError, "bias must be an array of int32, not int64"),
        (
            {"bias": np.zeros(3, np.int32)},
            ValueError,
            "bias must have one element for each of 4 output channels, not 3",
        ),
        ({"kernel": (3, 0)}, ValueError, r"kernel must be 2 integers of at least 1, not \(3, 0\)"),
        ({"stride": (0, 1)}, ValueError, r"stride must be 2 integers of at least 1, not \(0, 1\)"),
        ({"padding": (0, 0, 0, -1)}, ValueError, "padding must be 4 integers of at least 0, not"),
        ({"dilation": (1,)}, ValueError, "dilation must be 2 integers of at least 1, not"),
        ({"dilation": (2, 1)}, ValueError, r"kernel \(3, 3\) with dilation \(2, 1\) must fit"),
        ({"dilation": (1, 2)}, ValueError, r"kernel .* into a map of \(3, 3\) padded by \(0, 0, "),
        ({"zero_point": -129}, ValueError, "zero_point must be in -128..127, not -129"),
        ({"groups": 0}, ValueError, "groups must be in 1..65536, not 0"),
        ({"groups": 3}, ValueError, "groups must divide 4 output channels, not 3"),
    ],
)
def test_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "x": np.zeros((3, 3, 2), np.int8),
        "W": np.zeros((4, 2, 9), np.int8),
        "bias": np.zeros(4, np.int32),
        "kernel": (3, 3),
    }
    with pytest.raises(error, match=f"^{message}"):
        convolve(**(arguments | changes))
