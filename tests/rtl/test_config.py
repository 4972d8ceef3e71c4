"""What a configuration may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rtl.config import CONFIGURATIONS, configuration
from rtl.registers import geometry

WIDEST = {
    "family": "sim",
    "lanes": 64,
    "width": 4,
    "activation_word": 4,
    "coefficient_port": 8192,
    "tile_bytes": 4096,
}
"""Words of 1 KB of coefficient memory."""


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"family": "xc7"}, "family must be one of sim, ice40, ecp5, not 'xc7'"),
        ({"lanes": 256}, r"lanes must be a power of two in 4\.\.128, not 256"),
        ({"lanes": 2}, r"lanes must be a power of two in 4\.\.128, not 2"),
        ({"lanes": 12}, r"lanes must be a power of two in 4\.\.128, not 12"),
        ({"lanes": 8.0}, r"lanes must be a power of two in 4\.\.128, not 8\.0"),
        ({"lanes": 16, "width": 16}, "width must be at most 8, not 16"),
        ({"lanes": 64, "coefficient_port": 64}, "at most 32 where width is 1, not 64"),
        (
            {"slow_memory": True, "activation_ports": 1},
            "activation_ports must be 2 where memory is slow, not 1",
        ),
        ({"activation_ports": 2}, "activation_ports must be 1 on ice40, .* not 2"),
        ({"slow_memory": True, "activation_ports": 2}, "on ice40, .* is not slow, not 2"),
        ({"activation_ports": 3}, "activation_ports must be 1 or 2, not 3"),
        ({"activation_ports": True}, "activation_ports must be 1 or 2, not True"),
        ({"width": 3}, "width must be a power of two, not 3"),
        ({"activation_word": 2}, "activation_word must be at least 4 and a multiple of width 1"),
        (
            {"width": 8, "coefficient_port": 64},
            "activation_word must be at least 4 and a multiple of width 8, not 4",
        ),
        ({"activation_word": 16}, "activation_word must divide lanes 8, not 16"),
        ({"activation_bytes": 1000}, "activation_bytes must be a multiple of 1024 and at most"),
        ({"coefficient_bytes": 1025 << 10}, "at most 1048576, not 1049600"),
        ({"coefficient_bytes": 0}, "coefficient_bytes must be a positive integer, not 0"),
        ({"coefficient_port": 16}, "coefficient_port must be at least 32 and a multiple of"),
        ({"width": 4, "lanes": 16}, r"a multiple of lanes \* width 64, not 32"),
        (
            {"coefficient_port": 1024},
            r"coefficient_port must be at most 64 \* lanes \* width 512, not 1024",
        ),
        (
            {**WIDEST, "coefficient_bytes": 1 << 10},
            "coefficient_bytes must be two words or more of coefficient_port / 8 1024, not 1024",
        ),
        (
            {**WIDEST, "coefficient_port": 16384, "coefficient_bytes": 5 << 10},
            "coefficient_bytes must be two words or more of coefficient_port / 8 2048, not 5120",
        ),
        ({"tile_bytes": 6145}, r"tile_bytes must be a multiple of lanes \* width 8, not 6145"),
        ({"generator_terms": 0}, r"generator_terms must be in 1\.\.8, not 0"),
        ({"generator_terms": 2.0}, r"generator_terms must be in 1\.\.8, not 2\.0"),
        ({"generator_terms": True}, r"generator_terms must be in 1\.\.8, not True"),
        ({"generator_u_bits": 1}, r"generator_u_bits must be in 2\.\.8, not 1"),
        ({"generator_b_bits": 9}, r"generator_b_bits must be in 2\.\.8, not 9"),
        ({"basis_depth": 16}, "basis_depth must be at least twice basis_blocks 16, not 16"),
        (
            {"requantiser_outputs": 3},
            "requantiser_outputs must divide activation_word 4, not 3",
        ),
        ({"accumulator_bits": 15}, r"accumulator_bits must be in 16\.\.32, not 15"),
        ({"accumulator_bits": 33}, r"accumulator_bits must be in 16\.\.32, not 33"),
        ({"accumulator_bits": 24.0}, r"accumulator_bits must be in 16\.\.32, not 24\.0"),
        ({"clock_hz": 33e6}, "clock_hz must be a positive integer, not 33000000.0"),
        ({"width": True}, "width must be a positive integer, not True"),
    ],
)
def test_refuses(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(configuration("up5k"), **wrong)


def test_slow_memory_is_a_bool() -> None:
    with pytest.raises(TypeError, match="slow_memory must be a bool, not 1"):
        replace(configuration("up5k"), slow_memory=1)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_geometry_tells_all_sizes(name: str) -> None:
    config = configuration(name)
    for kilobytes in (1, 3, 96, 320, 1024):
        sizes = {"coefficient_bytes": kilobytes << 10, "activation_bytes": 1 << 20}
        value = geometry(replace(config, **sizes))
        assert value < 1 << 32
        assert value & 0xFF == config.lanes
        assert value >> 8 & 0xF == config.width
        assert value >> 12 & 0x3FF == kilobytes - 1
        assert value >> 22 == 1023
