"""The command line: one verb a task.

Exit status: 0 done, 1 the result is wrong (values that differ, a device that does not answer), 2
bad input. Whatever a verb needs is imported when it runs, so that help comes at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from insitu import __version__
from insitu.cli_compress import EXAMPLE as COMPRESS_EXAMPLE
from insitu.cli_compress import compress
from insitu.cli_options import (
    ROOT,
    CalibrationOption,
    ConfigOption,
    JsonOption,
    ModelArgument,
    check_network_name,
    check_outputs,
    named_configuration,
    write_json,
)
from insitu.console import complain, output, progress
from insitu.errors import FitError, ImageError, InputError, InsituError
from insitu.files import write_file
from rtl.config import CONFIGURATIONS

__all__ = ["app", "main"]

DEMO_REPORT = ROOT / "build" / "demo.json"
BUILDS = ROOT / "build" / "boards"
DEFAULT_SAMPLES = 4
INTERRUPTED = 130
"""Exit status, as shells have it."""
DEFAULT_BAUD = 1_000_000


class _Group(TyperGroup):
    """Ends with a message and a status, not with a traceback, where the user can do something."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InsituError as error:
            complain(error)
            raise typer.Exit(error.status) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An FPGA accelerator that generates a neural network's weights on chip.",
)

StoredOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=8,
        metavar="BITS",
        help="Store the weights of a float model at BITS bits instead of generating them.",
    ),
]
PruneOption = Annotated[
    bool,
    typer.Option(
        "--prune", help="Drop channels that are constant or unused; no output changes by it."
    ),
]


PortOption = Annotated[
    str,
    typer.Option(metavar="PORT", help="Serial port of the board, or what insitu serve printed."),
]
BaudOption = Annotated[
    int, typer.Option(min=1, max=100_000_000, metavar="N", help="Bits a second on the line.")
]
BoardOption = Annotated[
    str, typer.Option(metavar="NAME", help="The board: insitu build --list shows them.")
]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        output().print(f"insitu {__version__}")
        raise typer.Exit


@app.command(epilog="Example: insitu demo --samples 16")
def demo(
    samples: Annotated[
        int, typer.Option(min=1, max=500, metavar="N", help="Images to simulate.")
    ] = 16,
    json_file: Annotated[
        Path,
        typer.Option(
            "--json", metavar="FILE", help="Where figures go.", show_default="build/demo.json"
        ),
    ] = DEMO_REPORT,
) -> None:
    """Run the example network on the RTL, its weights generated there; compare every value."""
    from insitu import show
    from insitu.demo import demo as demonstrate

    if json_file == DEMO_REPORT:
        DEMO_REPORT.parent.mkdir(exist_ok=True)
    check_outputs({"report": json_file})
    with progress() as tell:
        report = demonstrate(samples=samples, progress=tell)
    write_json(json_file, report)
    output().print(show.demonstration(report))
    output().print(f"All figures: {json_file}", soft_wrap=True)
    _verdict(report["mismatches"])


