"""Choices and their JSON: what is read back is what was written, and every error has a name."""

import json

import pytest

from insitu.choice import Choice, parse_choices, read_choices, write_choices
from insitu.errors import FileError, InputError

CHOICES = {
    "a": Choice(),
    "b": Choice(terms=2, qb=3, qu=5),
    "c": Choice(terms=2, kernels=8, qv=6),
    "d": Choice(kernels=16, factored=True),
    "e": Choice(q=1),
    "f": Choice(terms=3, qu=3, code="power-of-two"),
    "g": Choice(terms=2, kernels=8, factored=True, fully=True),
}


def test_round_trip(tmp_path):
    write_choices(CHOICES, tmp_path / "choices.json")
    assert read_choices(tmp_path / "choices.json") == CHOICES


def test_fields_left_out():
    assert parse_choices({"a": {}, "b": {"terms": None, "q": 3}}) == {
        "a": Choice(),
        "b": Choice(q=3),
    }


def test_names():
    assert [choice.dataflow for choice in CHOICES.values()] == [
        "stored",
        "intra",
        "cross",
        "factored",
        "stored",
        "intra",
        "fully factored",
    ]
    assert [str(choice) for choice in CHOICES.values()] == [
        "stored, q 8",
        "intra, Bi 2, qb 3, qu 5",
        "cross, Bi 2, Bo 8, qb 4, qu 4, qv 6",
        "factored, Bo 16, qu 4, qv 4",
        "stored, q 1",
        "intra, Bi 3, qb 4, qu 3 in powers of two",
        "fully factored, Bi 2, Bo 8, qb 4, qu 4, qv 4",
    ]


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ([], "no JSON object"),
        ({"a": 4}, "have 4 for layer 'a', not an object"),
        ({"a": {"bits": 4}}, "unknown field 'bits' for layer 'a'"),
        ({"a": {"qu": 9}}, "layer 'a': qu must be 1 to 8 bits, not 9"),
        ({"a": {"q": 2.5}}, "layer 'a': q must be an integer, not 2.5"),
        ({"a": {"code": "log"}}, "code must be one of uniform, power-of-two, not 'log'"),
        ({"a": {"code": 2, "terms": 2}}, "code must be one of uniform, power-of-two, not 2"),
        ({"a": {"code": "power-of-two", "qu": 3}}, "code power-of-two must come with terms"),
        ({"a": {"code": "power-of-two", "terms": 2}}, "qu must be 3 with code .*, not 4"),
        ({"a": {"terms": True}}, "layer 'a': terms must be an integer or null, not True"),
        ({"a": {"factored": 1, "kernels": 8}}, "layer 'a': factored must be true or false, not 1"),
        ({"a": {"factored": True}}, "layer 'a': factored must come with kernels"),
        ({"a": {"fully": True, "terms": 2}}, "layer 'a': fully must come with factored and terms"),
        (
            {"a": {"fully": True, "factored": True, "kernels": 8}},
            "layer 'a': fully must come with factored and terms",
        ),
        (
            {
                "a": {"fully": True, "factored": True, "kernels": 8, "terms": 2}
                | {"qu": 3, "code": "power-of-two"}
            },
            "layer 'a': code must be uniform with fully, not power-of-two",
        ),
    ],
)
def test_refuses(tmp_path, given, cause):
    (tmp_path / "bad.json").write_text(json.dumps(given))
    with pytest.raises(InputError, match=cause):
        read_choices(tmp_path / "bad.json")


def test_files_that_are_none(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="are no JSON"):
        read_choices(tmp_path / "bad.json")
    with pytest.raises(FileError, match="does not exist"):
        read_choices(tmp_path / "none.json")
