"""The accelerator on real FPGAs: a file a board, and what builds them."""

from insitu.errors import BuildError

from . import colorlight, ecpix5, icebreaker, orangecrab, ulx3s, upduino
from .board import Board

__all__ = ["BOARDS", "Board", "find_board"]

BOARDS = {
    board.name: board
    for family in (icebreaker, upduino, ulx3s, orangecrab, colorlight, ecpix5)
    for board in family.BOARDS
}


def find_board(name: str) -> Board:
    """The board of that name.

    Raises
    ------
    BuildError
        If there is none; the message lists those that exist.
    """
    try:
        return BOARDS[name]
    except KeyError:
        raise BuildError(
            f"there is no board named {name!r}", f"choose one of {', '.join(BOARDS)}"
        ) from None
