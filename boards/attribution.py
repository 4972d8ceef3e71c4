"""Which block each cell of a placed design belongs to.

Mapping to LUTs loses all names, so ownership is carried by an attribute: synthesis is told the
block of every cell before it flattens the design (`marking`), registers, memories and multipliers
keep it, and a LUT belongs to the block of the register, memory, multiplier or pin that it feeds, by
the fewest LUTs in between; where it feeds several at the same distance, to the block of most.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

__all__ = ["OTHER", "count_cells", "marking", "owners", "public_name"]

OTHER = "other"
"""Block of what feeds nothing with a block: constants, mostly."""

ATTRIBUTE = "insitu_block"

KINDS = {
    # iCE40
    "ICESTORM_LC": "lc",
    "ICESTORM_DSP": "dsp",
    "ICESTORM_RAM": "ebr",
    "ICESTORM_SPRAM": "spram",
    # ECP5
    "TRELLIS_COMB": "lut",
    "TRELLIS_FF": "ff",
    "MULT18X18D": "dsp",
    "DP16KD": "ebr",
}
"""What a cell of a placed netlist counts as."""

LOGIC = ("ICESTORM_LC", "TRELLIS_COMB")

GENERATED = re.compile(r"_(SB_|LUT|CCU2C|PFUMX|L6MUX|TRELLIS_|DP16KD|MULT18X18D)|\$")
"""Marks a name that a tool made up of the names of neighbours."""


def public_name(name: str) -> bool:
    """Whether a name of the netlist is one of the design's."""
    return not GENERATED.search(name)


def _block_of(path: str) -> str:
    """The block that a dotted path below the top belongs to: a part of the accelerator or top."""
    first, _, rest = path.partition(".")
    return rest.partition(".")[0] or first if first == "accelerator" else first


def marking(rtlil: str) -> str:
    """Commands for yosys that set the attribute; to run on the hierarchical design `rtlil`."""
    paths = re.findall(r"^module \\(\S+)$", rtlil, re.MULTILINE)
    return "".join(
        f'setattr -set {ATTRIBUTE} "{_block_of(path.partition(".")[2]) or "top"}" {path}/c:*\n'
        for path in paths
    )


def _bits(cell: dict[str, Any], direction: str) -> list[Any]:
    return [
        bit
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == direction
        for bit in bits
    ]


def owners(module: dict[str, Any]) -> dict[str, str]:
    """Block of every cell of a module of a netlist as nextpnr writes it (Yosys' JSON)."""
    cells = module["cells"]
    net_blocks = {
        bit: _block_of(name)
        for name, net in module["netnames"].items()
        if "." in name and public_name(name)
        for bit in net["bits"]
    }
    readers: dict[Any, list[str]] = {}
    owner: dict[str, str] = {}
    for name, cell in cells.items():
        for bit in _bits(cell, "input"):
            readers.setdefault(bit, []).append(name)
        marked = cell["attributes"].get(ATTRIBUTE, "").strip()
        if marked:
            owner[name] = marked
        elif cell["type"] in LOGIC:
            named = [net_blocks[bit] for bit in _bits(cell, "output") if bit in net_blocks]
            if named:
                owner[name] = named[0]
        elif "." in name and not name.startswith("$"):
            owner[name] = _block_of(name)

    # The others, level by level backwards.
    feeds = {
        name: [reader for bit in _bits(cell, "output") for reader in readers.get(bit, ())]
        for name, cell in cells.items()
        if name not in owner
    }
    while feeds:
        found = {}
        for name, fed in feeds.items():
            votes = Counter(owner[reader] for reader in fed if reader in owner)
            if votes:
                found[name] = min(votes, key=lambda block: (-votes[block], block))
        if not found:
            break
        owner |= found
        feeds = {name: fed for name, fed in feeds.items() if name not in found}
    return owner | dict.fromkeys(feeds, OTHER)


def count_cells(module: dict[str, Any], owner: dict[str, str]) -> dict[str, dict[str, int]]:
    """Cells of each block by kind: {block: {kind: count}}.

    An iCE40's logic cell (`lc`) counts as `lut` too unless it is a register alone, and as `ff`
    where its register is in use.
    """
    counts: dict[str, Counter[str]] = {}
    for name, cell in module["cells"].items():
        kind = KINDS.get(cell["type"])
        if kind is None:
            continue
        block = counts.setdefault(owner[name], Counter())
        block[kind] += 1
        if kind == "lc":
            block["lut"] += not name.endswith("_DFFLC")
            block["ff"] += int(cell["parameters"]["DFF_ENABLE"], 2)
    return {block: dict(sorted(counts[block].items())) for block in sorted(counts)}
