"""Search for how to keep a network's weights: under a budget, or for an accuracy.

The options of every layer (`insitu.menu`) are measured once; a solver chooses among them
(`insitu.allocate`); what it chose is compressed jointly, layer after layer on what the compressed
layers before it give (`insitu.compress`), planned, and measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.network import Network, run
from insitu.allocate import Allocation, Limits, allocate, frontier
from insitu.compress import compress, compressible
from insitu.errors import FitError, InputError, NetworkError
from insitu.float_network import FloatNetwork
from insitu.menu import Menu, Option, Store, digest, distance, menus_for, network_digest, place
from insitu.network import from_bytes, to_bytes
from insitu.plan import Plan, plan_roomy
from insitu.progress import Progress
from insitu.quantise import Calibration, check_knowledge, check_varied, quantise_inputs
from rtl.config import Configuration

__all__ = [
    "Built",
    "Found",
    "Labelled",
    "Search",
    "check_labelled",
    "check_samples",
    "outputs_of",
]

Floats = NDArray[np.floating[Any]]

_BATCH = 100
"""Samples that run at a time."""
_POINTS = 16
"""Of a frontier."""
_ATTEMPTS = 4
"""Allocations that are planned, each more careful, where bands of rows make prices inexact."""
_FEWEST = 16
"""Calibration samples."""
_SPAN = 4.0
"""Ratio of two ranges from which on they cannot be of the same kind of inputs."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples that accuracy is measured on.

    Parameters
    ----------
    inputs : float32 [N, H, W, C]
    labels : int64 [N]
    """

    inputs: Floats
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Built:
    """An allocation, compressed and planned.

    Parameters
    ----------
    allocation : Allocation
    network : Network
    plan : Plan
    loss : float
        `distance` of its outputs from the float network's, on samples that it was not fitted to.
    instead : dict of layer name to Option or None
        What another dataflow gives in no more bytes at the least loss, if any does.
    """

    allocation: Allocation
    network: Network
    plan: Plan
    loss: float
    instead: dict[str, Option | None]

    @property
    def bytes(self) -> int:
        """Of weights as packed and parameters."""
        return self.plan.weight_bits // 8 + sum(one.parameter_bytes for one in self.plan.layers)

    def report(self) -> dict[str, Any]:
        """The figures as plain data."""
        planned = self.plan
        return {
            "bytes": self.bytes,
            "weight_bytes": planned.weight_bits // 8,
            "parameter_bytes": self.bytes - planned.weight_bits // 8,
            "program_bytes": planned.parameters_base,
            "payload_bytes": planned.payload_bytes,
            "cycles": planned.cycles,
            "proxy_loss": self.allocation.loss,
            "loss": self.loss,
            "plan": planned.report(),
            "layers": [
                {"name": name, "dataflow": option.choice.dataflow}
                | _figures(option)
                | {"instead": None if other is None else _figures(other)}
                for name, option in self.allocation.options.items()
                for other in (self.instead[name],)
            ],
        }


def _figures(option: Option) -> dict[str, Any]:
    return {
        "choice": str(option.choice),
        "bytes": option.bytes,
        "cycles": option.price.cycles,
        "proxy_loss": option.loss,
    }


@dataclass(frozen=True, eq=False)
class Found:
    """What was built within limits: of all forms, and of stored weights alone.

    Parameters
    ----------
    compressed : Built
    plain : Built or None
        None where storing cannot meet them.
    refused : str
        Then why not.
    """

    compressed: Built
    plain: Built | None
    refused: str = ""

    @property
    def best(self) -> Built:
        """That of the lower measured loss."""
        if self.plain is not None and self.plain.loss < self.compressed.loss:
            return self.plain
        return self.compressed


class Search:
    """Options of a network's layers, and what can be made of them.

    Parameters
    ----------
    network : FloatNetwork
    calibration : Calibration
        Every fourth of its inputs is left out of all fits: on these `Built.loss` is measured.
    config : Configuration
    store : Store
        Keeps what is found, so that a search that was interrupted resumes.
    seed : int, optional
        Of the random beginnings of fits.
    progress : callable, optional

    Raises
    ------
    FitError
        If the configuration cannot run the network in any form.
    InputError
        If there are too few calibration samples.
    """

    def __init__(
        self,
        network: FloatNetwork,
        calibration: Calibration,
        config: Configuration,
        *,
        store: Store,
        seed: int = 0,
        progress: Progress | None = None,
    ):
        self.network, self.config = network, config
        self.calibration, self._unseen = _parts(calibration)
        self._store, self._seed = store, seed
        self._tell = progress or (lambda done, total, what: None)
        self._tell(0, None, "planning")
        if not compressible(network):
            raise FitError(
                f"network {network.name!r} has no layer to compress",
                "name one with convolutions or fully connected layers",
            )
        sites, self.fixed = place(network, self.calibration, config)
        menus = menus_for(
            network,
            self.calibration,
            config,
            sites,
            store=store,
            seed=seed,
            progress=self._tell,
        )
        self._options = {menu.name: menu.options for menu in menus}
        self.menus = [menu.best for menu in menus]
        self.plain = [menu.stored.best for menu in menus]
        # Weights begin at a whole word.
        self._room = config.coefficient_bytes - config.coefficient_port // 8
        fitted = self.calibration
        maps = fitted.inputs, fitted.scales, fitted.zero_points
        self._key = network_digest(network), *maps, config.generator_max_shift, seed

    def frontier(
        self, menus: Sequence[Menu], cycles: int | None = None, points: int = _POINTS
    ) -> list[Allocation]:
        """Allocations of growing memory and shrinking loss."""
        return frontier(menus, self.fixed, Limits(None, cycles, self._room), points)

    def build(self, menus: Sequence[Menu], budget: int | None, cycles: int | None = None) -> Built:
        """The allocation of least loss of some menus, compressed.

        Parameters
        ----------
        menus : sequence of Menu
            `menus` or `plain`.
        budget : int or None
            Bytes of weights and parameters.
        cycles : int, optional

        Raises
        ------
        FitError
            If it cannot be met.
        """
        limits = Limits(budget, cycles, self._room)
        allocation = allocate(menus, self.fixed, limits)
        for attempt in range(_ATTEMPTS):
            if attempt:
                try:
                    allocation = allocate(menus, self.fixed, limits)
                except FitError:
                    break  # It would be of limits that nobody named.
            network = self._compressed(allocation)
            planned = plan_roomy(network, self.config, name=self.network.name)
            slow = 0 if cycles is None else planned.cycles - cycles
            large = planned.payload_bytes - self.config.coefficient_bytes
            if slow <= 0 and large <= 0:
                instead = {
                    name: self._instead(name, option) for name, option in allocation.options.items()
                }
                return Built(allocation, network, planned, self.loss(network), instead)
            limits = replace(
                limits,
                cycles=None if limits.cycles is None else limits.cycles - max(slow, 0),
                room=self._room if limits.room is None else limits.room - max(large, 0),
            )
        if large > 0:
            raise FitError(
                f"with its program in bands of rows the network is {large:,} bytes too large",
                "use a configuration with more of either memory",
            )
        raise FitError(
            f"an allocation of {allocation.price.cycles:,} cycles takes {planned.cycles:,} in "
            "bands of rows",
            "allow more cycles, or use a configuration with more activation memory",
        )

    def find(self, budget: int | None, cycles: int | None = None) -> Found:
        """The allocations of least loss, of all forms and of stored weights alone.

        Parameters and errors as for `build`.
        """
        compressed = self.build(self.menus, budget, cycles)
        try:
            return Found(compressed, self.build(self.plain, budget, cycles))
        except FitError as error:
            return Found(compressed, None, error.cause)

    def least(
        self, samples: Labelled, points_lost: float, cycles: int | None = None
    ) -> tuple[Found, list[dict[str, Any]]]:
        """The smallest of a frontier whose measured accuracy is near enough to the float network's.

        Allocations are halved between; accuracy is taken to grow with memory. What counts is the
        best that was found in as much memory.

        Parameters
        ----------
        samples : Labelled
        points_lost : float
            Percentage points of accuracy that may be lost.
        cycles : int, optional

        Returns
        -------
        (Found, list of dict)
            And what was tried: `bytes` and `accuracy`.

        Raises
        ------
        FitError
            If even the largest loses more.
        """
        whole = self.accuracy(None, samples)
        line = self.frontier(self.menus, cycles)
        if not line:
            self.build(self.menus, None, cycles)
        tried: list[dict[str, Any]] = []

        def attempt(number: int) -> tuple[Found, float]:
            found = self.find(line[number].bytes, cycles)
            accuracy = self.accuracy(found.best.network, samples)
            tried.append({"bytes": found.best.bytes, "accuracy": accuracy})
            return found, 100 * (whole - accuracy)

        low, high = 0, len(line) - 1
        while True:
            try:
                least, lost = attempt(high)
                break
            except FitError:  # In bands of rows, whose cycles prices only come near to.
                if high == 0:
                    raise
                high -= 1
        if lost > points_lost:
            enough = math.ceil(100 * lost) / 100
            raise FitError(
                f"{points_lost:g} points cannot be met: {least.best.bytes:,} bytes, the most that "
                f"helps, lose {lost:.2f} points of {whole:.2%} on these {len(samples.labels)} "
                "samples",
                f"allow {enough:.2f} points, or retrain in the compressed form",
            )
        while low < high:
            middle = (low + high) // 2
            try:
                found, lost = attempt(middle)
            except FitError:
                lost = math.inf
            if lost <= points_lost:
                least, high = found, middle
            else:
                low = middle + 1
        return least, tried

    def accuracy(self, network: Network | None, samples: Labelled) -> float:
        """Share of samples that a network, or the float network, gets right."""
        measured = self.network if network is None else network
        return _accuracy(measured, samples, self._store, self._tell)

    def loss(self, network: Network) -> float:
        """`distance` of a network's outputs from the float one's, on samples that no fit has seen.

        Layers of more inputs than there are samples can be fitted to these as well as one likes.
        """
        key = digest("loss", *self._key, self._unseen, to_bytes(network))
        made = self._store.figures(
            key, lambda: {"loss": distance(outputs_of(network, self._unseen), self._wanted)}
        )
        return made["loss"]

    @cached_property
    def _wanted(self) -> Floats:
        return outputs_of(self.network, self._unseen)

    def _instead(self, name: str, chosen: Option) -> Option | None:
        others = (
            one
            for one in self._options[name]
            if one.choice.dataflow != chosen.choice.dataflow and one.bytes <= chosen.bytes
        )
        return min(others, key=lambda one: one.loss, default=None)

    def _compressed(self, allocation: Allocation) -> Network:
        choices = allocation.choices
        key = digest(*self._key, sorted((name, str(choices[name])) for name in choices)) + ".npz"
        kept = self._store.get(key)
        if kept is not None:
            try:
                return from_bytes(kept, f"cache {key}")
            except NetworkError:
                pass  # Damaged: made again.
        network, _ = compress(
            self.network,
            self.calibration,
            choices,
            self.config,
            seed=self._seed,
            progress=lambda done, total, name: self._tell(done, total, "compressing"),
        )
        self._store.put(key, to_bytes(network))
        return network


def _parts(calibration: Calibration) -> tuple[Calibration, Floats]:
    """What is fitted to, with the scales of all, and what is not."""
    inputs = calibration.inputs
    if len(inputs) < _FEWEST:
        raise InputError(
            f"{len(inputs)} calibration samples are too few: some are fitted to, and what that is "
            f"worth is measured on others; there must be {_FEWEST} at least",
            "give some hundred typical inputs",
        )
    unseen = np.arange(len(inputs)) % 4 == 0
    return replace(calibration, inputs=inputs[~unseen]), inputs[unseen]


def outputs_of(network: Network | FloatNetwork, inputs: Floats) -> Floats:
    """Outputs [N, values] in real numbers, for real inputs [N, H, W, C]."""
    if isinstance(network, FloatNetwork):
        batches = [network.run(inputs[n : n + _BATCH]) for n in range(0, len(inputs), _BATCH)]
        return np.concatenate(batches).reshape(len(inputs), -1)
    integers = quantise_inputs(inputs, network.input_scale, network.input_zero_point)
    outputs = run(network, integers).reshape(len(inputs), -1)
    return network.output_scale * (outputs - np.float64(network.output_zero_point))


def _accuracy(
    network: FloatNetwork | Network, samples: Labelled, store: Store, tell: Progress
) -> float:
    kind, one = (
        ("float", network_digest(network))
        if isinstance(network, FloatNetwork)
        else ("compressed", to_bytes(network))
    )

    def right() -> dict[str, float]:
        found = 0
        for start in range(0, len(samples.labels), _BATCH):
            tell(start, len(samples.labels), f"evaluating the {kind} network")
            batch = slice(start, start + _BATCH)
            outputs = outputs_of(network, samples.inputs[batch])
            found += int((outputs.argmax(axis=1) == samples.labels[batch]).sum())
        return {"right": found / len(samples.labels)}

    key = digest("accuracy", one, samples.inputs, samples.labels)
    return store.figures(key, right)["right"]


def check_labelled(
    network: FloatNetwork, samples: Labelled, store: Store, progress: Progress
) -> None:
    """Refuse samples of which a network knows nothing: any other would be as good.

    Raises
    ------
    InputError
        If it is right on no more of them than have one and the same label.
    """
    share = _accuracy(network, samples, store, progress)
    check_knowledge(round(share * len(samples.labels)), samples.labels)


def check_samples(calibration: Floats, inputs: Floats | None, source: str) -> None:
    """Refuse calibration samples that no network was trained with.

    Parameters
    ----------
    calibration : float32 [N, H, W, C]
    inputs : the same, or None
        What accuracy is measured on.
    source : str
        Of the calibration samples, for messages.

    Raises
    ------
    InputError
        If they are all one value, or their range is not that of the inputs.
    """
    check_varied(calibration, source)
    if inputs is None:
        return
    low, high = float(calibration.min()), float(calibration.max())
    other = float(inputs.min()), float(inputs.max())
    reach, others = max(abs(low), abs(high)), max(abs(other[0]), abs(other[1]))
    if not 1 / _SPAN < reach / max(others, 1e-30) < _SPAN:
        raise InputError(
            f"{source} are in {low:g}..{high:g}, the inputs in {other[0]:g}..{other[1]:g}",
            "give both in the range that the model was trained with",
        )
