"""Networks on boards: frames a second, use of the array, memory and area.

Every network is planned twice for a board's array: as it is, and as what it was compressed from,
with all weights stored at 8 bits. Cycles come from the cost model, or where that is asked for from
the RTL.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from golden.network import Convolution, Network, Stored
from insitu.demo import stored
from insitu.errors import FitError, InputError
from insitu.inspect import inspect
from insitu.models import Model, load_model
from insitu.pack import make_image
from insitu.plan import Plan, plan_roomy
from insitu.progress import Progress
from insitu.simulate import prepare, simulate_image
from rtl.config import Configuration, configuration

__all__ = ["EXAMPLES", "bench", "dense"]

_ROOT = Path(__file__).resolve().parent.parent / "examples"

EXAMPLES = (_ROOT / "fashion" / "fashion_compressed.npz", _ROOT / "mlperf_tiny" / "ic2_up5k.npz")
"""Networks of the table in the README."""

MODEL, RTL = "cost model", "RTL"
"""Where cycles come from."""


_LARGEST = 15
"""Largest weight of a joined layer: accumulators hold its sums."""


def dense(network: Network) -> Network:
    """A network of the shapes that `network` was compressed from, all weights stored at 8 bits.

    A convolution with basis kernels ("NAME.basis"), the pointwise one behind it (NAME) and, where
    it is fully factored, the one before it ("NAME.coefficients") become one layer again. Its
    weights are scaled to have room in an accumulator, so that answers mean nothing: cycles and
    memory do.
    """
    layers = {layer.name: layer for layer in network.layers}
    for name, second in list(layers.items()):
        first = layers.get(f"{name}.basis")
        if (
            isinstance(first, Convolution)
            and isinstance(second, Convolution)
            and second.inputs == (first.name,)
            and first.groups == second.groups == 1
        ):
            layers[name] = _joined(first, second)
            del layers[first.name]
        before = layers.get(f"{name}.coefficients")
        if (
            isinstance(before, Convolution)
            and isinstance(first, Convolution)
            and isinstance(second, Convolution)
            and first.depthwise
            and (second.inputs, first.inputs) == ((first.name,), (before.name,))
        ):
            layers[name] = _joined(_generating(before, first), second)
            del layers[before.name], layers[first.name]
    return stored(replace(network, layers=tuple(layers.values())))


def _generating(coefficients: Convolution, basis: Convolution) -> Convolution:
    """The convolution that a pointwise and a depthwise one are together."""
    weights = coefficients.weights.W.astype(np.int64) * basis.weights.W
    scale = max(1.0, np.abs(weights).max() / 127)
    return replace(
        basis,
        inputs=coefficients.inputs,
        weights=Stored(np.round(weights / scale).astype(np.int8), 8),
        input_zero_point=coefficients.input_zero_point,
        groups=1,
    )


def _joined(first: Convolution, second: Convolution) -> Convolution:
    weights = np.einsum(
        "ob,bct->oct",
        second.weights.W[:, :, 0].astype(np.int64),
        first.weights.W.astype(np.int64),
    )
    scale = max(1.0, np.abs(weights).max() / _LARGEST)
    return replace(
        second,
        inputs=first.inputs,
        kernel=first.kernel,
        stride=first.stride,
        padding=first.padding,
        dilation=first.dilation,
        weights=Stored(np.round(weights / scale).astype(np.int8), 8),
        input_zero_point=first.input_zero_point,
    )


def bench(
    models: Sequence[Path],
    boards: Sequence[dict[str, Any]],
    *,
    calibration: Path | None = None,
    rtl: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run networks on boards, on paper or on the RTL.

    Parameters
    ----------
    models : sequence of path
        What `insitu.models.load_model` reads.
    boards : sequence of dict
        Of `boards.catalogue`. Each must have been built: frames a second count at its clock, which
        place and route has met.
    calibration : path, optional
        Sample inputs for floating-point models.
    rtl : bool, optional
        Simulate one sample and count cycles there, where the weights fit.
    progress : callable, optional

    Returns
    -------
    dict
        ``rows``: for each network and board ``network``, ``board``, ``configuration``,
        ``clock_mhz``, ``utilisation`` of the build, ``compressed`` and ``stored``: ``weights``,
        ``macs`` of an inference, ``fits``, and either ``misfit``, why it cannot run, or ``cycles``,
        ``source`` (of these), ``frames_per_second``, ``mac_utilisation`` (share of the array's
        multiplications that ``macs`` are), ``weight_bytes``, ``payload_bytes``,
        ``coefficient_bytes``, ``activation_bytes_used``, ``activation_bytes``. Where the payload
        does not fit, cycles are as if there were memory enough.
        ``mismatches``: values on the RTL that differ from the golden model.

    Raises
    ------
    InputError
        If a board was never built.
    InsituError
        If a model cannot be read.
    """
    for board in boards:
        if board["build"] is None:
            raise InputError(
                f"{board['board']} was never placed and routed: its clock is not known",
                f"build it: insitu build --board {board['board']}, then python -m boards.check "
                "--update REPORT",
            )
    tell = progress or (lambda done, total, what: None)
    names = list(dict.fromkeys(board["configuration"] for board in boards))
    found = {}
    mismatches = 0
    for index, model in enumerate(models):
        for number, name in enumerate(names):
            tell(index * len(names) + number, len(models) * len(names), f"{model.stem}, {name}")
            ran = _Network(model, configuration(name), calibration, rtl, tell)
            found[model, name] = ran.report()
            mismatches += ran.mismatches
    rows = [
        _row(model, board, found[model, board["configuration"]])
        for model in models
        for board in boards
    ]
    return {"rows": rows, "mismatches": mismatches}