@app.command(
    name="compile",
    epilog="Example: insitu compile examples/fashion/fashion.onnx -o a.image --config up5k",
)
def compile_(
    model: ModelArgument,
    image: Annotated[
        Path, typer.Option("--output", "-o", metavar="IMAGE", help="The image to write.")
    ],
    config: ConfigOption,
    calibration: CalibrationOption = None,
    stored: StoredOption = None,
    prune: PruneOption = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite IMAGE even if it is better, or of another model."),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Compress a trained network, plan it for a configuration and write its image."""
    from insitu import show
    from insitu.models import load_model
    from insitu.network import held_out_accuracy
    from insitu.pack import make_image
    from insitu.plan import plan

    configuration = named_configuration(config)
    check_outputs({"image": image, "report": json_file}, [model, calibration])
    if image.suffix in (".npz", ".onnx", ".tflite"):
        raise InputError(
            f"image {image} would be taken for a model", f"name it {image.with_suffix('.image')}"
        )
    right = held_out_accuracy(model) if model.suffix == ".npz" else None
    if image.is_file() and not force:
        _check_replaced(image, model, config, right)
    with progress() as tell:
        loaded = load_model(
            model,
            configuration,
            calibration=calibration,
            stored=stored,
            prune=prune,
            progress=tell,
        )
    planned = plan(loaded.network, configuration, name=model.stem)
    made = make_image(planned, right)
    made.write(image)
    report = made.metadata | {"image": str(image), "image_bytes": len(made.to_bytes())}
    if loaded.compression:
        report["compression"] = loaded.compression
    if loaded.notes:
        report["notes"] = list(loaded.notes)
    write_json(json_file, report)
    output().print(show.network(report))
    for note in loaded.notes:
        output().print(note, soft_wrap=True)
    output().print(f"Image: {image}, {report['image_bytes']:,} bytes", soft_wrap=True)


app.command(epilog=COMPRESS_EXAMPLE)(compress)


@app.command(epilog="Example: insitu inspect MODEL.tflite --config ecp5-45f")
def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .tflite, an .onnx (each quantised or float), an integer network as .npz, or "
            "an image.",
            metavar="MODEL_OR_IMAGE",
        ),
    ],
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Also plan it for a configuration: {', '.join(CONFIGURATIONS)}.",
        ),
    ] = None,
    calibration: CalibrationOption = None,
    prune: PruneOption = False,
    memory: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw what lies where in memory, and when, as .svg or .png.",
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Say what a model or an image holds: layers, shapes, weights, memory, predicted cycles."""
    from insitu import show
    from insitu.inspect import inspect as look
    from insitu.memory_map import check_picture, write_picture
    from insitu.memory_map import memory as memory_of
    from insitu.models import load_model

    check_outputs({"picture": memory, "report": json_file}, [file, calibration])
    if memory is not None:
        check_picture(memory)
    if file.suffix == ".image":
        from insitu.image import read_image

        if config is not None or calibration is not None or prune:
            raise InputError(
                f"image {file} is planned already: it takes no option but --memory and --json",
                "leave the options out, or name the model",
            )
        metadata = read_image(file).metadata
        report = metadata | {"memory": memory_of(metadata)}
        if memory is not None:
            write_picture(memory, metadata)
        write_json(json_file, report)
        output().print(show.network(metadata))
        output().print(show.memory(report["memory"]))
        return
    if memory is not None and config is None:
        raise InputError(
            f"model {file} has no memory to draw without a configuration",
            f"add --config NAME: {', '.join(CONFIGURATIONS)}",
        )
    configuration = None if config is None else named_configuration(config)
    with progress() as tell:
        model = load_model(file, configuration, calibration=calibration, prune=prune, progress=tell)
    report = look(model, configuration)
    if memory is not None:
        if "misfit" in report:
            raise FitError(report["misfit"]["cause"], report["misfit"]["next"])
        write_picture(memory, report["plan"])
    write_json(json_file, report)
    output().print(show.model(report))


@app.command(
    epilog="Example: insitu evaluate MODEL.tflite --inputs FILE.npz --compare --json out.json"
)
def evaluate(
    model: ModelArgument,
    inputs: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Inputs (.npz) as the model takes them, or int8 with the channels last; labels "
            "if there are any.",
        ),
    ],
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Also run the model in LiteRT (.tflite) or ONNX Runtime (.onnx), and compare.",
        ),
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many of the inputs to run.", show_default="all"),
    ] = None,
    calibration: CalibrationOption = None,
    stored: StoredOption = None,
    prune: PruneOption = False,
    json_file: JsonOption = None,
) -> None:
    """Run a network's golden model over a whole set: accuracy, and what differs from a runtime."""
    from insitu import show
    from insitu.evaluate import evaluate as run_all
    from insitu.evaluate import read_inputs
    from insitu.models import load_model

    check_outputs({"report": json_file}, [model, inputs, calibration])
    with progress() as tell:
        loaded = load_model(
            model, calibration=calibration, stored=stored, prune=prune, progress=tell
        )
        found = read_inputs(
            inputs, loaded.network, channels_last=loaded.channels_last, samples=samples
        )
        report = run_all(loaded, found, compare=compare, progress=tell)
    write_json(json_file, report)
    output().print(show.evaluation(report))


