"""One HTML file with everything about compressed networks, from the JSON of other commands.

It needs nothing else: pictures are inline SVG. Files are rows as `examples/compression/rows.py`
makes them, one or a list, or what `insitu compress` and `insitu retrain --config` write with
`--json`.
"""

import io
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insitu import __version__
from insitu.choice import Choice
from insitu.errors import InputError
from insitu.files import read_file
from insitu.memory_map import STYLE, draw
from insitu.metadata import BadMetadata, check_metadata
from insitu.show import form

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Entry", "html", "read_entries"]

Report = Mapping[str, Any]

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_KINDS = (
    "rows of examples/compression/rows.py, insitu compress --json, "
    "insitu retrain --config NAME --json"
)
_COMPRESSED, _PLAIN, _FLOAT = "#1d4ed8", "#c2410c", "#475569"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network in one form.

    Parameters
    ----------
    name : str
    model : str
        What it was made of; networks of one model share a picture.
    configuration : str
    plain : bool
        Whether all weights are stored.
    memory : dict of str to int
        Bytes of `weights`, `parameters` and `program`.
    cycles, cycles_stored : int or None
        Of an inference: as it is, and with all weights stored at 8 bits.
    bits : float or None
        A weight, padding included.
    budget : int or None
        Bytes that were allowed.
    over : bool
        Whether it takes more.
    accuracy, untrained, reference : float or None
        In percent: as it is, before retraining, and of the network in floating point.
    epochs : int or None
    layers : list of dict
        `name`, `kind`, `form`, `bytes`, `cycles` and `why`, for the table.
    plan : mapping or None
        The report of its plan.
    frontiers : dict of str to list of (int, float)
        Bytes and loss of what a solver chose from.
    """

    name: str
    model: str
    configuration: str
    plain: bool
    memory: dict[str, int]
    cycles: int | None = None
    cycles_stored: int | None = None
    bits: float | None = None
    budget: int | None = None
    over: bool = False
    accuracy: float | None = None
    untrained: float | None = None
    reference: float | None = None
    epochs: int | None = None
    layers: list[dict[str, Any]] = field(default_factory=list)
    plan: Report | None = None
    frontiers: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return sum(self.memory.values())


def read_entries(path: Path) -> list[Entry]:
    """The networks that a file of figures tells of.

    Raises
    ------
    FileError
        If it cannot be read.
    InputError
        If it is not one of those above.
    """
    source = f"figures {path}"
    try:
        values = json.loads(read_file(path, "figures"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} are no JSON: {error}", f"name {_KINDS}") from None
    entries: list[Entry] = []
    for one in values if isinstance(values, list) else [values]:
        try:
            entries += _entries(one)
        except BadMetadata as bad:
            raise InputError(f"{source} have a plan {bad}", f"name {_KINDS}") from None
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise InputError(
                f"{source} are none that a report is made of ({type(error).__name__}: {error})",
                f"name {_KINDS}",
            ) from None
    if not entries:
        raise InputError(f"{source} are empty", f"name {_KINDS}")
    return entries


def _entries(values: Report) -> list[Entry]:
    if "row" in values:
        return [_row(values)]
    if "compressed" in values:
        return _compressed(values)
    record, plan = values["training"], values["plan"]
    return [
        Entry(
            name=plan["network"],
            model=_stem(values["model"]),
            plain=all(Choice(**one).stored for one in values["choices"].values()),
            accuracy=record["held_out"],
            untrained=record["untrained"],
            bits=values["bits_a_weight"],
            reference=record.get("teacher"),
            epochs=len(record["epochs"]),
            **_planned(plan, values["choices"]),
        )
    ]


def _stem(model: str) -> str:
    """A model's name, of its file's."""
    return Path(model).stem


def _row(values: Report) -> Entry:
    right = values["accuracy"]
    trained = "training" in values
    return Entry(
        name=values["row"],
        model=_stem(values["model"]),
        plain=values["plain"],
        cycles_stored=values["cycles_stored_int8"],
        budget=values["budget_bytes"],
        over=values["over"],
        accuracy=right["retrained" if trained else "untrained"],
        untrained=right["untrained"] if trained else None,
        bits=values["bits_a_weight"],
        reference=right["float"],
        epochs=len(values["training"]["epochs"]) if trained else None,
        **_planned(values["plan"], values["choices"]),
    )


def _planned(plan: Report, choices: Report) -> dict[str, Any]:
    """What a plan says of an entry, and the choices that it was made by."""
    check_metadata(plan, plan["payload_bytes"])
    layers = {layer["name"]: layer for layer in plan["layers"]}
    parts = {
        name: part
        for factored, values in choices.items()
        for name, part in _parts(factored, Choice(**values), layers).items()
    }
    return {
        "configuration": plan["configuration"],
        "memory": {
            "weights": plan["weight_bytes"],
            "parameters": plan["parameter_bytes"],
            "program": plan["program_bytes"],
        },
        "cycles": plan["cycles"],
        "layers": [
            {
                "name": name,
                "kind": layer["kind"],
                "form": "".join(
                    (
                        f"{parts[name].dataflow}, {parts[name].factor}: " if name in parts else "",
                        f"{layer['dataflow']} {form(layer)}".strip(),
                    )
                ),
                "bytes": layer["weight_bytes"] + layer["parameter_bytes"],
                "cycles": layer["cost"]["cycles"],
                "why": _why(layer, parts.get(name)),
            }
            for name, layer in layers.items()
        ],
        "plan": plan,
    }


@dataclass(frozen=True)
class _Part:
    """What a layer of a plan is of one that is factored.

    Parameters
    ----------
    dataflow : str
    factor : str
        What its weights are: U, B, W1 or V.
    why : str
        What all parts take.
    """

    dataflow: str
    factor: str
    why: str


def _parts(name: str, choice: Choice, layers: Mapping[str, Report]) -> dict[str, _Part]:
    """The layers that a factored layer runs as, by name.

    Multiplications that recover W1 from an intra level are not counted.
    """
    if not choice.factored:
        return {}
    factors = {f"{name}.basis": "B" if choice.fully else "W1", name: "V"}
    if choice.fully:
        factors = {f"{name}.coefficients": "U"} | factors
    if not all(part in layers for part in factors):
        return {}
    basis, whole = layers[f"{name}.basis"], layers[name]
    channels = layers[next(iter(factors))]["inputs"][0]["shape"][2]
    weights = math.prod((whole["output"]["shape"][2], channels, *basis["kernel"]))
    bits = sum(layers[part]["weight_bits"] for part in factors) / weights
    multiplications = sum(
        layers[part]["dense_int8_bytes"] * math.prod(layers[part]["output"]["shape"][:2])
        for part in factors
    )
    share = multiplications / (weights * math.prod(whole["output"]["shape"][:2]))
    why = (
        f"the parts of {name} take together {bits:.2f} bits a weight and {share:.2f} of the "
        f"multiplications"
    )
    return {part: _Part(choice.dataflow, factor, why) for part, factor in factors.items()}


def _why(layer: Report, part: _Part | None) -> str:
    """What a layer's dataflow is worth there."""
    if not layer["dense_int8_bytes"]:
        return ""
    bits = layer["weight_bits"] / layer["dense_int8_bytes"]
    reasons = [f"{bits:.2f} bits a weight as it runs" if part is None else part.why]
    if part is None and layer["dataflow"] == "stored":
        if layer["kind"] in ("depthwise", "fully connected"):
            reasons.append(f"{layer['kind']} layers stay stored")
        elif layer["kernel"] == [1, 1]:
            reasons.append("one tap has no intra level")
    if layer["cost"]["generate"]:
        reasons.append(f"{layer['cost']['generate']:,} cycles recover the weights")
    elif layer["dataflow"] != "stored":
        reasons.append("weights are recovered while they are used, in no cycles of their own")
    bound = layer["cost"]["bound"]
    reasons.append("as fast as the array can" if bound == "array" else f"limited by {bound}")
    return "; ".join(reasons)


