"""Every board elaborates; its pins and clock are where they belong."""

from __future__ import annotations

import pytest

from boards import BOARDS, find_board
from boards.board import BAUD
from boards.build import elaborate
from boards.flow import FLOWS
from boards.top import Top
from insitu.errors import BuildError
from rtl.uart import bit_cycles


@pytest.mark.parametrize("name", BOARDS)
def test_elaborates(name: str) -> None:
    board = BOARDS[name]
    files = elaborate(board)
    constraints = files[f"top.{FLOWS[board.config.family].constraints}"]
    assert {"uart_0__rx__io", "uart_0__tx__io", "led_0__io"} <= set(
        constraints.replace('"', " ").split()
    )
    assert "\\top.accelerator.weight_generator" in files["top.il"]


def test_elaborates_to_the_same_twice() -> None:
    board = BOARDS["icebreaker"]
    assert elaborate(board) == elaborate(board), "builds are cached by it"


@pytest.mark.parametrize("name", BOARDS)
def test_uart_can_be_made_of_the_clock(name: str) -> None:
    assert bit_cycles(BOARDS[name].clock_hz, BAUD) >= 8


def test_unknown_board_lists_those_that_exist() -> None:
    with pytest.raises(BuildError, match="no board named 'icebraker'") as error:
        find_board("icebraker")
    assert "icebreaker, ulx3s-45f" in error.value.next_step


def test_top_refuses_what_is_no_board() -> None:
    with pytest.raises(TypeError, match="board must be a Board, not 'icebreaker'"):
        Top("icebreaker")  # type: ignore[arg-type]
