"""The accelerator on real FPGAs: a file a board, and what builds them."""

from insitu.errors import BuildError

from . import icebreaker, ulx3s_45f
from .board import Board

__all__ = ["BOARDS", "Board", "find_board"]

BOARDS = {board.name: board for board in (icebreaker.BOARD, ulx3s_45f.BOARD)}


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