@app.command(
    epilog="Example: insitu retrain MODEL.onnx --choices choices.json --samples train.npz -o a.npz"
)
def retrain(
    model: Annotated[
        Path, typer.Argument(help="A float .onnx or .tflite; also the teacher.", metavar="MODEL")
    ],
    choices: Annotated[
        Path, typer.Option(metavar="FILE", help="How to keep each layer's weights (.json).")
    ],
    samples: Annotated[
        Path, typer.Option(metavar="FILE", help="Inputs and labels (.npz) to train on.")
    ],
    network: Annotated[
        Path, typer.Option("--output", "-o", metavar="NETWORK", help="The network to write (.npz).")
    ],
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Hardware that it must fit: {', '.join(CONFIGURATIONS)}.",
            show_default="any",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Passes over the samples.")] = 20,
    batch: Annotated[int, typer.Option(min=2, metavar="N", help="Samples a step.")] = 128,
    rate: Annotated[float, typer.Option(metavar="X", help="Highest learning rate.")] = 5e-3,
    distillation: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="X", help="The teacher's share; the labels' is 1 - X."),
    ] = 0.7,
    temperature: Annotated[
        float, typer.Option(metavar="X", help="Of the outputs that teacher and student compare.")
    ] = 3.0,
    orthonormality: Annotated[
        float, typer.Option(min=0, metavar="X", help="Weight of the bases' coherence in the loss.")
    ] = 0.1,
    shift: Annotated[
        int, typer.Option(min=0, metavar="N", help="Move images by up to N pixels.")
    ] = 0,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Mirror half of the images, left to right.")
    ] = False,
    cutout: Annotated[
        int, typer.Option(min=0, metavar="N", help="Hide a square of side N in each image.")
    ] = 0,
    held_out: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Samples that are not trained on, but choose the epoch.",
            show_default="a tenth, at most 5000",
        ),
    ] = None,
    bfloat16: Annotated[
        bool,
        typer.Option("--bfloat16", help="Convolve in bfloat16 where there are units for it."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of order and changes.")] = 0,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Written after each epoch, and gone on from.",
            show_default="NETWORK with .checkpoint added",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace NETWORK even if it is better, or unknown.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Train a float network in its compressed form, and write the integer network that it becomes.

    Needs the extra train (PyTorch); runs on a GPU where PyTorch has one. The float network
    teaches. Interrupted, the same command goes on after the last finished epoch.
    """
    from insitu import show
    from insitu.choice import read_choices
    from insitu.models import load_float
    from insitu.network import held_out_accuracy, to_bytes
    from insitu.plan import plan

    _check_torch()
    from insitu.train.loop import Options
    from insitu.train.retrain import read_samples
    from insitu.train.retrain import retrain as train

    configuration = None if config is None else named_configuration(config)
    for name, value in (("rate", rate), ("temperature", temperature)):
        if not 0 < value < float("inf"):
            raise InputError(f"--{name} must be positive, not {value}", "give a positive number")
    checkpoint = checkpoint or network.with_name(f"{network.name}.checkpoint")
    check_outputs(
        {"network": network, "report": json_file, "checkpoint": checkpoint},
        [model, choices, samples],
    )
    check_network_name(network)
    before = None
    if network.is_file() and not force:
        before = held_out_accuracy(network)
        if before is None:
            raise InputError(
                f"network {network} exists, and does not say how accurate it is",
                "name another with -o, or add --force to replace it",
            )
    loaded = load_float(model)
    chosen = read_choices(choices)
    found = read_samples(samples, loaded, channels_last=model.suffix == ".tflite")
    options = Options(
        epochs=epochs,
        batch=batch,
        rate=rate,
        distillation=distillation,
        temperature=temperature,
        orthonormality=orthonormality,
        shift=shift,
        mirror=mirror,
        cutout=cutout,
        held_out=held_out,
        bfloat16=bfloat16,
        seed=seed,
    )
    with progress() as tell:
        made = train(
            loaded, chosen, found, [options], checkpoint, configuration=configuration, progress=tell
        )
    report: dict[str, Any] = {
        "model": str(model),
        "network": str(network),
        "choices": {name: asdict(choice) for name, choice in chosen.items()},
        "options": asdict(options),
        "training": made.record,
    }
    if configuration is not None:
        planned = plan(made.network, configuration, name=model.stem)
        report["plan"] = planned.report()
        report["bits_a_weight"] = planned.weight_bits / loaded.weights
    write_json(json_file, report)
    output().print(show.training(report))
    if before is not None and before > made.record["held_out"]:
        raise InputError(
            f"network {network} is right on {before:.2f} % of its held-out samples, "
            f"the new one on {made.record['held_out']:.2f} %: it stays",
            f"name another with -o and --checkpoint {checkpoint}, or add --force to replace it",
        )
    write_file(network, to_bytes(made.network, made.record), "network")
    output().print(f"Network: {network}", soft_wrap=True)


@app.command(
    epilog="Example: insitu simulate a.image --inputs examples/fashion/fashion500.npz --layers"
)
def simulate(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Made by insitu compile.")],
    inputs: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Inputs (.npz) as the model takes them, or int8 with the channels last; labels "
            "if there are any.",
        ),
    ],
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="How many of the inputs to simulate.",
            show_default=f"{DEFAULT_SAMPLES}, or all if fewer",
        ),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Compare every layer's output, not only the last.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Run an image on the RTL and compare its answers with the golden model, bit for bit."""
    import numpy as np

    from insitu import show
    from insitu.evaluate import read_inputs
    from insitu.image import read_image
    from insitu.simulate import image_network, simulate_image

    check_outputs({"report": json_file}, [image, inputs])
    loaded = read_image(image)
    network = image_network(loaded, f"image {image}")
    found = read_inputs(inputs, network, samples=samples)
    x = found.integers if samples else found.integers[:DEFAULT_SAMPLES]
    with progress() as tell:
        result = simulate_image(loaded, x, layers=layers, network=network, progress=tell)
    report = {"image": str(image), "network": loaded.metadata["network"]} | result.report()
    if found.labels is not None:
        classes = result.outputs.reshape(len(x), -1).argmax(axis=1)
        report["accuracy"] = float(np.mean(classes == found.labels[: len(x)]))
    write_json(json_file, report)
    output().print(show.simulation(report))
    _verdict(result.mismatches)


@app.command(epilog="Example: insitu report rows.json -o report.html")
def report(
    figures: Annotated[
        list[Path],
        typer.Argument(
            metavar="FIGURES...",
            help="Rows of examples/compression/rows.py, or what insitu compress or insitu retrain "
            "--config wrote with --json.",
        ),
    ],
    file: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The HTML file to write.")
    ],
    title: Annotated[
        str, typer.Option(metavar="TEXT", help="Of the page.")
    ] = "Compressed networks",
) -> None:
    """Write one HTML file about compressed networks: memory, accuracy, layers, cycles."""
    from insitu.report import html, read_entries

    check_outputs({"report": file}, figures)
    entries = [entry for path in figures for entry in read_entries(path)]
    with progress() as tell:
        tell(0, None, "drawing")
        page = html(entries, title)
    write_file(file, page.encode(), "report")
    output().print(f"Report: {file}, {len(entries)} networks", soft_wrap=True)


@app.command(
    epilog="Example: insitu verilog --config up5k --bus axi-lite -o core.v --header core.h"
)
def verilog(
    config: ConfigOption,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The Verilog to write.")
    ] = None,
    bus: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="wishbone, axi-lite, or stream: inputs and outputs on AXI4-Stream, all else on "
            "Wishbone.",
        ),
    ] = "wishbone",
    header: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the register map as a C header.")
    ] = None,
    svd: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the register map as CMSIS-SVD.")
    ] = None,
    block: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="accelerator, or one of its blocks: activation_buffer, address_generator, "
            "basis_buffer, coefficient_decoder, coefficient_fetch, coefficient_memory, host_port, "
            "mac_array, parameter_loader, requantiser, sequencer, weight_broadcast, "
            "weight_generator, weight_tile.",
        ),
    ] = "accelerator",
    primitives: Annotated[
        bool,
        typer.Option(
            "--primitives",
            help="Instantiate the vendor's memories and multipliers where tools do not infer them.",
        ),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Write the accelerator, or one of its blocks, as Verilog in one file; or its register map."""
    from insitu.register_map import c_header
    from insitu.register_map import svd as svd_of
    from insitu.verilog import check, module_name
    from insitu.verilog import verilog as convert

    configuration = named_configuration(config)
    check(block, bus)
    if file is None and header is None and svd is None:
        raise InputError("there is nothing to write", "add -o FILE, --header FILE or --svd FILE")
    if block != "accelerator" and (header or svd):
        raise InputError(f"{block} has no registers", "leave out --block, or --header and --svd")
    outputs = {"Verilog file": file, "C header": header, "SVD file": svd}
    check_outputs(outputs | {"report": json_file})
    report: dict[str, Any] = {
        "block": block,
        "bus": bus,
        "configuration": config,
        "digest": f"{configuration.digest:08x}",
        "header": None if header is None else str(header),
        "svd": None if svd is None else str(svd),
    }
    if file is not None:
        with progress() as tell:
            tell(0, None, f"elaborating {block} for {config}")
            text = convert(configuration, block, bus=bus, primitives=primitives)
        write_file(file, text.encode(), "Verilog file")
        report |= {
            "file": str(file),
            "module": module_name(block, bus),
            "primitives": primitives,
            "bytes": len(text.encode()),
        }
        output().print(
            f"Module {report['module']}: {file}, {report['bytes']:,} bytes", soft_wrap=True
        )
    for path, make, what in ((header, c_header, "C header"), (svd, svd_of, "SVD file")):
        if path is not None:
            write_file(path, make(configuration, bus).encode(), what)
            output().print(f"{what}: {path}", soft_wrap=True)
    write_json(json_file, report)


def _list_boards(wanted: bool) -> None:
    if wanted:
        from boards.catalogue import catalogue
        from insitu import show

        output().print(show.boards(catalogue()))
        raise typer.Exit


@app.command(epilog="Example: insitu build --board icebreaker")
def build(
    board: BoardOption,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where bitstream, report and logs go.",
            show_default="build/boards/NAME",
        ),
    ] = None,
    json_file: JsonOption = None,
    self_load: Annotated[
        bool,
        typer.Option("--self-load", help="Load the image from the board's flash at power-up."),
    ] = False,
    listed: Annotated[
        bool,
        typer.Option(
            "--list",
            help="List the boards and their last builds.",
            callback=_list_boards,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Build a board's bitstream with open tools, and report its area and clock."""
    from boards import find_board
    from boards.build import build as make
    from insitu import show

    find_board(board)
    check_outputs({"report": json_file})
    with progress() as tell:
        report = make(
            board,
            output_dir=folder or BUILDS / board,
            progress=lambda text: tell(0, None, f"{board}: {text}"),
            self_load=self_load,
        )
    write_json(json_file, report)
    output().print(show.board(report))


@app.command(epilog="Example: insitu bench MODEL.tflite --board icebreaker --board ulx3s-45f")
def bench(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="A .tflite, an .onnx (each quantised or float), or an integer network as .npz.",
            show_default="the two compressed networks of examples/",
        ),
    ] = None,
    board: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A board; may be repeated.", show_default="all built"),
    ] = None,
    rtl: Annotated[
        bool,
        typer.Option(
            "--rtl", help="Count cycles on the RTL, one inference each, where the weights fit."
        ),
    ] = False,
    calibration: CalibrationOption = None,
    json_file: JsonOption = None,
) -> None:
    """Set networks against boards: frames a second, use of the array, memory, area; and int8."""
    from boards import find_board
    from boards.catalogue import catalogue
    from insitu import show
    from insitu.bench import EXAMPLES
    from insitu.bench import bench as run_all

    for name in board or ():
        find_board(name)
    check_outputs({"report": json_file}, [*(models or ()), calibration])
    chosen = [one for one in catalogue() if (one["board"] in board if board else one["build"])]
    with progress() as tell:
        report = run_all(
            models or EXAMPLES, chosen, calibration=calibration, rtl=rtl, progress=tell
        )
    write_json(json_file, report)
    output().print(show.bench(report))
    _verdict(report["mismatches"])


