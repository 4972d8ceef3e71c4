"""Placement by lifetime: never an overlap, and as few bytes as there can be."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu import placement
from insitu.placement import Region, lower_bound, place

STEPS = st.integers(0, 9)


def region_lists(most, sizes):
    drawn = st.lists(st.tuples(sizes, STEPS, STEPS), max_size=most)
    return drawn.map(
        lambda values: [
            Region(f"r{i}", size, min(a, b), max(a, b)) for i, (size, a, b) in enumerate(values)
        ]
    )


def check(regions):
    """Place, and check everything but how good it is."""
    addresses, peak = place(regions)
    assert len(addresses) == len(regions)
    for (i, a), (j, b) in itertools.combinations(enumerate(regions), 2):
        if max(a.first, b.first) <= min(a.last, b.last):
            apart = addresses[i] + a.size <= addresses[j] or addresses[j] + b.size <= addresses[i]
            assert apart, f"{a} at {addresses[i]}, {b} at {addresses[j]}"
    assert min(addresses, default=0) == 0
    ends = [address + r.size for address, r in zip(addresses, regions, strict=True)]
    assert peak == max(ends, default=0) >= lower_bound(regions)
    return addresses, peak


def fits(regions, memory):
    """Whether some placement takes at most `memory` bytes, by trying every one.

    Placed in the order of their addresses in some best placement, each on all that came before
    it and lives at the same time, none comes to lie higher than there: it is enough to go through
    the orders. What counts of a beginning of an order is which regions it has, and the heights.
    """
    steps = max((region.last + 1 for region in regions), default=0)
    beginnings = {(frozenset(), (0,) * steps)}
    for _ in regions:
        longer = set()
        for placed, heights in beginnings:
            for i, region in enumerate(regions):
                span = range(region.first, region.last + 1)
                top = max(heights[step] for step in span) + region.size
                if i not in placed and top <= memory:
                    after = (top if step in span else height for step, height in enumerate(heights))
                    longer.add((placed | {i}, tuple(after)))
        beginnings = longer
    return bool(beginnings) and memory >= 0


@given(region_lists(40, st.integers(1, 64).map(lambda n: 8 * n)))
@settings(max_examples=50)
def test_regions_that_live_at_the_same_time_do_not_overlap(regions):
    addresses, _ = check(regions)
    assert all(address % 8 == 0 for address in addresses)


@given(region_lists(8, st.integers(1, 9)))
@settings(max_examples=150)
def test_few_regions_take_as_little_as_they_can(regions):
    assert not fits(regions, check(regions)[1] - 1)


def full(rng, count, load):
    """Regions that leave no byte of `load` free at any step but the last: what is hard to place."""
    alive, done, free, step = [], [], load, 0
    while len(done) + len(alive) < count:
        while free and len(done) + len(alive) < count:
            size = int(rng.integers(1, min(free, load // 2) + 1))
            alive.append((size, step))
            free -= size
        for _ in range(min(len(alive), int(rng.integers(1, 3)))):
            size, first = alive.pop(int(rng.integers(len(alive))))
            done.append((size, first, step))
            free += size
        step += 1
    done += [(size, first, step) for size, first in alive]
    return [Region(f"r{i}", *values) for i, values in enumerate(done)]


@pytest.fixture(params=["all", "search"])
def attempts(request, monkeypatch):
    """Every attempt, or the search alone."""
    if request.param == "search":
        monkeypatch.setattr(placement, "CHANGES", 0)
        monkeypatch.setattr(placement, "_orders", lambda regions: [list(range(len(regions)))])


@pytest.mark.usefixtures("attempts")
def test_full_memories_take_as_little_as_they_can(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        regions = full(rng, 10, int(rng.integers(4, 13)))
        peak = check(regions)[1]
        assert peak == lower_bound(regions) or not fits(regions, peak - 1), regions


# (size, first, last): no placement takes as little as the fullest step needs.
BEYOND = {
    11: "200 401 112 322 123 233 204 234 345 116 456",
    12: "200 201 122 122 133 114 134 145 116 166 277 258",
}


@pytest.mark.usefixtures("attempts")
@pytest.mark.parametrize("count", BEYOND)
def test_what_no_placement_can_reach_is_proved(count):
    spans = [tuple(map(int, word)) for word in BEYOND[count].split()]
    regions = [Region(f"r{i}", *span) for i, span in enumerate(spans)]
    peak = check(regions)[1]
    assert peak == lower_bound(regions) + 1
    assert not fits(regions, peak - 1)
    assert fits(regions, peak)


@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=60))
def test_a_chain_takes_its_greatest_two_neighbours(sizes):
    regions = [Region(f"map{i}", size, i, i + 1) for i, size in enumerate(sizes)]
    pairs = itertools.pairwise([*sizes, 0])
    assert check(regions)[1] == max(a + b for a, b in pairs)


@given(st.lists(st.integers(1, 100), max_size=30))
def test_what_is_always_needed_takes_the_sum(sizes):
    regions = [Region(f"map{i}", size, 0, 9) for i, size in enumerate(sizes)]
    assert check(regions)[1] == sum(sizes) == lower_bound(regions)


def maps(layers, source):
    """Regions of the maps of a graph: the input, and one for each (name, size, inputs)."""
    sizes = {"input": source} | {name: size for name, size, _ in layers}
    last = {name: step for step, (_, _, inputs) in enumerate(layers) for name in inputs}
    first = {"input": 0} | {name: step for step, (name, _, _) in enumerate(layers)}
    return [
        Region(name, size, first[name], last.get(name, len(layers) - 1))
        for name, size in sizes.items()
    ]


def resnet(blocks, widths, side, source):
    layers = [("stem", side * side * widths[0], ["input"])]
    before = "stem"
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for block in range(count):
            name, shortcut = f"{stage}.{block}", before
            down = block == 0 and stage > 0
            side = side // 2 if down else side
            size = side * side * width
            layers += [(f"{name}a", size, [before]), (f"{name}b", size, [f"{name}a"])]
            if down:
                shortcut = f"{name}s"
                layers.append((shortcut, size, [before]))
            layers.append((name, size, [f"{name}b", shortcut]))
            before = name
    layers += [("mean", widths[-1], [before]), ("logits", 16, ["mean"])]
    return maps(layers, source)


def densenet(growth, blocks, *, copied):
    """DenseNet: blocks whose layers read all before them, side by side or `copied` together."""
    side, channels = 32, 2 * growth
    layers = [("stem", side * side * channels, ["input"])]
    read = ["stem"]
    for stage, count in enumerate(blocks):
        for block in range(count):
            name = f"{stage}.{block}"
            if copied:
                layers.append((f"{name}n", side * side * channels, list(read)))
            source = [f"{name}n"] if copied else list(read)
            layers.append((f"{name}a", side * side * 4 * growth, source))
            layers.append((name, side * side * growth, [f"{name}a"]))
            channels += growth
            if copied:
                layers.append((f"{name}c", side * side * channels, [*read, name]))
                read = [f"{name}c"]
            else:
                read.append(name)
        if stage + 1 < len(blocks):
            channels //= 2
            layers.append((f"t{stage}", side * side * channels, list(read)))
            side //= 2
            layers.append((f"p{stage}", side * side * channels, [f"t{stage}"]))
            read = [f"p{stage}"]
    layers += [("mean", channels, list(read)), ("logits", 16, ["mean"])]
    return maps(layers, 32 * 32 * 4)


def mobilenet(rng, blocks):
    """Inverted residuals with squeeze-and-excitation, of random widths."""
    side, channels, before = 56, 16, "stem"
    layers = [("stem", side * side * channels, ["input"])]
    for block in range(blocks):
        name = f"{block}"
        wide = channels * int(rng.integers(1, 7))
        down = side > 7 and rng.random() < 0.3
        after = -(-side // 2) if down else side
        grown = channels + 8 * int(rng.integers(0, 4))
        layers += [
            (f"{name}e", side * side * wide, [before]),
            (f"{name}d", after * after * wide, [f"{name}e"]),
            (f"{name}q", wide, [f"{name}d"]),
            (f"{name}r", wide, [f"{name}q"]),
            (f"{name}m", after * after * wide, [f"{name}d", f"{name}r"]),
            (name, after * after * grown, [f"{name}m"]),
        ]
        if grown == channels and not down:
            layers.append((f"{name}s", side * side * grown, [name, before]))
            name = f"{name}s"
        side, channels, before = after, grown, name
    layers += [("mean", channels, [before]), ("logits", 1000, ["mean"])]
    return maps(layers, 112 * 112 * 4)


NETWORKS = {
    "ResNet-8": resnet([1, 1, 1], [16, 32, 64], 32, 32 * 32 * 4),
    "ResNet-18": resnet([2] * 4, [64, 128, 256, 512], 32, 32 * 32 * 4),
    "DenseNet-121": densenet(32, (6, 12, 24, 16), copied=False),
    "DenseNet-121, copied": densenet(32, (6, 12, 24, 16), copied=True),
    "DenseNet-BC-100": densenet(12, (16, 16, 16), copied=True),
    **{f"MobileNet {n}": mobilenet(np.random.default_rng(n), 16) for n in range(8)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_what_one_step_needs(name):
    regions = NETWORKS[name]
    assert check(regions)[1] == lower_bound(regions)


def test_the_same_regions_get_the_same_addresses():
    regions = NETWORKS["DenseNet-BC-100"]
    assert place(regions) == place(list(regions))


def test_a_hundred_regions_take_little_time(seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 120, 120)
    lives = rng.integers(0, 40, 120)
    regions = [
        Region(f"r{i}", int(size), int(a), int(a + life))
        for i, (size, a, life) in enumerate(
            zip(rng.integers(1, 1 << 16, 120), first, lives, strict=True)
        )
    ]
    start = time.process_time()
    peak = check(regions)[1]
    assert time.process_time() - start < 2
    assert peak <= 1.1 * lower_bound(regions)


def test_nothing_takes_nothing():
    assert place([]) == ([], 0)
    assert lower_bound([]) == 0


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ((0, 0, 1), ValueError, r"region 'a': size must be in 1\.\.\d+, not 0"),
        ((-8, 0, 1), ValueError, r"region 'a': size must be in 1\.\.\d+, not -8"),
        ((1.5, 0, 1), TypeError, r"region 'a': size must be an integer, not 1\.5"),
        ((8, -1, 1), ValueError, r"region 'a': first must be in 0\.\.\d+, not -1"),
        ((8, 0, -2), ValueError, r"region 'a': last must be in 0\.\.\d+, not -2"),
        ((8, 3, 2), ValueError, r"region 'a': last must be at least its first step, 3, not 2"),
    ],
)
def test_what_is_no_region_is_named(values, error, message):
    with pytest.raises(error, match=message):
        Region("a", *values)
