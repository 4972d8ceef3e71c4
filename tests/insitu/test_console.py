"""What is said about progress, where standard error is a file and where it is a terminal."""

import pytest

from insitu import console
from insitu.errors import InputError


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_each_new_thing_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress() as tell:
        tell(0, None, "calibrating")
        tell(0, 5000, "epoch 1")
        tell(1, 5000, "epoch 1")
    assert said(capsys) == ["calibrating ...", "epoch 1 ..."]


def test_what_takes_long_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(console, "monotonic", lambda: now)
    with console.progress() as tell:
        tell(0, 5000, "epoch 1")
        for step in range(1, 5000):
            now = step / 40  # 40 a second, so two minutes
            tell(step, 5000, "epoch 1")
    assert said(capsys) == ["epoch 1 ...", "epoch 1: 2,400 of 5,000", "epoch 1: 4,800 of 5,000"]


@pytest.mark.parametrize("terminal", [False, True])
def test_names_are_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with console.progress() as tell:
        tell(0, 5, "fitting a[/b]:+1:")
    console.complain(InputError("there is no [bold]", "name [/bold]"))
    errors = capsys.readouterr().err
    for name in ("fitting a[/b]:+1:", "there is no [bold]", "name [/bold]"):
        assert name in errors