@app.command(epilog="Example: insitu program --board icebreaker")
def program(
    board: BoardOption,
    bitstream: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What to write.",
            show_default="what insitu build left in build/boards/NAME",
        ),
    ] = None,
    flash: Annotated[
        bool,
        typer.Option(
            "--flash",
            help="Write the SPI flash, so that it survives switching off; iCE40 boards always do.",
        ),
    ] = False,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE",
            help="Write this image to the SPI flash instead of a bitstream, for a device that was "
            "built with --self-load.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a board's bitstream, or an image, to the board, with openFPGALoader."""
    from boards import find_board
    from boards.program import program as write
    from boards.program import program_image
    from insitu.flash import flash_contents
    from insitu.image import read_image

    chosen = find_board(board)
    if image is not None:
        if bitstream is not None or flash:
            raise InputError(
                "--image is written without a bitstream",
                "write the bitstream first: the same without --image",
            )
        contents = flash_contents(read_image(image, chosen.config), chosen.config)
        with progress() as tell:
            tell(0, None, f"writing {image.name} to the flash of {board}")
            program_image(chosen, contents)
        output().print(f"Wrote {image} to the flash of {board}", soft_wrap=True)
        return
    with progress() as tell:
        tell(0, None, f"programming {board}")
        written = write(chosen, bitstream, folder=BUILDS / board, flash=flash)
    output().print(f"Programmed {board}: {written}", soft_wrap=True)


