"""A network with every kind of layer."""

import numpy as np

from golden.network import (
    Add,
    Concatenation,
    Convolution,
    Mean,
    Multiply,
    Network,
    Pad,
    Pooling,
    Requantise,
    Rounding,
    Scaling,
    Stored,
    Table,
)

__all__ = ["every_kind"]


def every_kind(rng: np.random.Generator) -> Network:
    """Branches, all kinds of layer, one that reads the input twice; inputs [6, 5, 3]."""

    def convolution(
        name: str, source: str, shape: tuple[int, int, int], **options: int
    ) -> Convolution:
        co, _, taps = shape
        W = rng.integers(-127, 128, shape).astype(np.int8)
        zero_point = options.pop("zero_point")
        bias = -zero_point * W.astype(np.int64).sum(axis=(1, 2)) + rng.integers(-500, 500, co)
        side = round(taps**0.5)
        low = side // 2
        return Convolution(
            name=name,
            inputs=(source,),
            kernel=(side, side),
            padding=(low, low, side - 1 - low, side - 1 - low),
            weights=Stored(W, 8),
            bias=bias.astype(np.int32),
            multiplier=rng.integers(1 << 30, (1 << 31) - 1, co).astype(np.int32),
            shift=np.full(co, 8, np.int8),
            input_zero_point=zero_point,
            output_zero_point=-4,
            rounding=rng.choice(list(Rounding)),
            **options,
        )

    def scaling(zero_point: int, shift: int) -> Scaling:
        return Scaling(zero_point, int(rng.integers(1 << 30, (1 << 31) - 1)), shift)

    return Network(
        layers=(
            convolution("first", "input", (4, 3, 9), zero_point=7),
            convolution("depthwise", "first", (4, 1, 4), zero_point=-4, groups=4),
            Pad(name="pad", inputs=("input",), padding=(0, 1, 2, 0), input_zero_point=7),
            Pooling(
                name="maximum", inputs=("pad",), mode="maximum", kernel=(3, 2), activation_max=99
            ),
            convolution("second", "maximum", (4, 3, 1), zero_point=7),
            Add(
                name="add",
                inputs=("depthwise", "second"),
                scalings=(scaling(-4, 0), scaling(-4, 1)),
                output_scaling=scaling(3, 18),
                activation_min=3,
                rounding=Rounding.EVEN,
            ),
            Requantise(
                name="requantise",
                inputs=("first",),
                input_zero_point=-4,
                output_scaling=scaling(3, 0),
                activation_max=100,
                rounding=Rounding.EVEN,
            ),
            Concatenation(name="concatenation", inputs=("add", "requantise", "add")),
            Mean(
                name="mean",
                inputs=("concatenation",),
                input_zero_point=3,
                output_scaling=scaling(-9, 4),
            ),
            Table(
                name="table",
                inputs=("mean",),
                table=rng.integers(-128, 128, 256).astype(np.int8),
                output_zero_point=-128,
            ),
            Multiply(
                name="multiply",
                inputs=("concatenation", "table"),
                input_zero_points=(3, -128),
                output_scaling=scaling(0, 7),
            ),
            Pooling(
                name="average",
                inputs=("multiply",),
                mode="average",
                kernel=(2, 3),
                stride=(2, 1),
                padding=(1, 1, 0, 0),
            ),
            Pooling(
                name="rescaled",
                inputs=("average",),
                mode="average",
                kernel=(2, 2),
                padding=(1, 0, 0, 1),
                input_zero_point=0,
                output_scaling=scaling(-6, -1),
            ),
        ),
        input_shape=(6, 5, 3),
        input_scale=0.5,
        input_zero_point=7,
        output_scale=0.25,
    )
