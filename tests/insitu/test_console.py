"""What is said about progress where standard error is a file."""

import pytest

from insitu import console


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
