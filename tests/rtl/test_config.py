"""What a configuration may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rtl.config import CONFIGURATIONS, configuration
from rtl.registers import geometry


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"lanes": 256}, "lanes must be at most 255 and width at most 8, not 256 and 1"),
        ({"lanes": 16, "width": 16}, "width at most 8, not 16 and 16"),
        (
            {"slow_memory": True, "activation_ports": 1},
            "activation_ports must be 2 where memory is slow, not 1",
        ),
        ({"width": 3}, "width must be a power of two, not 3"),
        ({"activation_bytes": 1000}, "activation_bytes must be a multiple of 1024 and at most"),
        ({"coefficient_bytes": 1025 << 10}, "at most 1048576, not 1049600"),
        ({"coefficient_bytes": 0}, "coefficient_bytes must be a positive integer, not 0"),
    ],
)
def test_refuses(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(configuration("up5k"), **wrong)


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