@app.command(epilog="Example: insitu serve --config up5k, then insitu ping --port /dev/pts/3")
def serve(
    config: ConfigOption,
    level: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="byte: whole bytes pass the line; bit: every level of its wires.",
        ),
    ] = "byte",
    flash: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE",
            help="A board that loads this image from its flash by itself.",
            show_default=False,
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Write the port and all else to FILE once it is ready."
        ),
    ] = None,
) -> None:
    """Simulate a board, with a pseudo-terminal for a serial port, until interrupted."""
    import os

    from insitu.flash import flash_contents
    from insitu.image import read_image
    from insitu.serve import LEVELS
    from insitu.serve import serve as run

    configuration = named_configuration(config)
    if level not in LEVELS:
        raise InputError(f"there is no level {level!r}", f"choose one of {', '.join(LEVELS)}")
    contents = None
    if flash is not None:
        contents = flash_contents(read_image(flash, configuration), configuration)
    check_outputs({"report": json_file}, [flash])
    if json_file is not None and json_file.is_file():
        json_file.resolve().unlink()

    def ready(port: str) -> None:
        report = {"port": port, "configuration": config, "level": level, "pid": os.getpid()}
        write_json(json_file, report)
        output().print(f"{config} at {port}, until interrupted: insitu ping --port {port}")

    with progress() as tell:
        run(configuration, level, flash=contents, ready=ready, progress=tell)


