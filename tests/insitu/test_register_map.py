"""The register map as others read it: by a C compiler, a schema, and a parser of SVD."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import cmsis_svd
import pytest
from cmsis_svd.parser import SVDParser
from lxml import etree

from insitu.register_map import c_header, registers, svd
from insitu.verilog import BUSES
from rtl.config import CONFIGURATIONS, configuration
from rtl.registers import (
    ACTIVATIONS,
    BITS,
    COEFFICIENTS,
    FIELDS,
    IDENTITY,
    REGISTERS,
    STREAM_REGISTERS,
    UNLOCK,
    Field,
    geometry,
    version,
)

UP5K = configuration("up5k")
SCHEMA = Path(cmsis_svd.__file__).with_name("schemas") / "CMSIS-SVD_1_3_9.xsd"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror")


def expected_macros(bus: str) -> dict[str, int]:
    macros = {
        "UNLOCK": UNLOCK,
        "IDENTITY_VALUE": IDENTITY,
        "VERSION_VALUE": version(),
        "GEOMETRY_VALUE": geometry(UP5K),
        "DIGEST_VALUE": UP5K.digest,
        "COEFFICIENT_MEMORY": COEFFICIENTS,
        "COEFFICIENT_BYTES": UP5K.coefficient_bytes,
        "ACTIVATION_MEMORY": ACTIVATIONS,
        "ACTIVATION_BYTES": UP5K.activation_bytes,
    }
    for name, register in registers(bus).items():
        macros[name] = register.offset
        for key, bit in BITS.get(name, {}).items():
            macros[f"{name}_{key.upper()}"] = 1 << bit.number
        for key, field in FIELDS.get(name, {}).items():
            macros[f"{name}_{key.upper()}_SHIFT"] = field.low
            macros[f"{name}_{key.upper()}_MASK"] = (1 << field.bits) - 1
    return macros


@pytest.mark.parametrize("bus", BUSES)
def test_header_says_to_c_what_the_hardware_is(bus: str, tmp_path: Path) -> None:
    header = c_header(UP5K, bus)
    macros = expected_macros(bus)
    defined = [line.split()[1] for line in header.splitlines() if line.startswith("#define")]
    assert sorted(defined[1:]) == sorted(f"INSITU_{name}" for name in macros)
    (tmp_path / "registers.h").write_text(header)
    lines = [f'printf("%lx\\n", (unsigned long)INSITU_{name});' for name in macros]
    program = "\n".join(
        ['#include "registers.h"'] * 2
        + ["#include <stdio.h>", "int main(void) {", *lines, "return 0; }", ""]
    )
    (tmp_path / "main.c").write_text(program)
    subprocess.run(["cc", *STRICT, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    values = [int(line, 16) for line in done.stdout.split()]
    assert dict(zip(macros, values, strict=True)) == macros


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_svd_keeps_the_schema(config: str, bus: str) -> None:
    schema = etree.XMLSchema(etree.parse(SCHEMA))
    schema.assertValid(etree.fromstring(svd(configuration(config), bus).encode()))


def test_schema_can_fail() -> None:
    schema = etree.XMLSchema(etree.parse(SCHEMA))
    text = svd(UP5K, "wishbone")
    assert schema.validate(etree.fromstring(text.encode()))
    broken = text.replace("read-only", "readable", 1)
    assert not schema.validate(etree.fromstring(broken.encode()))


@pytest.mark.parametrize("bus", BUSES)
def test_svd_is_parsed_to_what_the_hardware_is(bus: str, tmp_path: Path) -> None:
    path = tmp_path / "insitu.svd"
    path.write_text(svd(UP5K, bus))
    (peripheral,) = SVDParser.for_xml_file(str(path)).get_device().peripherals
    blocks = [(block.offset, block.size) for block in peripheral.address_blocks]
    assert blocks[1:] == [
        (COEFFICIENTS, UP5K.coefficient_bytes),
        (ACTIVATIONS, UP5K.activation_bytes),
    ]
    found = {register.name: register for register in peripheral.registers}
    assert list(found) == list(registers(bus))
    for name, register in registers(bus).items():
        assert found[name].address_offset == register.offset
        assert found[name].address_offset < blocks[0][1]
        assert found[name].description == register.text
        access = {"ro": "READ_ONLY", "wo": "WRITE_ONLY", "rw": "READ_WRITE"}[register.access]
        assert found[name].access.name == access
        fields = {field.name: (field.bit_offset, field.bit_width) for field in found[name].fields}
        expected = {key.upper(): (bit.number, 1) for key, bit in BITS.get(name, {}).items()}
        expected |= {
            key.upper(): (field.low, field.bits) for key, field in FIELDS.get(name, {}).items()
        }
        assert fields == expected
    assert found["DIGEST"].reset_value == UP5K.digest
    assert found["STATUS"].reset_value == 4


def test_registers_do_not_overlap() -> None:
    offsets = [register.offset for register in (REGISTERS | STREAM_REGISTERS).values()]
    assert len(set(offsets)) == len(offsets)
    for parts in (*BITS.values(), *FIELDS.values()):
        taken = [
            (part.low, part.low + part.bits)
            if isinstance(part, Field)
            else (part.number, part.number + 1)
            for part in parts.values()
        ]
        assert all(a[1] <= b[0] for a, b in pairwise(taken))
