"""What the tools are told."""

from __future__ import annotations

import pytest
from amaranth import Module
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from boards import BOARDS
from boards.flow import FLOWS, allow_collisions, synthesis_script


class _TwoMemories(wiring.Component):
    """One memory that says nothing of collisions, and one that allows them."""

    def __init__(self) -> None:
        super().__init__({"address": In(4), "data": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, attrs in (("strict", {}), ("lax", {"no_rw_check": 1})):
            memory = Memory(shape=8, depth=16, init=[], attrs=attrs)
            m.submodules[name] = memory
            writer, reader = memory.write_port(), memory.read_port()
            m.d.comb += [
                writer.addr.eq(self.address),
                writer.en.eq(1),
                writer.data.eq(self.data),
                reader.addr.eq(self.address),
                self.data.word_select(name == "lax", 8).eq(reader.data),
            ]
        return m


def test_collisions_are_allowed_where_the_memory_says_so() -> None:
    text = rtlil.convert(_TwoMemories(), emit_src=False)
    before, after = text.splitlines(), allow_collisions(text).splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [(old.split(), new.split()) for old, new in changed] == [
        (["parameter", "\\COLLISION_X_MASK", "1'0"], ["parameter", "\\COLLISION_X_MASK", "1'1"])
    ]
    index = next(n for n, (old, new) in enumerate(zip(before, after, strict=True)) if old != new)
    assert any('\\MEMID "\\\\lax"' in line for line in after[index - 4 : index])


def test_nets_are_split_in_the_middle_of_synthesis() -> None:
    script = synthesis_script(FLOWS["ice40"], "module \\top\nend\n").splitlines()
    assert script[0] == "read_rtlil top.il"
    middle = script.index("splitnets")
    assert script[middle - 1].endswith("-run begin:map_luts")
    assert script[middle + 1].endswith("-run map_luts:")


@pytest.mark.parametrize("name", BOARDS)
def test_place_and_route_may_not_miss_the_clock(name: str) -> None:
    board = BOARDS[name]
    arguments = FLOWS[board.config.family].place_arguments(board.platform())
    assert "--timing-allow-fail" not in arguments
    assert all(isinstance(argument, str) for argument in arguments)
