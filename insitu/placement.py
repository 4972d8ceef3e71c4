"""Placement of regions in a memory by lifetime: dynamic storage allocation, offline.

Three attempts, each only where the one before leaves more bytes in use than some step needs:

1. Some orders, in which each region takes the lowest address that is free throughout its steps.
   Exact for chains, where a region meets only the ones before and after it.
2. Changes to the best order: what ends highest is placed earlier. Enough for most networks.
3. A search from the bottom up, which cuts what cannot beat the best so far, and ends with a proof
   or after a bounded amount of work. Exact for some ten regions.

The same regions always get the same addresses.
"""

import random
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from golden import checks

__all__ = ["Region", "lower_bound", "place"]

CHANGES = 300
"""Changes to the best order that are tried: some tenths of a second for a hundred regions."""

WORK = 200_000
"""Regions that the search looks at before it gives up: the same."""

_UPHILL = 0.05
"""Share of changes for the worse that are kept, to get away from where all are."""

_LARGEST = 1 << 40


@dataclass(frozen=True)
class Region:
    """A piece of activation memory that some steps of a program need.

    Parameters
    ----------
    name : str
        For messages; need not be unique.
    size : int
        Bytes, at least 1. Addresses are sums of sizes: where all sizes are multiples of an
        alignment, so are all addresses.
    first, last : int
        Steps, both inclusive and from 0, during which its contents must survive.

    Raises
    ------
    TypeError, ValueError
        For anything outside these; the message names the region and quotes the value.
    """

    name: str
    size: int
    first: int
    last: int

    def __post_init__(self) -> None:
        where = f"region {self.name!r}:"
        for field, low in (("size", 1), ("first", 0), ("last", 0)):
            value = checks.integer(f"{where} {field}", getattr(self, field), low, _LARGEST)
            checks.keep(self, field, value)
        if self.last < self.first:
            raise ValueError(
                f"{where} last must be at least its first step, {self.first}, not {self.last}"
            )

    def overlaps(self, other: "Region") -> bool:
        """Whether some step needs both."""
        return self.first <= other.last and other.first <= self.last


def lower_bound(regions: Sequence[Region]) -> int:
    """Most bytes alive at one step: what no placement can beat."""
    starts = {region.first for region in regions}
    return max(
        (sum(r.size for r in regions if r.first <= step <= r.last) for step in starts), default=0
    )


def place(regions: Sequence[Region]) -> tuple[list[int], int]:
    """Place regions so that they take few bytes.

    Parameters
    ----------
    regions : sequence of Region

    Returns
    -------
    list of int
        Byte address of each region, in order. Regions whose steps overlap never share a byte.
    int
        Bytes in use at most: the end of the region that ends last.
    """
    bound = lower_bound(regions)
    tried = [(_first_fit(regions, order), order) for order in _orders(regions)]
    best, order = min(tried, key=lambda one: _peak(regions, one[0]))
    if _peak(regions, best) > bound:
        best = _change(regions, bound, best, order)
    if _peak(regions, best) > bound:
        best = _Search(regions, bound, _peak(regions, best)).run() or best
    return best, _peak(regions, best)


def _peak(regions: Sequence[Region], addresses: Sequence[int]) -> int:
    ends = (address + r.size for r, address in zip(regions, addresses, strict=True))
    return max(ends, default=0)


def _orders(regions: Sequence[Region]) -> list[list[int]]:
    """Orders that do well: by colour, and the largest or longest first."""
    colours = _colours(regions)

    def length(i: int) -> int:
        return regions[i].last - regions[i].first + 1

    keys: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (colours[i], -regions[i].size),
        lambda i: (-regions[i].size, -length(i)),
        lambda i: (-regions[i].size * length(i),),
        lambda i: (-length(i), -regions[i].size),
        lambda i: (regions[i].first, -regions[i].size),
        lambda i: (-regions[i].last, -regions[i].size),
    ]
    return [sorted(range(len(regions)), key=key) for key in keys]


def _colours(regions: Sequence[Region]) -> list[int]:
    """A number for each region, no two of which are equal where steps overlap; few numbers.

    Along a chain they alternate. Every other region then lies at address 0, and those between
    end at the greatest sum of two neighbours, which is the lower bound.
    """
    colours = [0] * len(regions)
    done: list[int] = []
    for i in sorted(range(len(regions)), key=lambda i: (regions[i].first, -regions[i].last)):
        taken = {colours[j] for j in done if regions[i].overlaps(regions[j])}
        colours[i] = next(colour for colour in range(len(regions)) if colour not in taken)
        done.append(i)
    return colours