def _why_chosen(layer: Report) -> str:
    """What a layer's form costs the network's outputs, and what another dataflow would."""
    own, other = f"adds {layer['proxy_loss']:.2g} to the loss", layer["instead"]
    if other is None:
        return f"{own}; no other dataflow is as small"
    more = f"would add {other['proxy_loss']:.2g} in {other['cycles']:,} cycles"
    return f"{own}; {other['choice']}, {other['bytes']:,} bytes, {more}"


def _compressed(values: Report) -> list[Entry]:
    found = []
    for name in ("compressed", "plain"):
        one = values[name]
        if "refused" in one:
            continue
        if "plan" in one:
            check_metadata(one["plan"], one["plan"]["payload_bytes"])
        frontiers = {}
        if name == "compressed":
            frontiers = {
                what: [(point["bytes"], point["proxy_loss"]) for point in values[key]]
                for what, key in (("compressed", "frontier"), ("plain", "plain_frontier"))
            }
        accuracies = {
            what: 100 * source["accuracy"]
            for what, source in (("accuracy", one), ("reference", values.get("float", {})))
            if "accuracy" in source
        }
        found.append(
            Entry(
                name=f"{_stem(values['model'])}, {name}"
                + (", written" if values["written"] == name else ""),
                model=_stem(values["model"]),
                configuration=values["configuration"],
                plain=name == "plain",
                memory={
                    what: one[f"{key}_bytes"]
                    for what, key in (
                        ("weights", "weight"),
                        ("parameters", "parameter"),
                        ("program", "program"),
                    )
                },
                cycles=one["cycles"],
                budget=values["budget_bytes"],
                layers=[
                    {
                        "name": layer["name"],
                        "kind": "",
                        "form": layer["choice"],
                        "bytes": layer["bytes"],
                        "cycles": layer["cycles"],
                        "why": _why_chosen(layer),
                    }
                    for layer in one["layers"]
                ],
                plan=one.get("plan"),
                frontiers=frontiers,
                **accuracies,
            )
        )
    return found


