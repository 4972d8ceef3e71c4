"""Where the Bi terms of a kernel are summed: by V, or by B as a convolution in Bo groups.

    python examples/compression/summing.py

Cycles and bytes of one layer of 3 x 3 taps, of the cost model, as the table in docs/compression.md
has them. Weights are arbitrary: both depend on shapes and precisions alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from insitu.choice import Choice
from insitu.float_network import FloatConvolution
from insitu.maps import Map
from insitu.menu import Site, between
from insitu.plan import Price
from rtl.config import configuration

TAPS = 9
LAYERS = (
    ("up5k", 16, 80, 40),
    ("up5k", 8, 160, 48),
    ("ecp5-85f", 32, 64, 44),
    ("ecp5-85f", 8, 256, 44),
    ("ecp5-85f", 4, 512, 44),
)
"""Configuration, height and width of the map, Ci = Co, Bo."""

TERMS, QB, QU, QV = 2, 3, 4, 4


def convolution(co: int, ci: int, taps: int = 1, groups: int = 1) -> FloatConvolution:
    """A layer of `ci` channels a group, of one tap or of 3 x 3."""
    side = 3 if taps == TAPS else 1
    return FloatConvolution(
        name="layer",
        kernel=(side, side),
        padding=(side // 2,) * 4,
        groups=groups,
        weights=np.zeros((co, ci, taps)),
        bias=np.zeros(co),
    )


def prices(name: str, size: int, channels: int, kernels: int) -> list[Price]:
    """Stored at 4 bits, factored, V sums, B sums."""
    config = configuration(name)

    def of(wide: int) -> Map:
        return between((size, size, channels), wide, config)

    def stored(layer: FloatConvolution, bits: int, source: int) -> Price:
        site = Site(of(source), of(layer.weights.shape[0]))
        return site.price(layer, Choice(q=bits), config)

    whole = convolution(channels, channels, TAPS)
    site = Site(of(channels), of(channels))
    form = Choice(kernels=kernels, terms=TERMS, qb=QB, qu=QU, qv=QV, factored=True)
    terms = kernels * TERMS
    grouped = (
        stored(convolution(terms, channels), QU, channels)
        + stored(convolution(kernels, TERMS, TAPS, groups=kernels), QB, terms)
        + stored(convolution(channels, kernels), QV, kernels)
    )
    return [
        stored(whole, 4, channels),
        site.price(whole, form, config),
        site.price(whole, replace(form, fully=True), config),
        grouped,
    ]


def rows() -> list[str]:
    """The table."""
    table = []
    for name, size, channels, kernels in LAYERS:
        cells = [f"`{name}`, {size} x {size}, {channels}, {kernels}"]
        cells += [
            f"{price.cycles:,}; {price.weight_bytes:,}"
            for price in prices(name, size, channels, kernels)
        ]
        table.append(f"| {' | '.join(cells)} |")
    return table


def main() -> None:
    """Print it."""
    print("\n".join(rows()))


if __name__ == "__main__":
    main()
