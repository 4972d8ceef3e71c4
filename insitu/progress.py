"""How work that takes long says how far it is."""

from collections.abc import Callable

__all__ = ["Progress"]

Progress = Callable[[int, int | None, str], None]
"""Called with what is done, what there is to do (None: unknown), and what is going on."""
