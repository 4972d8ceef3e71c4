"""Memories inferred for block RAM."""

from amaranth.lib.memory import Memory

__all__ = ["block_memory"]


def block_memory(bits, depth):
    """A memory of `depth` words of `bits` bits, initially zero.

    Nothing may depend on what a read returns of a word that is written in the same cycle: block
    RAM does not define it, and the attribute keeps yosys from adding registers that would.
    """
    return Memory(shape=bits, depth=depth, init=[], attrs={"no_rw_check": 1})
