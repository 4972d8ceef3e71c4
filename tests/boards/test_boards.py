"""Every board elaborates; its pins and clock are where they belong."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from boards import BOARDS, find_board
from boards.board import BAUD
from boards.build import elaborate
from boards.catalogue import catalogue
from boards.check import BASELINE
from boards.flow import FLOWS
from boards.top import Top
from insitu.errors import BuildError
from rtl.uart import bit_cycles

SMALLEST = {"ice40": "up5k", "ecp5": "ecp5-25f"}
"""Configurations that elaborate in a second or two."""

PINS = {
    "icebreaker": "clk12=35 rx=6 tx=9 led=11 led=37",
    "upduino": "clk12=20 rx=15 tx=14 rgb=39 rgb=40 flash=16",
    "ulx3s-25f": "clk25=G2 rx=M1 tx=L4 led=B2 led=C2",
    "ulx3s-45f": "clk25=G2 rx=M1 tx=L4 led=B2 led=C2",
    "ulx3s-85f": "clk25=G2 rx=M1 tx=L4 led=B2 led=C2",
    "orangecrab-25f": "clk=A9 rx=N17 tx=M18 rgb=M3 rgb=J3",
    "orangecrab-85f": "clk=A9 rx=N17 tx=M18 rgb=M3 rgb=J3",
    "colorlight-i5": "clk25=P3 rx=H18 tx=J17 led=U16",
    "colorlight-i9": "clk25=P3 rx=H18 tx=J17 led=L2",
    "ecpix5-45f": "clk100=K23 rx=R26 tx=R24 rgb=R21 rgb=T22",
    "ecpix5-85f": "clk100=K23 rx=R26 tx=R24 rgb=R21 rgb=T22",
}
"""From the boards' documentation."""

PLACED = re.compile(
    r'(?:set_io|LOCATE COMP) "?(\w+?)(?:_\d+)?(?:__(\w+?))??__io"?(?: SITE)? "?(\w+)'
)


LARGEST_BITSTREAM = {
    "iCE40UP5K": 104_090,
    "LFE5U-25F": 5_420_000 // 8,
    "LFE5U-45F": 9_740_000 // 8,
    "LFE5UM5G-45F": 9_740_000 // 8,
    "LFE5U-85F": 15_300_000 // 8,
    "LFE5UM5G-85F": 15_300_000 // 8,
}
"""Bytes: as icepack writes it, and by Lattice's FPGA-TN-02039."""


def pins(constraints: str) -> list[str]:
    """Name and place of every pin, as in `PINS`."""
    short = {"rgb_led": "rgb", "flash_cs_n": "flash"}
    return [
        f"{part if name == 'uart' else short.get(name, name)}={place}"
        for name, part, place in PLACED.findall(constraints)
    ]


@pytest.mark.parametrize("name", BOARDS)
def test_elaborates(name: str) -> None:
    board = BOARDS[name]
    family = board.config.family
    files = elaborate(replace(board, configuration=SMALLEST[family]))
    assert sorted(pins(files[f"top.{FLOWS[family].constraints}"])) == sorted(PINS[name].split())
    assert "\\top.accelerator.weight_generator" in files["top.il"]


FLASHES = {
    "icebreaker": "16 15 14 17 12 13",
    "ulx3s-25f": "R2 W2 V2 W1 Y2",
    "ulx3s-45f": "R2 W2 V2 W1 Y2",
    "ulx3s-85f": "R2 W2 V2 W1 Y2",
    "colorlight-i5": "R2 W2 V2",
    "colorlight-i9": "R2 W2 V2",
    "ecpix5-45f": "AA2 AD2 AE2 AF2 AE1",
    "ecpix5-85f": "AA2 AD2 AE2 AF2 AE1",
}
"""From the boards' documentation. The clock of an ECP5's flash is not on a pin of the fabric."""