@app.command(epilog="Example: insitu ping --port /dev/ttyUSB1")
def ping(port: PortOption, baud: BaudOption = DEFAULT_BAUD, json_file: JsonOption = None) -> None:
    """Ask a device what it is, and what is loaded."""
    from insitu import show

    check_outputs({"report": json_file})
    with _device(port, baud) as device:
        loaded = device.loaded()
    found = device.identity
    report = {
        "port": port,
        "configuration": found.configuration.name if found.configuration else None,
        "digest": f"{found.digest:08x}",
        "hardware_version": f"{found.hardware[0]}.{found.hardware[1]}",
        "image_format": found.image_format,
        "lanes": found.lanes,
        "width": found.width,
        "coefficient_bytes": found.coefficient_bytes,
        "activation_bytes": found.activation_bytes,
        "self_load": device.self_load.name.lower(),
        "image": None if loaded is None else loaded.report(),
        "retries": device.retries,
    }
    write_json(json_file, report)
    output().print(show.device(report))


@app.command(epilog="Example: insitu load a.image --port /dev/ttyUSB1")
def load(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Made by insitu compile.")],
    port: PortOption,
    baud: BaudOption = DEFAULT_BAUD,
    json_file: JsonOption = None,
) -> None:
    """Load an image into a device, and check that it arrived."""
    from insitu.image import read_image

    check_outputs({"report": json_file}, [image])
    made = read_image(image)
    with _device(port, baud) as device:
        loaded = device.load(made)
    report = {"port": port, "image": loaded.report(), "retries": device.retries}
    write_json(json_file, report)
    output().print(
        f"Loaded {loaded.network}: {loaded.payload_bytes:,} bytes, checked", soft_wrap=True
    )


