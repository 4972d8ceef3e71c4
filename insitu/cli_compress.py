"""The verb `compress`: a network under a budget of memory, or of accuracy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from insitu.cli_options import (
    ROOT,
    ConfigOption,
    JsonOption,
    check_network_name,
    check_outputs,
    named_configuration,
    parse_bytes,
    write_json,
)
from insitu.console import output, progress
from insitu.errors import InputError, NetworkError

if TYPE_CHECKING:
    from golden.network import Network
    from insitu.float_network import FloatNetwork
    from insitu.search import Found, Labelled, Search

__all__ = ["EXAMPLE", "compress"]

CACHE = ROOT / "build" / "compress"
EXAMPLE = "Example: insitu compress MODEL.onnx --config up5k --budget 20KB -o small.npz"


def compress(
    model: Annotated[
        Path,
        typer.Argument(help="A .tflite or an .onnx in floating point.", metavar="MODEL"),
    ],
    network_file: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="NETWORK", help="The integer network (.npz)."),
    ],
    config: ConfigOption,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Sample inputs (.npz): for scales, and to fit weights to.",
            show_default="calibration.npz beside MODEL",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Bytes of weights as packed and of parameters, the program not counted, as 46KB "
            "(a KB is 1,024).",
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            metavar="POINTS",
            help="Instead of a budget: the least memory that loses at most so many percentage "
            "points of accuracy on --inputs.",
        ),
    ] = None,
    cycles: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cycles of an inference at most.")
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Inputs with labels (.npz), as --calibration, that accuracy is measured on.",
        ),
    ] = None,
    choices_file: Annotated[
        Path | None,
        typer.Option(
            "--choices", metavar="FILE", help="Also write each layer's choice (JSON), to retrain."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the fits.")] = 0,
    cache: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Where fits are kept: what was interrupted resumes.",
            show_default="build/compress",
        ),
    ] = CACHE,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Overwrite a network even if it is the better one or was retrained."
        ),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Choose form, ranks and precisions of every layer under a budget, and compress.

    Beside it the best that storing the weights gives under the same budget, which is written where
    its measured loss is lower.
    """
    from insitu import show
    from insitu.choice import write_choices
    from insitu.menu import Store
    from insitu.models import calibration_beside, load_float
    from insitu.network import save
    from insitu.quantise import calibrate, check_classes, load_inputs
    from insitu.search import Labelled, Search, check_labelled, check_samples

    configuration = named_configuration(config)
    if (budget is None) == (max_loss is None):
        raise InputError(
            "there must be a budget or a loss", "name --budget or --max-loss, not both"
        )
    if max_loss is not None and inputs is None:
        raise InputError("accuracy is measured on nothing", "name labelled --inputs FILE.npz")
    size = None if budget is None else parse_bytes(budget)
    check_outputs(
        {"network": network_file, "choices": choices_file, "report": json_file},
        [model, calibration, inputs],
    )
    check_network_name(network_file)
    last = model.suffix == ".tflite"
    with progress() as tell:
        network = load_float(model)
        before = None if force else _existing(network_file, network)
        calibration = calibration or calibration_beside(model)
        samples, _ = load_inputs(calibration, network.input_shape, channels_last=last)
        labelled = None
        if inputs is not None:
            values, labels = load_inputs(
                inputs, network.input_shape, labels=True, channels_last=last
            )
            if labels is not None:
                check_classes(network.output_shape, f"inputs {inputs}")
                labelled = Labelled(values, labels)
        source = f"calibration samples {calibration}"
        check_samples(samples, None if labelled is None else labelled.inputs, source)
        store = Store(cache)
        if labelled is not None:
            check_labelled(network, labelled, store, tell)
        tell(0, None, "calibrating")
        scales = calibrate(network, samples)
        search = Search(network, scales, configuration, store=store, seed=seed, progress=tell)
        tried: list[dict[str, Any]] = []
        if max_loss is not None and labelled is not None:
            found, tried = search.least(labelled, max_loss, cycles)
        else:
            found = search.find(size, cycles)
        report = {
            "model": str(model),
            "configuration": config,
            "seed": seed,
            "budget_bytes": size,
            "budget_cycles": cycles,
            "max_loss": max_loss,
            "calibration": {"file": str(calibration), "samples": len(samples)},
            "inputs": None
            if labelled is None
            else {"file": str(inputs), "samples": len(labelled.labels)},
            **_measured(search, found, labelled),
            "frontier": [one.report() for one in search.frontier(search.menus, cycles)],
            "plain_frontier": [one.report() for one in search.frontier(search.plain, cycles)],
            "tried": tried,
        }
        if before is not None:
            _keep_better(network_file, search.loss(before), found.best.loss)
    if choices_file is not None:
        write_choices(found.best.allocation.choices, choices_file)
    save(found.best.network, network_file)
    write_json(json_file, report)
    output().print(show.compression(report))
    output().print(f"Network: {network_file}", soft_wrap=True)


def _measured(search: "Search", found: "Found", samples: "Labelled | None") -> dict[str, Any]:
    """What was built, which of it is written, and accuracies where there are samples."""
    built = {"compressed": found.compressed}
    figures: dict[str, Any] = {"plain": {"refused": found.refused}}
    if found.plain is not None:
        built["plain"] = found.plain
    figures["written"] = next(name for name, one in built.items() if one is found.best)
    if samples is not None:
        figures["float"] = {"accuracy": search.accuracy(None, samples)}
    for name, one in built.items():
        figures[name] = one.report()
        if samples is not None:
            figures[name]["accuracy"] = search.accuracy(one.network, samples)
    return figures


def _existing(path: Path, wanted: "FloatNetwork") -> "Network | None":
    """The network that would be overwritten, if there is one."""
    from insitu.network import load, training_record

    if not path.is_file():
        return None
    again = "name another file, or --force"
    try:
        network = load(path)
        trained = training_record(path) is not None
    except NetworkError:
        raise InputError(f"{path} exists, and is no network to compare with", again) from None
    if (network.input_shape, network.output_shape) != (wanted.input_shape, wanted.output_shape):
        raise InputError(f"{path} exists, and is a network of other inputs or outputs", again)
    if trained:
        raise InputError(f"{path} exists, and has been retrained", again)
    return network


def _keep_better(path: Path, before: float, after: float) -> None:
    """Refuse to overwrite a network by a worse one."""
    if after > before:
        raise InputError(
            f"{path} exists and is better: its loss on calibration samples is {before:.4g}, "
            f"that of the new network {after:.4g}",
            "name another file, or --force; nothing has to be fitted again",
        )