@pytest.mark.parametrize("name", FLASHES)
def test_elaborates_with_the_flash(name: str) -> None:
    board = BOARDS[name]
    family = board.config.family
    files = elaborate(replace(board, configuration=SMALLEST[family]).loading_itself())
    found = {place.split("=")[1] for place in pins(files[f"top.{FLOWS[family].constraints}"])} - {
        place.split("=")[1] for place in PINS[name].split()
    }
    assert found == set(FLASHES[name].split())
    assert ("USRMCLK" in files["top.il"]) == (family == "ecp5")


def test_flash_out_of_reach() -> None:
    assert {name for name, board in BOARDS.items() if board.flash} == set(FLASHES)
    with pytest.raises(BuildError, match="upduino cannot load an image by itself") as error:
        BOARDS["upduino"].loading_itself()
    assert "without --self-load" in error.value.next_step


@pytest.mark.parametrize("name", FLASHES)
def test_image_lies_behind_any_bitstream(name: str) -> None:
    board = BOARDS[name]
    assert board.flash.offset >= LARGEST_BITSTREAM[board.platform.device]
    assert board.flash.offset + board.config.coefficient_bytes + 128 <= board.flash.size
    assert board.flash.offset % (64 << 10) == 0, "a block that is erased at once"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ulx3s-45f", "ulx3s-85f"])
def test_elaborates_as_it_is_built(name: str) -> None:
    assert "\\top.accelerator.weight_generator" in elaborate(BOARDS[name])["top.il"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("upduino", "--up5k --package sg48"),
        ("ulx3s-25f", "--25k --package CABGA381 --speed 6"),
        ("ulx3s-85f", "--85k --package CABGA381 --speed 6"),
        ("orangecrab-85f", "--85k --package CSFBGA285 --speed 8"),
        ("colorlight-i9", "--45k --package CABGA381 --speed 6"),
        ("ecpix5-45f", "--um5g-45k --package CABGA554 --speed 8"),
    ],
)
def test_device_package_and_speed(name: str, expected: str) -> None:
    board = BOARDS[name]
    arguments = " ".join(FLOWS[board.config.family].place_arguments(board.platform()))
    assert arguments.startswith(f"{expected} ")


def test_catalogue_has_every_board_and_its_last_build() -> None:
    listed = {one["board"]: one for one in catalogue()}
    assert list(listed) == list(BOARDS)
    assert listed["ulx3s-45f"]["device"] == "LFE5U-45F"
    assert (listed["ulx3s-45f"]["lanes"], listed["ulx3s-45f"]["width"]) == (16, 4)
    built = {name for name, one in listed.items() if one["build"]}
    assert built == set(json.loads(BASELINE.read_text()))


def test_timing_says_which_boards_were_never_placed() -> None:
    table = (BASELINE.parent.parent / "docs" / "timing.md").read_text()
    for one in catalogue():
        (row,) = re.findall(rf"^\| `{one['board']}` \|.*$", table, re.MULTILINE)
        assert ("not placed yet" in row) == (one["build"] is None), row
        if one["build"]:
            assert f"{one['build']['fmax_mhz']:.1f} MHz" in row


def test_elaborates_to_the_same_twice() -> None:
    board = BOARDS["icebreaker"]
    assert elaborate(board) == elaborate(board), "builds are cached by it"


@pytest.mark.parametrize("name", BOARDS)
def test_uart_can_be_made_of_the_clock(name: str) -> None:
    assert bit_cycles(BOARDS[name].clock_hz, BAUD) >= 8


def test_unknown_board_lists_those_that_exist() -> None:
    with pytest.raises(BuildError, match="no board named 'icebraker'") as error:
        find_board("icebraker")
    assert "icebreaker, upduino, ulx3s-25f" in error.value.next_step


def test_top_refuses_what_is_no_board() -> None:
    with pytest.raises(TypeError, match="board must be a Board, not 'icebreaker'"):
        Top("icebreaker")  # type: ignore[arg-type]