@app.command(
    epilog="Example: insitu infer --port /dev/ttyUSB1 --inputs examples/fashion/fashion500.npz"
)
def infer(
    port: PortOption,
    inputs: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Inputs (.npz) as the model takes them, or int8 with the channels last; labels "
            "if there are any.",
        ),
    ],
    image: Annotated[
        Path | None,
        typer.Argument(
            metavar="[IMAGE]",
            help="Run this, and load it first if it is not loaded.",
            show_default="what is loaded",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many of the inputs to run.", show_default="all"),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Save the outputs (.npz): int8 [N, H, W, C]."
        ),
    ] = None,
    baud: BaudOption = DEFAULT_BAUD,
    json_file: JsonOption = None,
) -> None:
    """Run inputs on a device; an answer that may be wrong is asked for again, or is an error."""
    import io

    import numpy as np

    from insitu import show
    from insitu.device import Loaded
    from insitu.evaluate import Inputs, read_inputs
    from insitu.image import read_image
    from insitu.infer import infer as run
    from insitu.infer import make_ready

    check_outputs({"outputs": file, "report": json_file}, [image, inputs])
    made = None if image is None else read_image(image)

    def read(loaded: Loaded) -> Inputs:
        return read_inputs(inputs, loaded, samples=samples)

    found = None if made is None else read(Loaded.of_image(made))
    with _device(port, baud) as device:
        loaded = make_ready(device, made)
        report, outputs = run(device, loaded, found or read(loaded))
    report = {"port": port} | report
    if file is not None:
        saved = io.BytesIO()
        np.savez(saved, outputs=outputs)
        write_file(file, saved.getvalue(), "outputs")
    write_json(json_file, report)
    output().print(show.inference(report))


@contextmanager
def _device(port: str, baud: int) -> Iterator[Any]:
    """The device at a port, with a bar for what goes on."""
    from insitu.device import Device
    from insitu.link import Link, open_port

    with open_port(port, baud) as opened, progress() as tell:
        yield Device(Link(opened), progress=tell)


def _check_torch() -> None:
    if find_spec("torch") is None:
        raise InputError(
            "retraining needs PyTorch, which is not installed",
            "install it in the clone: pip install -c constraints.txt -e '.[train]'",
        )


def _check_replaced(path: Path, model: Path, configuration: str, right: float | None) -> None:
    """Refuse to overwrite what is better, or not of a model of that name and configuration."""
    from insitu.image import read_image

    again = "name another file, or --force"
    try:
        found = read_image(path).metadata
    except ImageError:
        raise InputError(f"{path} exists, and is no image", again) from None
    if (found["network"], found["configuration"]) != (model.stem, configuration):
        raise InputError(
            f"{path} exists, and is an image of {found['network']} for {found['configuration']}",
            again,
        )
    before = found.get("held_out")
    if before is not None and (right is None or before > right):
        now = "does not say" if right is None else f"on {right:.2f} %"
        raise InputError(
            f"{path} is of a network that is right on {before:.2f} % of its held-out samples, "
            f"{model} {now}: it stays",
            again,
        )


def _verdict(mismatches: int) -> None:
    if mismatches:
        output().print(f"{mismatches:,} values differ from the golden model", style="bold red")
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    app()
