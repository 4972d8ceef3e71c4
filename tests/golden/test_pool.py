"""golden.pool against Python fractions and against ONNX Runtime."""

from fractions import Fraction
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from golden.pool import average, maximum, rescaled_average
from golden.requantise import Scaling
from tests.golden import brute

# kernel, stride, padding, (H, W)
CASES = {
    "halves": ((2, 2), (2, 2), (0, 0, 0, 0), (6, 8)),
    "overlapping": ((3, 3), (2, 1), (1, 1, 1, 1), (5, 6)),
    "awkward": ((3, 2), (1, 2), (2, 0, 1, 1), (4, 5)),
    "global": ((5, 7), (1, 1), (0, 0, 0, 0), (5, 7)),
    "one": ((1, 1), (1, 1), (0, 0, 0, 0), (3, 3)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("limits", [(-128, 127), (-20, 30)])
@pytest.mark.parametrize("spread", [3, 128])
def test_against_loops(case: str, limits: tuple[int, int], spread: int, seed: int) -> None:
    kernel, stride, padding, size = CASES[case]
    x = np.random.default_rng(seed).integers(-spread, spread, (2, *size, 3), dtype=np.int8)
    for pool, rule in ((average, brute.mean), (maximum, max)):
        result = pool(x, kernel, stride, padding, *limits)
        assert result.dtype == np.int8
        expected = [
            [
                [[brute.clamp(rule(values), *limits) for values in pixel] for pixel in row]
                for row in brute.windows(image, kernel, stride, padding)
            ]
            for image in x
        ]
        assert result.tolist() == expected, pool.__name__


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("ratio", "shift"), [(1.0, -1), (0.75, 0), (5 / 3, -1), (0.01, 6)])
def test_rescaled_average_is_the_real_one_rounded(
    case: str, ratio: float, shift: int, seed: int
) -> None:
    """Halves, which there are of powers of two, go to even as seen from the zero point."""
    kernel, stride, padding, size = CASES[case]
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (2, *size, 3), dtype=np.int8)
    zero_point, after = -7, 5
    scaling = Scaling(after, round(ratio * 2 ** (31 + shift)), shift)
    real = Fraction(scaling.multiplier, 2 ** (31 + shift))
    result = rescaled_average(x, kernel, stride, padding, zero_point, scaling, -100, 90)
    assert result.dtype == np.int8
    for image, got in zip(x, result, strict=True):
        for row, got_row in zip(brute.windows(image, kernel, stride, padding), got, strict=True):
            for pixel, got_pixel in zip(row, got_row, strict=True):
                for values, y in zip(pixel, got_pixel.tolist(), strict=True):
                    exact = real * (Fraction(sum(values), len(values)) - zero_point)
                    wanted = brute.clamp(round(exact) + after, -100, 90)
                    # Only quotients by powers of two are exact.
                    near = abs(exact % 1 - Fraction(1, 2)) < 2.0**-20
                    slack = near and bool(len(values) & (len(values) - 1))
                    assert abs(y - wanted) <= slack, (values, y)


@pytest.mark.parametrize("case", CASES)
def test_maximum_against_onnx_runtime(case: str, seed: int) -> None:
    kernel, stride, padding, size = CASES[case]
    x = np.random.default_rng(seed).integers(-128, 128, (2, *size, 3), dtype=np.int8)
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], kernel_shape=kernel, strides=stride, pads=padding
    )
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.INT8, [None] * 4)],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [None] * 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    np.testing.assert_array_equal(maximum(x, kernel, stride, padding), y.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 0], 1), ([-1, 0], -1), ([-3, 0], -2), ([3, 0], 2), ([-1, 1], 0)]
)
def test_average_takes_halves_away_from_zero(values: list[int], expected: int) -> None:
    x = np.array(values, np.int8).reshape(1, 1, 2, 1)
    assert average(x, (1, 2)).item() == expected


@pytest.mark.parametrize("value", [-128, 127])
def test_extremes(value: int) -> None:
    x = np.full((1, 64, 64, 2), value, np.int8)
    assert average(x, (64, 64)).ravel().tolist() == [value] * 2
    assert maximum(x, (3, 3), padding=(1, 1, 1, 1)).min() == value


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": np.zeros((1, 3, 3, 1))}, TypeError, "x must be an array of int8, not float64"),
        ({"x": np.zeros((3, 3, 1), np.int8)}, ValueError, r"x must be \[N, H, W, C\], not of"),
        ({"kernel": (4, 1)}, ValueError, r"kernel \(4, 1\) with dilation .* must fit into a map"),
        ({"stride": (0, 1)}, ValueError, "stride must be 2 integers of at least 1, not"),
        (
            {"padding": (2, 0, 0, 0)},
            ValueError,
            r"padding must leave part of the map in each window, not \(2, 0, 0, 0\)",
        ),
        ({"activation_min": -129}, ValueError, "activation_min must be in -128..127, not -129"),
        (
            {"activation_min": 3, "activation_max": 2},
            ValueError,
            "activation_max must be in 3..127, not 2",
        ),
    ],
)
@pytest.mark.parametrize("pool", [average, maximum])
def test_refuses(pool: Any, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"x": np.zeros((1, 3, 3, 1), np.int8), "kernel": (2, 2)}
    with pytest.raises(error, match=f"^{message}"):
        pool(**(arguments | changes))