def html(entries: Sequence[Entry], title: str) -> str:
    """The report."""
    # Here, since they take a second that no other verb needs.
    import jinja2
    import matplotlib
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        # A letter that the font lacks becomes a box; the tables have it.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        measured: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.accuracy is not None:
                measured.setdefault(entry.model, []).append(entry)
        pictures = {
            "accuracies": [(model, Markup(_accuracies(one))) for model, one in measured.items()],
            "losses": [
                (entry.name, Markup(_losses(entry))) for entry in entries if entry.frontiers
            ],
            "memories": {
                index: Markup(_bare(draw(entry.plan, "svg").decode()))
                for index, entry in enumerate(entries)
                if entry.plan is not None
            },
        }
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, entries=entries, version=__version__, **pictures)


def _accuracies(entries: Sequence[Entry]) -> str:
    """Memory against accuracy of one model's networks; those that none smaller beats have names."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for plain, colour, marker in ((False, _COMPRESSED, "o"), (True, _PLAIN, "s")):
        points = sorted(
            (
                (one.bytes / 1024, one.accuracy, one.name)
                for one in entries
                if one.plain == plain and one.accuracy is not None
            ),
            key=lambda one: (one[0], -one[1]),
        )
        if not points:
            continue
        label = "all weights stored" if plain else "compressed"
        sizes, right, _ = zip(*points, strict=True)
        axes.plot(sizes, right, marker, color=colour, label=label)
        best = [one for index, one in enumerate(points) if one[1] > max(right[:index], default=-1)]
        axes.step([one[0] for one in best], [one[1] for one in best], color=colour, where="post")
        for size, accuracy, name in best:
            axes.annotate(name, (size, accuracy), (4, -9), textcoords="offset points", fontsize=7)
    for reference in sorted({one.reference for one in entries if one.reference is not None}):
        axes.axhline(reference, color=_FLOAT, linestyle=":", label=f"float, {reference:.2f} %")
    axes.set_xlabel("weights, parameters and program, KB")
    axes.set_ylabel("right, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return _svg(figure)


def _losses(entry: Entry) -> str:
    """Memory against the loss that a solver worked with."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, colour in (("compressed", _COMPRESSED), ("plain", _PLAIN)):
        points = sorted(entry.frontiers[name])
        label = "all weights stored" if name == "plain" else name
        sizes, losses = [one[0] / 1024 for one in points], [one[1] for one in points]
        axes.plot(sizes, losses, ".-", color=colour, label=label)
    if entry.budget is not None:
        axes.axvline(entry.budget / 1024, color=_FLOAT, linestyle=":", label="budget")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    # Between powers of ten there is room for numbers where there are few of these.
    axes.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())
    axes.set_xlabel("weights and parameters, KB")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    return _svg(figure)


def _svg(figure: "Figure") -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return _bare(file.getvalue())


def _bare(svg: str) -> str:
    """A picture as a part of a page: without the file's head and without metadata."""
    return re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
