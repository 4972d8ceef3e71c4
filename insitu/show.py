"""Reports as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from golden.code import Code

__all__ = [
    "bench",
    "board",
    "boards",
    "compression",
    "demonstration",
    "device",
    "evaluation",
    "form",
    "inference",
    "memory",
    "model",
    "network",
    "simulation",
    "training",
]

Report = Mapping[str, Any]


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is names and whose others are figures; no text is markup."""
    table = Table(title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _pairs(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    table = _table(title, ("", ""), rows)
    table.show_header = False
    table.columns[1].justify = "left"
    return table


def form(layer: Report) -> str:
    """Ranks and bits of a layer's weights: "Bi 2 Bo 40: 4/4/4", or "8" where they are stored.

    A U in powers of two has a p: "Bi 2: 4/3p". Figures that do not say have none.
    """
    ranks, bits = layer["ranks"], layer["precisions"]
    if not bits:
        return ""
    if "w" in bits:
        return f"{bits['w']}"
    names = {"terms": "Bi", "kernels": "Bo"}
    parts = [f"{name} {ranks[key]}" for key, name in names.items() if key in ranks]
    powers = {"u": "p"} if layer.get("code") == Code.POWER_OF_TWO else {}
    precisions = [f"{bits[key]}{powers.get(key, '')}" for key in "buv" if key in bits]
    return f"{' '.join(parts)}: {'/'.join(precisions)}"


def _cycles(report: Report) -> str:
    predicted, ideal = report["predicted_cycles"], report["ideal_cycles"]
    return f"{report['cycles']:,} (predicted {predicted:,}, ideal {ideal:,})"


def _by_layer(title: str, layers: Sequence[Report]) -> Table:
    """Layers with what their weights take, and the cycles that are predicted or were measured."""
    measured = "mismatches" in layers[0]
    columns = ["layer", "dataflow", "ranks: bits", "bytes", "predicted"]
    columns += ["RTL", "differ"] if measured else ["bound by"]
    banded = any("bands" in layer for layer in layers)
    if banded:
        columns.append("bands")
    rows = []
    for layer in layers:
        cycles = layer["predicted"] if measured else layer["cost"]["cycles"]
        row = [layer["name"], layer["dataflow"], form(layer), f"{layer['weight_bytes']:,}"]
        row.append(f"{cycles:,}")
        if measured:
            row += [f"{layer['cycles']:,}", f"{layer['mismatches']}/{layer['values']}"]
        else:
            row.append(layer["cost"]["bound"])
        if banded:
            row.append(_bands(layer))
        rows.append(row)
    return _table(title, columns, rows)


def _bands(layer: Report) -> str:
    """In how many bands a layer runs, and of how many rows; "" where it runs as a whole."""
    bands = layer.get("bands")
    return f"{bands['count']} of {bands['rows']} rows" if bands else ""


def network(report: Report) -> RenderableType:
    """A compiled network."""
    summary = [
        ("weights", f"{report['weight_bytes']:,} bytes, {report['dense_int8_bytes']:,} at int8"),
        (
            "coefficient memory",
            f"{report['payload_bytes']:,} of {report['coefficient_bytes']:,} bytes",
        ),
        (
            "activation memory",
            f"{report['activation_bytes_used']:,} of {report['activation_bytes']:,} bytes",
        ),
        (
            "cycles an inference",
            f"{report['cycles']:,} predicted, {report['ideal_cycles']:,} ideal",
        ),
        (
            "frames a second",
            f"{report['frames_per_second']:,} at {report['clock_mhz']:g} MHz",
        ),
    ]
    if "held_out" in report:
        summary.append(("right on held-out samples", f"{report['held_out']:.2f} %"))
    title = f"{report['network']} on {report['configuration']}"
    return Group(
        _by_layer("Layer by layer", report["layers"]),
        _pairs(title, summary),
    )


def memory(report: Report) -> RenderableType:
    """What lies where in both memories, and when."""
    columns = ["map", "bytes", "address", "from layer", "to layer"]
    maps = [
        [one["name"], f"{one['size']:,}", f"{one['address']:,}", one["first"], one["last"]]
        for one in report["maps"]
    ]
    if any(one["rows"] for one in report["maps"]):
        columns.append("rows at a time")
        for row, one in zip(maps, report["maps"], strict=True):
            row.append(str(one["rows"] or "all"))
    if any(one["inside"] for one in report["maps"]):
        columns.append("inside")
        for row, one in zip(maps, report["maps"], strict=True):
            row.append(one["inside"] or "")
    parts = report["coefficients"]
    whole = sum(parts.values())
    shares = [(kind, f"{size:,}", f"{size / whole:.1%}") for kind, size in parts.items()]
    return Group(
        _table("Activation memory", columns, maps),
        _table("Coefficient memory", ("", "bytes", "share"), shares),
    )


def compression(report: Report) -> RenderableType:
    """A network compressed under a budget, the frontier it was chosen from, and plain storing."""
    chosen, plain = report["compressed"], report["plain"]
    layers = [
        (
            one["name"],
            one["choice"],
            f"{one['bytes']:,}",
            f"{one['cycles']:,}",
            f"{one['proxy_loss']:.3g}",
        )
        for one in report[report["written"]]["layers"]
    ]
    figures = [
        (
            what.replace("_", " "),
            *(f"{one[what]:,}" if what in one else "" for one in (chosen, plain)),
        )
        for what in ("bytes", "weight_bytes", "parameter_bytes", "program_bytes", "cycles")
    ]
    figures += [
        (
            what.replace("_", " "),
            *(f"{one[what]:.3g}" if what in one else "" for one in (chosen, plain)),
        )
        for what in ("proxy_loss", "loss")
    ]
    calibration, inputs = report["calibration"], report["inputs"]
    notes = [("calibration", f"{calibration['samples']:,} samples of {calibration['file']}")]
    if inputs:
        right = (f"{one['accuracy']:.2%}" if "accuracy" in one else "" for one in (chosen, plain))
        figures.append(("right", *right))
        whole = f"{report['float']['accuracy']:.2%} in floating point"
        notes.append(("right", f"of {inputs['samples']:,} samples of {inputs['file']}; {whole}"))
    if report["tried"]:
        tried = [f"{one['bytes']:,} bytes {one['accuracy']:.2%}" for one in report["tried"]]
        notes.append(("tried", ", ".join(tried)))
    if "cycles" in plain and chosen["cycles"] > 2 * plain["cycles"]:
        times = chosen["cycles"] / plain["cycles"]
        notes.append(
            ("cycles", f"{times:.0f} times those of stored weights: --cycles N limits them")
        )
    if "refused" in plain:
        notes.append(("stored alone", plain["refused"]))
    written = "compressed"
    if report["written"] == "plain":
        written = "stored alone"
        losses = f"{plain['loss']:.3g}, that of the solver's choice {chosen['loss']:.3g}"
        notes.append(("written", f"stored alone: its measured loss is {losses}"))
    title = f"{report['model']} on {report['configuration']}"
    return Group(
        _frontier("Frontier", report["frontier"]),
        _frontier("Frontier, all weights stored", report["plain_frontier"]),
        _table(
            f"Layer by layer, {written}",
            ("layer", "choice", "bytes", "cycles", "proxy loss"),
            layers,
        ),
        _table(title, ("", "compressed", "stored alone"), figures),
        _pairs("", notes),
    )


def _frontier(title: str, allocations: Sequence[Report]) -> Table:
    rows = [
        (f"{one['bytes']:,}", f"{one['cycles']:,}", f"{one['proxy_loss']:.3g}")
        for one in allocations
    ]
    return _table(title, ("bytes", "cycles", "proxy loss"), rows)


def simulation(report: Report) -> RenderableType:
    """An image on the RTL."""
    rows = [
        ("samples", f"{report['samples']}"),
        ("values that differ", f"{report['mismatches']} of {report['values']:,}"),
        ("cycles an inference", _cycles(report)),
    ]
    if report["first_mismatch"]:
        rows.append(("first that differs", report["first_mismatch"]))
    if "accuracy" in report:
        rows.append(("right, of these samples", f"{report['accuracy']:.2%}"))
    parts: list[RenderableType] = []
    if report["layers"]:
        layers = [
            (
                layer["name"],
                layer["dataflow"],
                f"{layer['ideal']:,}",
                f"{layer['predicted']:,}",
                f"{layer['cycles']:,}",
                f"{layer['mismatches']}/{layer['values']}",
            )
            for layer in report["layers"]
        ]
        columns = ("layer", "dataflow", "ideal", "predicted", "RTL", "differ")
        parts.append(_table("Layer by layer", columns, layers))
    title = f"{report['network']}: RTL of {report['configuration']} against the golden model"
    return Group(*parts, _pairs(title, rows))


def model(report: Report) -> RenderableType:
    """What a model holds, and how it fits a configuration."""
    layers = [
        (
            layer["name"],
            layer["kind"],
            " ".join(layer["inputs"]),
            "x".join(str(n) for n in layer["output"]),
            f"{layer['weights']:,}" if layer["weights"] else "",
            f"{layer['bits']}" if layer["weights"] else "",
            f"{layer['macs']:,}" if layer["macs"] else "",
        )
        for layer in report["layers"]
    ]
    columns = ("layer", "kind", "reads", "output", "weights", "bits", "MACs")
    rows = [
        ("input", "x".join(str(n) for n in report["input"])),
        ("weights", f"{report['weights']:,}, {report['weight_bytes']:,} bytes"),
        ("multiplications", f"{report['macs']:,} an inference"),
        ("largest maps", f"{report['activation_bytes']:,} bytes at a time, layer by layer"),
        *(("note", note) for note in report["notes"]),
    ]
    parts: list[RenderableType] = [
        _table("Layer by layer", columns, layers),
        _pairs(f"{report['model']}", rows),
    ]
    if "plan" in report:
        parts += [network(report["plan"]), memory(report["memory"])]
    if "misfit" in report:
        parts.append(
            _pairs(
                f"It cannot run on {report['configuration']}",
                [("why", report["misfit"]["cause"]), ("next", report["misfit"]["next"])],
            )
        )
    return Group(*parts)


def evaluation(report: Report) -> RenderableType:
    """A network over a whole set, and what differs from a runtime."""
    rows = [("samples", f"{report['samples']:,} in {report['seconds']:.1f} s")]
    if "accuracy" in report:
        rows.append(("right, golden model", f"{report['accuracy']:.2%}"))
    parts: list[RenderableType] = []
    comparison = report.get("comparison", {})
    if "kernels" in comparison:
        kernels = comparison["kernels"]
        sets = {"alone": comparison["alone"]} if "alone" in comparison else {}
        sets |= {name: one for name, one in kernels.items() if name != "default" or not sets}
        layers = []
        for name, exact in kernels["reference"]["layers"].items():
            row = [name, f"{exact['values']:,}"]
            for one in sets.values():
                found = one["layers"][name]
                row += [f"{found['different'] / found['values']:.4%}", f"{found['largest']}"]
            layers.append(row)
        columns = ["layer", "values"]
        for name in sets:
            columns += [f"{name}: differ", "at most"]
        parts.append(_table(f"Layer by layer against {comparison['runtime']}", columns, layers))
        for name, one in kernels.items():
            equal, same = one["equal_outputs"], one["same_class"]
            rows.append(
                (f"{name} kernels", f"{equal:.2%} of outputs equal, {same:.2%} of the same class")
            )
            if "accuracy" in one:
                rows.append((f"right, {name} kernels", f"{one['accuracy']:.2%}"))
    elif comparison:
        rows.append((comparison["runtime"], f"{comparison['same_class']:.2%} the same class"))
        if "accuracy" in comparison:
            rows.append((f"right, {comparison['runtime']}", f"{comparison['accuracy']:.2%}"))
    rows += [("note", note) for note in report["notes"]]
    return Group(*parts, _pairs(report["model"], rows))


def training(report: Report) -> RenderableType:
    """A retrained network: each epoch, and what became of it."""
    record = report["training"]
    epochs = [
        (f"{one['epoch']}", f"{one['loss']:.4f}", f"{one['held_out']:.2f} %")
        for one in record["epochs"]
    ]
    rows = [("held-out samples", f"{record['held_out_samples']:,}")]
    if "teacher" in record:
        rows.append(("right, float network", f"{record['teacher']:.2f} %"))
    rows += [
        ("right, not retrained", f"{record['untrained']:.2f} %"),
        (f"right, epoch {record['epoch']}", f"{record['held_out']:.2f} %"),
    ]
    agreement = record["agreement"]
    differ = f"{agreement['differ']:,} of {agreement['outputs']:,}"
    if agreement["differ"]:
        differ += f", by at most {agreement['steps']} of 255 steps"
    rows.append(("outputs other than PyTorch's", differ))
    parts: list[RenderableType] = [
        _table("Training", ("epoch", "loss", "held out"), epochs),
        _pairs(report["model"], rows),
    ]
    if "plan" in report:
        parts.append(network(report["plan"]))
    return Group(*parts)


def board(report: Report) -> RenderableType:
    """A built bitstream."""
    kinds = list(report["utilisation"])
    blocks = [
        (block, *(f"{counts.get(kind, 0):,}" for kind in kinds))
        for block, counts in report["blocks"].items()
    ]
    used = [
        (kind, f"{figures['used']:,}", f"{figures['available']:,}")
        for kind, figures in report["utilisation"].items()
    ]
    rows = [
        ("bitstream", f"{report['bitstream']}, {report['bitstream_bytes']:,} bytes"),
        ("clock", f"{report['clock_mhz']:g} MHz"),
        ("reached", f"{report['fmax_mhz']:.2f} MHz"),
    ]
    return Group(
        _table("Block by block", ("block", *kinds), blocks),
        _table("Utilisation", ("", "used", "there are"), used),
        _pairs(f"{report['board']}, {report['device']}", rows),
    )


def boards(catalogue: Sequence[Report]) -> RenderableType:
    """All boards, with the figures of their last builds."""
    rows = []
    for one in catalogue:
        build = one["build"]
        speed = f"-{one['speed']}" if one["speed"] else ""
        row = [one["board"], f"{one['device']}{speed}", one["configuration"]]
        row += [f"{one['lanes']} x {one['width']}", f"{one['clock_mhz']:g}"]
        row += [f"{build['fmax_mhz']}", *_area(build)] if build else ["unplaced", "", ""]
        rows.append(row)
    columns = ("board", "FPGA", "config", "array", "MHz", "reached", "LUT", "DSP")
    return _table("Boards", columns, rows)


def bench(report: Report) -> RenderableType:
    """Networks on boards, as they are and stored at 8 bits: a table a network."""
    parts: list[RenderableType] = []
    notes: dict[str, str] = {}
    columns = ("", "MHz", "f/s", "MACs", "KB", "int8 f/s", "MACs", "KB")
    for name in dict.fromkeys(row["network"] for row in report["rows"]):
        of_one = [row for row in report["rows"] if row["network"] == name]
        rows = []
        for row in of_one:
            cells = [row["board"], f"{row['clock_mhz']:g}"]
            for form in ("compressed", "stored"):
                cells += _speed(row[form])
                if "misfit" in row[form]:
                    notes[f"{name}, {row['configuration']}"] = row[form]["misfit"]
                elif not row[form]["fits"]:
                    notes["*"] = "more than there is: cycles as if it were there"
            rows.append([*cells, *_area(row)])
        figures = of_one[0]["stored"]
        title = f"{name}: {figures['weights']:,} weights, {figures['macs']:,} multiplications"
        parts.append(_table(title, (*columns, "LUT", "DSP"), rows))
    sources = {
        row[form].get("source") for row in report["rows"] for form in ("compressed", "stored")
    }
    notes["cycles"] = " and ".join(sorted(filter(None, sources)))
    return Group(*parts, _pairs("", list(notes.items())))


def _speed(figures: Report) -> tuple[str, str, str]:
    """Frames a second, use of the array and coefficient memory of a network on a board."""
    if "misfit" in figures:
        return "", "", "no fit"
    need, there = figures["payload_bytes"] / 1024, figures["coefficient_bytes"] / 1024
    return (
        f"{figures['frames_per_second']:,}",
        f"{figures['mac_utilisation']:.1%}",
        f"{need:.0f}/{there:.0f}{'' if figures['fits'] else '*'}",
    )


def _area(build: Report) -> tuple[str, str]:
    """Logic and multipliers of a build: an iCE40's logic cells, an ECP5's LUTs."""
    used = build["utilisation"]
    return f"{used.get('lc', used['lut'])['used']:,}", f"{used['dsp']['used']:,}"


def demonstration(report: Report) -> RenderableType:
    """What the demo found, and what to try next."""
    generated, speed = report["generated"], report["speed"]
    small, dense = report["weight_bytes"], report["dense_int8_bytes"]
    count = f"{generated['weights']:,} of {report['weights']:,} weights"
    source = f"{generated['bits']:,} bits, {generated['bits_per_weight']} a weight"
    right, right_float = f"{report['accuracy']:.2%}", f"{report['accuracy_float']:.2%}"
    rows = [
        ("samples simulated", f"{report['samples']}"),
        (
            "values that differ",
            f"{report['mismatches']} of {report['values']:,}",
        ),
        (
            f"right, of {report['images']} images",
            f"{right} in integers, {right_float} in floating point",
        ),
        ("weights stored", f"{small:,} bytes, {small / dense:.3f} of {dense:,} at int8"),
        ("generated on chip", f"{count} ({generated['share']:.1%}), from {source}"),
        ("cycles an inference", _cycles(report)),
        (
            f"at {report['clock_mhz']:g} MHz",
            f"{report['inferences_per_second']} inferences a second",
        ),
    ]
    if report["first_mismatch"]:
        rows.append(("first that differs", report["first_mismatch"]))
    dataflows = {
        "stored": "all weights stored at 8 bits",
        "intra": "intra level alone",
        "generated": "both levels",
    }
    speeds = [
        (
            what,
            f"{speed[name]['cycles']:,}",
            f"{speed[name]['ideal_cycles']:,}",
            f"{speed[name]['ratio']:.4f}",
        )
        for name, what in dataflows.items()
    ]
    device = report["configuration"]
    return Group(
        _by_layer(f"Layer by layer on {device}", report["layers"]),
        _table(
            f"Cycles an inference on {speed['configuration']}, by dataflow",
            ("", "RTL", "ideal", "ratio"),
            speeds,
        ),
        _pairs(
            f"{report['network']}: weights recovered by the RTL of {device}, compared with golden",
            rows,
        ),
        Text.from_markup(_NEXT),
    )


_NEXT = """\
[bold]Next[/], after `. .venv/bin/activate`:
  your network    insitu compile MODEL.onnx -o my.image --config up5k \\
                      --calibration SAMPLES.npz
  on the RTL      insitu simulate my.image --inputs SAMPLES.npz --layers
  a bitstream     insitu build --board icebreaker
  the core        insitu verilog --config ecp5-45f -o accelerator.v
  a testbench     make sim TB=weight_generator WAVES=1
  how it works    docs/architecture.md"""


_SELF_LOAD = {
    "absent": "it loads nothing by itself",
    "loaded": "loaded, checked",
    "none_found": "no image for this device",
    "crc_wrong": "the image is damaged: its CRC is wrong",
}


def device(report: Report) -> RenderableType:
    """A device that answered."""
    image = report["image"]
    rows = [
        ("configuration", f"{report['configuration'] or 'unknown'}, digest {report['digest']}"),
        ("hardware", f"{report['hardware_version']}, image format {report['image_format']}"),
        ("array", f"{report['lanes']} x {report['width']}"),
        ("coefficient memory", f"{report['coefficient_bytes']:,} bytes"),
        ("activation memory", f"{report['activation_bytes']:,} bytes"),
        ("from the flash", _SELF_LOAD[report["self_load"]]),
        (
            "image",
            f"{image['network']}, {image['payload_bytes']:,} bytes" if image else "none known",
        ),
    ]
    if report["retries"]:
        rows.append(("retries", f"{report['retries']}"))
    return _pairs(f"Device at {report['port']}", rows)


def inference(report: Report) -> RenderableType:
    """Inputs that were run on a device."""
    rate = report["frames_per_second"]
    rows = [
        ("samples", f"{report['samples']}"),
        ("cycles an inference", f"{report['cycles']:,} (predicted {report['predicted_cycles']:,})"),
    ]
    if "compute" in rate:
        rows.append(
            ("compute alone", f"{rate['compute']:,} frames/s at {report['clock_mhz']:g} MHz")
        )
    rows.append(("end to end", f"{rate['end_to_end']:,} frames/s"))
    if "accuracy" in report:
        rows.append(("right", f"{report['accuracy']:.2%}"))
    rows.append(("retries", f"{report['retries']}"))
    return _pairs(f"{report['network']} at {report['port']}", rows)