def _first_fit(regions: Sequence[Region], order: Sequence[int]) -> list[int]:
    """Addresses with each region, in `order`, at the lowest that is free."""
    addresses = [0] * len(regions)
    done: list[tuple[int, int, int, int]] = []
    for i in order:
        region, address = regions[i], 0
        for start, end, first, last in done:
            if first <= region.last and region.first <= last:
                if address + region.size <= start:
                    break
                address = max(address, end)
        addresses[i] = address
        insort(done, (address, address + region.size, region.first, region.last))
    return addresses


def _change(regions: Sequence[Region], bound: int, best: list[int], order: list[int]) -> list[int]:
    """The best addresses of those that `order` gives and that changes to it give."""
    rng = random.Random(0)
    addresses, peak, least = best, _peak(regions, best), _peak(regions, best)
    for _ in range(CHANGES):
        highest = [i for i, region in enumerate(regions) if addresses[i] + region.size == peak]
        moved = rng.choice(highest)
        at = order.index(moved)
        changed = [i for i in order if i != moved]
        changed.insert(rng.randrange(max(at, 1)), moved)
        found = _first_fit(regions, changed)
        used = _peak(regions, found)
        if used <= peak or rng.random() < _UPHILL:
            addresses, order, peak = found, changed, used
        if used < least:
            best, least = found, used
        if least == bound:
            break
    return best


class _Search:
    """Depth first over the placements in which each region lies on the floor or on another.

    Regions are placed in the order of their addresses (of their indices where those are equal),
    so each comes to lie on the greatest height so far among its steps. Some best placement has
    this form, and no region in it could lie wholly below the one placed before it.
    """

    def __init__(self, regions: Sequence[Region], bound: int, peak: int) -> None:
        # Steps at which no region begins hold no more than the step before them.
        steps = sorted({region.first for region in regions})
        self.spans = [
            [n for n, step in enumerate(steps) if region.first <= step <= region.last]
            for region in regions
        ]
        self.sizes = [region.size for region in regions]
        self.bound, self.peak = bound, peak
        self.heights = [0] * len(steps)
        self.missing = [0] * len(steps)
        """Bytes of the regions still to place, at each step."""
        for span, size in zip(self.spans, self.sizes, strict=True):
            for step in span:
                self.missing[step] += size
        self.left = list(range(len(regions)))
        self.addresses = [0] * len(regions)
        self.best: list[int] = []
        self.work = WORK

    def run(self) -> list[int]:
        """Addresses that take less than `peak`, the least that was found; empty if none."""
        self._place(0, -1)
        return self.best

    def _place(self, floor: int, before: int) -> None:
        """Place what is left, at `floor` or above; `before` is what was placed last."""
        if not self.left:
            self.best, self.peak = list(self.addresses), max(self.heights)
            return
        self.work -= len(self.left)
        for height, missing in zip(self.heights, self.missing, strict=True):
            if max(height, floor if missing else 0) + missing >= self.peak:
                return
        heights = self.heights
        lowest = {i: max(heights[step] for step in self.spans[i]) for i in self.left}
        ceiling = min(address + self.sizes[i] for i, address in lowest.items())
        choices = [i for i in self.left if (floor, before) < (lowest[i], i)]
        choices = [i for i in choices if lowest[i] < ceiling]
        for i in sorted(choices, key=lambda i: (lowest[i], -self.sizes[i] * len(self.spans[i]))):
            saved = [heights[step] for step in self.spans[i]]
            self._put(i, [lowest[i] + self.sizes[i]] * len(saved), -self.sizes[i])
            self.addresses[i] = lowest[i]
            self.left.remove(i)
            self._place(lowest[i], i)
            self.left.append(i)
            self._put(i, saved, self.sizes[i])
            if self.peak == self.bound or self.work <= 0:
                return

    def _put(self, i: int, heights: Sequence[int], missing: int) -> None:
        for step, height in zip(self.spans[i], heights, strict=True):
            self.heights[step] = height
            self.missing[step] += missing
