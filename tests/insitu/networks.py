"""Random small networks for the tests of plan, pack and whatever runs images."""

from dataclasses import replace

import numpy as np

from golden.code import Code
from golden.fixed import symmetric_range
from golden.network import Convolution, Generated, Network, Rounding, Stored, chain, run
from insitu.float_network import FloatConvolution

__all__ = [
    "random_convolution",
    "random_generated",
    "random_layer",
    "random_network",
    "random_stored",
]


def random_convolution(rng, name, source, co, ci, kernel, *, gain=1.0, **settings):
    """A convolution of real numbers; its sums have `gain` times the variance of its inputs."""
    taps = kernel * kernel
    return FloatConvolution(
        name=name,
        inputs=(source,),
        kernel=(kernel, kernel),
        weights=rng.standard_normal((co, ci, taps)) * gain**0.5 * (ci * taps) ** -0.5,
        bias=0.3 * rng.standard_normal(co),
        **settings,
    )


def _coefficients(rng, shape, q):
    if q == 1:
        return rng.choice(np.array([-1, 1], np.int8), shape)
    low, high = symmetric_range(q)
    return rng.integers(low, high + 1, shape).astype(np.int8)


def random_stored(rng, co, ci, taps, q):
    """Stored weights over the whole range of q bits."""
    return Stored(_coefficients(rng, (co, ci, taps), q), q)


def random_generated(
    rng, co, ci, taps, *, terms=None, kernels=None, qb=4, qu=4, qv=4, s1=2, s2=5, powers=False
):
    """Generated weights; without `terms` or `kernels` that level is off.

    `powers`: U, of 3 bits, is powers of two.
    """
    bo = co if kernels is None else kernels
    shape = (bo, ci, taps if terms is None else terms)
    if powers:
        U = rng.choice(np.array([-4, -2, -1, 0, 1, 2, 4], np.int8), shape)
        parts = {"U": U, "qu": 3, "code": Code.POWER_OF_TWO}
    else:
        parts = {"U": _coefficients(rng, shape, qu), "qu": qu}
    if terms is not None:
        parts |= {"B": _coefficients(rng, (bo, terms, taps), qb), "qb": qb, "s1": s1}
    if kernels is not None:
        parts |= {"V": _coefficients(rng, (co, kernels), qv), "qv": qv, "s2": s2}
    return Generated(**parts)


def random_layer(rng, name, weights, x, kernel, input_zero_point, output_zero_point, **options):
    """A layer whose outputs for the maps `x` spread over the int8 range; ReLU at random.

    Returns the layer and its outputs.
    """
    co = weights.shape[0]
    layer = Convolution(
        name=name,
        kernel=kernel,
        weights=weights,
        bias=np.zeros(co, np.int32),
        multiplier=np.full(co, 1 << 30, np.int32),
        shift=np.zeros(co, np.int8),
        input_zero_point=input_zero_point,
        output_zero_point=output_zero_point,
        activation_min=output_zero_point if rng.integers(2) else -128,
        **{"rounding": rng.choice(list(Rounding))} | options,
    )
    sums = layer.sums(x).reshape(-1, co)
    spread = np.maximum(sums.std(axis=0), 1)
    real = np.minimum(rng.uniform(30, 90, co) / spread, 0.999)
    shift = np.clip(np.floor(-np.log2(real)), 0, 31).astype(np.int8)
    multiplier = np.round(real * 2.0 ** (31 + shift.astype(float)))
    bias = -sums.mean(axis=0) + rng.uniform(-1, 1, co) * spread
    layer = replace(
        layer,
        bias=bias.astype(np.int32),
        multiplier=np.minimum(multiplier, 2**31 - 1).astype(np.int32),
        shift=shift,
    )
    single = Network(
        layers=(layer,),
        input_shape=x.shape[1:],
        input_scale=1.0,
        input_zero_point=input_zero_point,
        output_scale=1.0,
    )
    return layer, run(single, x)


def random_network(rng, layers, input_shape):
    """A network of `layers`, each a dict: `weights` and the arguments of `random_layer`."""
    zero = int(rng.integers(-128, 128))
    x = rng.integers(-128, 128, (4, *input_shape)).astype(np.int8)
    built = []
    for index, options in enumerate(layers):
        options = dict(options)
        after = int(rng.integers(-100, 100))
        weights, kernel = options.pop("weights"), options.pop("kernel")
        layer, x = random_layer(rng, f"layer{index}", weights, x, kernel, zero, after, **options)
        built.append(layer)
        zero = after
    return Network(
        layers=chain(built),
        input_shape=input_shape,
        input_scale=1 / 255,
        input_zero_point=built[0].input_zero_point,
        output_scale=0.1,
    )
