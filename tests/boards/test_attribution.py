"""Who owns a cell."""

from __future__ import annotations

from boards.attribution import OTHER, count_cells, marking, owners, public_name

from . import netlists


def test_logic_belongs_to_what_it_feeds() -> None:
    owner = owners(netlists.module())
    assert owner["b_LC"] == "mac", "two of its three readers"
    assert owner["a_LC"] == "mac", "through the other"
    assert owner["x_DFFLC"] == "mac"
    assert owner["z_LC"] == "fetch"


def test_names_count_where_they_are_the_designs() -> None:
    owner = owners(netlists.module())
    assert owner["c_LC"] == "generator", "of the net it drives"
    assert owner["accelerator.tile.memory_RAM"] == "tile"
    assert owner["idle_LC"] == OTHER
    assert owner["$gbuf_accelerator.tile.x"] == OTHER


def test_every_cell_is_counted_once() -> None:
    module = netlists.module()
    counts = count_cells(module, owners(module))
    assert counts["mac"] == {"ff": 2, "lc": 4, "lut": 3}
    assert counts["tile"] == {"ebr": 1}
    assert sum(block.get("lc", 0) for block in counts.values()) == 7


def test_marking_names_the_parts_of_the_accelerator() -> None:
    rtlil = (
        "module \\top\nend\nmodule \\top.clock\nend\nmodule \\top.accelerator\nend\n"
        "module \\top.accelerator.mac_array.multiply0_0\nend\n"
    )
    assert marking(rtlil).splitlines() == [
        'setattr -set insitu_block "top" top/c:*',
        'setattr -set insitu_block "clock" top.clock/c:*',
        'setattr -set insitu_block "accelerator" top.accelerator/c:*',
        'setattr -set insitu_block "mac_array" top.accelerator.mac_array.multiply0_0/c:*',
    ]


def test_made_up_names_are_known() -> None:
    assert public_name("accelerator.mac_array.step")
    assert not public_name("accelerator.mac_array.step_SB_LUT4_O")
    assert not public_name("accelerator.mac_array.step_LUT4_Z")
    assert not public_name("$nextpnr_ICESTORM_LC_1")
