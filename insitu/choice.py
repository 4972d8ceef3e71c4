"""How a layer's weights are kept: ranks, precisions and dataflow, and choices as a JSON file.

The file is an object with a layer's name for each key and an object with fields of `Choice` for
each value: `{"conv_5": {"terms": 3, "qb": 4, "qu": 3}, "dense_14": {"q": 4}}`. Fields that are left
out have their defaults.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from golden.code import POWER_BITS, Code
from insitu.errors import InputError
from insitu.files import read_file, write_file

__all__ = ["Choice", "parse_choices", "read_choices", "write_choices"]

_PRECISIONS = ("qb", "qu", "qv", "q")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How to keep the weights of a layer.

    Parameters
    ----------
    terms : int, optional
        Bi; without it the intra level is off.
    kernels : int, optional
        Bo; without it the cross level is off. With neither the weights are stored.
    qb, qu, qv : int
        Bits of B, U and V; without an intra level U is the basis kernels themselves.
    code : Code
        Of U, or its name. Powers of two only with `terms`, and a qu of 3.
    q : int
        Bits of stored weights.
    factored : bool
        With `kernels`: run as two layers, the convolution with the basis kernels and V as a
        pointwise layer behind it, instead of recovering the weights from both.
    fully : bool
        With `factored` and `terms`: recover nothing; three layers, U as a pointwise one, B as a
        depthwise one and V as a pointwise one, which sums over i too.

    Raises
    ------
    TypeError, ValueError
        For a field of another type or outside its range; the message quotes it.
    """

    terms: int | None = None
    kernels: int | None = None
    qb: int = 4
    qu: int = 4
    qv: int = 4
    code: Code = Code.UNIFORM
    q: int = 8
    factored: bool = False
    fully: bool = False

    def __post_init__(self) -> None:
        for name in ("terms", "kernels"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{name} must be an integer or null, not {value!r}")
        for name in _PRECISIONS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not 1 <= value <= 8:
                raise ValueError(f"{name} must be 1 to 8 bits, not {value}")
        object.__setattr__(self, "code", Code(self.code))
        if self.code is Code.POWER_OF_TWO:
            if self.terms is None:
                raise ValueError(
                    f"code {self.code} must come with terms, the number of basis terms"
                )
            if self.qu != POWER_BITS:
                raise ValueError(f"qu must be {POWER_BITS} with code {self.code}, not {self.qu}")
        for name in ("factored", "fully"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be true or false, not {value!r}")
        if self.factored and self.kernels is None:
            raise ValueError("factored must come with kernels, the number of basis kernels")
        if self.fully and not (self.factored and self.terms is not None):
            raise ValueError("fully must come with factored and terms")
        if self.fully and self.code is not Code.UNIFORM:
            raise ValueError(f"code must be {Code.UNIFORM} with fully, not {self.code}")

    @property
    def stored(self) -> bool:
        """Whether the weights are stored as they are."""
        return self.terms is None and self.kernels is None

    @property
    def dataflow(self) -> str:
        """What reports call it."""
        if self.stored:
            return "stored"
        if self.factored:
            return "fully factored" if self.fully else "factored"
        return "intra" if self.kernels is None else "cross"

    def __str__(self) -> str:
        """All that matters, as reports show it."""
        if self.stored:
            return f"stored, q {self.q}"
        powers = " in powers of two" if self.code is Code.POWER_OF_TWO else ""
        ranks, bits = [], [f"qu {self.qu}{powers}"]
        if self.terms is not None:
            ranks.append(f"Bi {self.terms}")
            bits.insert(0, f"qb {self.qb}")
        if self.kernels is not None:
            ranks.append(f"Bo {self.kernels}")
            bits.append(f"qv {self.qv}")
        return f"{self.dataflow}, {', '.join((*ranks, *bits))}"


def parse_choices(values: Any, source: str = "choices") -> dict[str, Choice]:
    """Choices from what a JSON file holds.

    Raises
    ------
    InputError
        For anything but an object of objects with fields of `Choice`; names layer and field.
    """
    form = 'write {"LAYER": {"terms": 2, "qb": 4, "qu": 4}, ...}'
    if not isinstance(values, Mapping):
        raise InputError(f"{source} are no JSON object", form)
    known = [field.name for field in fields(Choice)]
    choices = {}
    for name, given in values.items():
        if not isinstance(given, Mapping):
            raise InputError(f"{source} have {given!r} for layer {name!r}, not an object", form)
        for field in given:
            if field not in known:
                raise InputError(
                    f"{source} have an unknown field {field!r} for layer {name!r}",
                    f"the fields are {', '.join(known)}",
                )
        try:
            choices[name] = Choice(**given)
        except (TypeError, ValueError) as error:
            raise InputError(f"{source}, layer {name!r}: {error}", "correct that field") from None
    return choices


def read_choices(path: str | Path) -> dict[str, Choice]:
    """Read choices from a JSON file.

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        If it is no JSON, or as for `parse_choices`.
    """
    source = f"choices {path}"
    try:
        values = json.loads(read_file(path, "choices"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} are no JSON: {error}", "correct the file") from None
    return parse_choices(values, source)


def write_choices(choices: Mapping[str, Choice], path: str | Path) -> None:
    """Write choices to a JSON file, every field of each.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    text = json.dumps({name: asdict(choice) for name, choice in choices.items()}, indent=2)
    write_file(path, (text + "\n").encode(), "choices")