def _row(model: Path, board: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """A network on a board, at the clock that the board was built for."""
    clock = board["build"]["clock_mhz"]
    row = {
        "network": model.stem,
        "board": board["board"],
        "configuration": board["configuration"],
        "clock_mhz": clock,
        "utilisation": board["build"]["utilisation"],
    }
    for form in ("compressed", "stored"):
        row[form] = dict(figures[form])
        if "cycles" in row[form]:
            row[form]["frames_per_second"] = round(clock * 1e6 / row[form]["cycles"], 1)
    return row


class _Network:
    """A network on a configuration, in both forms."""

    def __init__(
        self,
        path: Path,
        config: Configuration,
        calibration: Path | None,
        rtl: bool,
        tell: Progress,
    ):
        self.config = config
        self.rtl = rtl
        self.tell = tell
        self.path = path
        self.network = load_model(path, config, calibration=calibration, progress=tell).network
        self.mismatches = 0

    def report(self) -> dict[str, Any]:
        """Figures of both forms."""
        return {"compressed": self._form(self.network), "stored": self._form(dense(self.network))}

    def _form(self, network: Network) -> dict[str, Any]:
        sizes = inspect(Model(self.path, network))
        figures = {"weights": sizes["weights"], "macs": sizes["macs"]}
        # What does not fit is still timed, as if there were coefficient memory enough.
        try:
            planned = plan_roomy(network, self.config, name=self.path.stem)
        except FitError as error:
            return figures | {"fits": False, "misfit": error.cause}
        fits = planned.payload_bytes <= self.config.coefficient_bytes
        cycles, source = planned.cycles, MODEL
        if fits and self.rtl:
            cycles, source = self._simulated(planned), RTL
        return figures | {
            "fits": fits,
            "cycles": cycles,
            "source": source,
            "mac_utilisation": round(sizes["macs"] / (self.config.stripes * cycles), 4),
            "weight_bytes": -(-planned.weight_bits // 8),
            "payload_bytes": planned.payload_bytes,
            "coefficient_bytes": self.config.coefficient_bytes,
            "activation_bytes_used": planned.activation_bytes,
            "activation_bytes": self.config.activation_bytes,
        }

    def _simulated(self, planned: Plan) -> int:
        """Cycles of one inference on the RTL, of inputs at random."""
        prepare(self.config, self.tell)
        shape = (1, *planned.network.input_shape)
        inputs = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
        result = simulate_image(
            make_image(planned), inputs, network=planned.network, progress=self.tell
        )
        self.mismatches += result.mismatches
        return result.cycles
