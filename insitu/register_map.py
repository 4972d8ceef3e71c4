"""The register map for other people's tools: a C header, an SVD, and lines of a comment.

All of it comes from `rtl.registers`, as does the hardware.
"""

from collections.abc import Iterator
from textwrap import wrap
from xml.etree import ElementTree

from insitu import __version__
from rtl.config import Configuration
from rtl.registers import (
    ACTIVATIONS,
    BITS,
    COEFFICIENTS,
    FIELDS,
    IDENTITY,
    REGISTERS,
    STATUS_BITS,
    STREAM_REGISTERS,
    UNLOCK,
    Field,
    Register,
    geometry,
    version,
)

__all__ = ["c_header", "comment", "registers", "svd"]

_WIDTH = 96


def registers(bus: str) -> dict[str, Register]:
    """The registers by name: those of streams only where inputs and outputs are streams."""
    return REGISTERS | STREAM_REGISTERS if bus == "stream" else REGISTERS


def comment(config: Configuration, bus: str) -> list[str]:
    """Memory map and registers as lines of text."""
    lines = [
        f"  {base:06x}-{base + size - 1:06x}  {name} memory"
        for name, base, size in _memories(config)
    ]
    for name, register in registers(bus).items():
        text = f"  {register.offset:06x}  {name} ({register.access}): {register.text}"
        lines += wrap(text, _WIDTH, subsequent_indent="    ")
        for bit, field in _fields(name):
            text = f"    {_span(field)} {bit}: {field.text}"
            lines += wrap(text, _WIDTH, subsequent_indent="      ")
    return lines


def c_header(config: Configuration, bus: str) -> str:
    """Offsets, bits and fields of the registers, and what is fixed in hardware, as C macros.

    Parameters
    ----------
    config : Configuration
    bus : str
        A key of `insitu.verilog.BUSES`.
    """
    lines = [
        f"/* insitu {__version__}, configuration {config.name}: registers and memories.",
        " *",
        " * Byte offsets from where the core is on the bus. Whole 32-bit words only.",
        f" * Made by insitu verilog --config {config.name} --bus {bus} --header; docs/host.md says",
        " * how to use it. */",
        "#ifndef INSITU_REGISTERS_H",
        "#define INSITU_REGISTERS_H",
    ]
    for name, register in registers(bus).items():
        lines += ["", *_c_comment(f"{register.access}: {register.text}")]
        lines.append(f"#define INSITU_{name} 0x{register.offset:02x}u")
        for key, field in _fields(name):
            lines += _c_comment(field.text)
            macro = f"INSITU_{name}_{key.upper()}"
            if field.bits == 1:
                lines.append(f"#define {macro} (1u << {field.low})")
            else:
                lines.append(f"#define {macro}_SHIFT {field.low}")
                lines.append(f"#define {macro}_MASK 0x{(1 << field.bits) - 1:x}u")
    lines.append("")
    for name, base, size in _memories(config):
        lines.append(f"#define INSITU_{name.upper()}_MEMORY 0x{base:x}u")
        lines.append(f"#define INSITU_{name.upper()}_BYTES 0x{size:x}u")
    lines += ["", "/* The key for LOCK, and what registers read as. */"]
    lines.append(f"#define INSITU_UNLOCK 0x{UNLOCK:08x}u")
    lines += [
        f"#define INSITU_{name}_VALUE 0x{value:08x}u"
        for name, value in _constants(config).items()
        if name != "STATUS"
    ]
    return "\n".join([*lines, "", "#endif", ""])


def svd(config: Configuration, bus: str) -> str:
    """The registers as CMSIS-SVD, version 1.3; the peripheral is at address 0.

    Parameters
    ----------
    config : Configuration
    bus : str
        A key of `insitu.verilog.BUSES`.
    """
    device = ElementTree.Element("device", {"schemaVersion": "1.3"})
    _children(
        device,
        name="insitu",
        version=__version__,
        description=f"insitu, configuration {config.name}",
        addressUnitBits=8,
        width=32,
        size=32,
    )
    peripheral = ElementTree.SubElement(ElementTree.SubElement(device, "peripherals"), "peripheral")
    _children(
        peripheral,
        name="INSITU",
        description="Neural network accelerator that recovers its weights on chip",
        baseAddress="0x0",
    )
    mapped = registers(bus)
    blocks = [(0, max(register.offset for register in mapped.values()) + 4, "registers")]
    blocks += [(base, size, "buffer") for _, base, size in _memories(config)]
    for offset, size, usage in blocks:
        block = ElementTree.SubElement(peripheral, "addressBlock")
        _children(block, offset=f"0x{offset:x}", size=f"0x{size:x}", usage=usage)
    listed = ElementTree.SubElement(peripheral, "registers")
    constants = _constants(config)
    access = {"ro": "read-only", "wo": "write-only", "rw": "read-write"}
    for name, register in mapped.items():
        element = ElementTree.SubElement(listed, "register")
        _children(
            element,
            name=name,
            description=register.text,
            addressOffset=f"0x{register.offset:x}",
            access=access[register.access],
        )
        if name in constants:
            _children(element, resetValue=f"0x{constants[name]:08x}")
        fields = list(_fields(name))
        if fields:
            parent = ElementTree.SubElement(element, "fields")
            for key, field in fields:
                _children(
                    ElementTree.SubElement(parent, "field"),
                    name=key.upper(),
                    description=field.text,
                    bitOffset=field.low,
                    bitWidth=field.bits,
                )
    ElementTree.indent(device)
    return ElementTree.tostring(device, encoding="unicode", xml_declaration=True) + "\n"


def _memories(config: Configuration) -> list[tuple[str, int, int]]:
    """Name, byte address and bytes of each memory."""
    return [
        ("coefficient", COEFFICIENTS, config.coefficient_bytes),
        ("activation", ACTIVATIONS, config.activation_bytes),
    ]


def _fields(register: str) -> Iterator[tuple[str, Field]]:
    """What a register is made of, if it is, by name."""
    for name, bit in BITS.get(register, {}).items():
        yield name, Field(bit.number, 1, bit.text)
    yield from FIELDS.get(register, {}).items()


def _constants(config: Configuration) -> dict[str, int]:
    """Registers whose value is known after reset."""
    return {
        "IDENTITY": IDENTITY,
        "VERSION": version(),
        "GEOMETRY": geometry(config),
        "DIGEST": config.digest,
        "STATUS": 1 << STATUS_BITS["locked"].number,
    }


def _span(field: Field) -> str:
    last = field.low + field.bits - 1
    return f"bit {field.low}," if last == field.low else f"bits {last}-{field.low},"


def _c_comment(text: str) -> list[str]:
    lines = wrap(text, _WIDTH - 6)
    return [
        f"{'   ' if n else '/* '}{line}{' */' if n == len(lines) - 1 else ''}"
        for n, line in enumerate(lines)
    ]


def _children(parent: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)
