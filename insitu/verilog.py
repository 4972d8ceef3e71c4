"""Verilog of the accelerator, or of one of its blocks."""

from collections.abc import Callable
from dataclasses import asdict
from inspect import signature

from amaranth.lib import wiring

from insitu import __version__
from insitu.errors import InsituError
from insitu.register_map import comment
from rtl.accelerator import Accelerator
from rtl.activation_buffer import ActivationBuffer
from rtl.address_generator import AddressGenerator
from rtl.basis_buffer import BasisBuffer
from rtl.coefficient_decoder import CoefficientDecoder
from rtl.coefficient_fetch import CoefficientFetch
from rtl.coefficient_memory import CoefficientMemory
from rtl.config import Configuration
from rtl.cores import AxiLiteAccelerator, StreamAccelerator
from rtl.host_port import HostPort
from rtl.mac_array import MacArray
from rtl.parameter_loader import ParameterLoader
from rtl.requantiser import Requantiser
from rtl.sequencer import Sequencer
from rtl.weight_broadcast import WeightBroadcast
from rtl.weight_generator import WeightGenerator
from rtl.weight_tile import WeightTile
from sim.build import to_verilog

__all__ = ["BLOCKS", "BUSES", "check", "module_name", "verilog"]

BLOCKS: dict[str, Callable[..., wiring.Component]] = {
    "accelerator": Accelerator,
    "activation_buffer": ActivationBuffer,
    "address_generator": AddressGenerator,
    "basis_buffer": BasisBuffer,
    "coefficient_decoder": CoefficientDecoder,
    "coefficient_fetch": CoefficientFetch,
    "coefficient_memory": CoefficientMemory,
    "host_port": HostPort,
    "mac_array": MacArray,
    "parameter_loader": ParameterLoader,
    "requantiser": Requantiser,
    "sequencer": Sequencer,
    "weight_broadcast": WeightBroadcast,
    "weight_generator": WeightGenerator,
    "weight_tile": WeightTile,
}
"""Blocks by the names of their files in `rtl`."""

BUSES: dict[str, Callable[..., wiring.Component]] = {
    "wishbone": Accelerator,
    "axi-lite": AxiLiteAccelerator,
    "stream": StreamAccelerator,
}
"""The accelerator by the bus that it has."""

_PORTS = {
    "wishbone": """\
bus__*: Wishbone B4 classic slave, 32-bit words; adr counts words. Held until ack or err.""",
    "axi-lite": """\
axi__*: AXI4-Lite subordinate, 32-bit data, byte addresses. One access is served at a time, reads
and writes in turn. SLVERR: no such address, part of a word, or a write while locked.""",
    "stream": """\
host__*: Wishbone B4 classic slave, 32-bit words; adr counts words. Held until ack or err.
s_axis__*: AXI4-Stream of inputs, a frame of INPUT_WORDS words each, first byte in bits 7-0.
m_axis__*: AXI4-Stream of outputs, a frame of OUTPUT_WORDS words for each input frame, in order. A
word with tuser ends a frame that has no output, or not all of it; its bits say why, as in
STREAM_STATUS.""",
}

_WAIVED = {
    "CASEINCOMPLETE": "states that do not exist change nothing",
    "DECLFILENAME": "all modules are in this file, whatever it is called",
    "PROCASSINIT": "registers have their reset value at power-up, too",
    "UNSIGNED": "comparisons that a configuration makes trivial",
    "UNUSEDSIGNAL": "every field of a structure has a name, used or not",
    "WIDTHEXPAND": "operands are extended as Verilog's rules say",
    "WIDTHTRUNC": "results are cut as Verilog's rules say",
}
"""Warnings of `verilator --lint-only -Wall` that are off, and what of the text they are about."""


def verilog(
    config: Configuration,
    block: str = "accelerator",
    *,
    bus: str = "wishbone",
    primitives: bool = False,
) -> str:
    """Verilog text of the accelerator or of a block, in one piece; its header says how to use it.

    Parameters
    ----------
    config : Configuration
    block : str, optional
        A key of `BLOCKS`; the module is called `insitu_` and that.
    bus : str, optional
        A key of `BUSES`. For the accelerator alone, whose module is then called
        `insitu_accelerator_axi_lite` or `insitu_accelerator_stream`.
    primitives : bool, optional
        Instantiate memories and multipliers of the configuration's family where they cannot be
        inferred; by default the text holds on any tool.

    Raises
    ------
    InsituError
        If there is no such block or bus, or the block has no bus; the message says what there is.
    """
    check(block, bus)
    make = BUSES[bus] if block == "accelerator" else BLOCKS[block]
    vendor = primitives and "technology" in signature(make).parameters
    component = make(config, config.family) if vendor else make(config)
    return _header(config, block, bus, component) + to_verilog(component, module_name(block, bus))


def check(block: str, bus: str) -> None:
    """Refuse what `verilog` cannot write.

    Raises
    ------
    InsituError
        If there is no such block or bus, or the block has no bus; the message says what there is.
    """
    if block not in BLOCKS:
        raise InsituError(
            f"there is no block named {block!r}", f"choose one of {', '.join(sorted(BLOCKS))}"
        )
    if bus not in BUSES:
        raise InsituError(f"there is no bus {bus!r}", f"choose one of {', '.join(BUSES)}")
    if block != "accelerator" and bus != "wishbone":
        raise InsituError(f"{block} has no bus", "leave out --block or --bus")


def module_name(block: str, bus: str) -> str:
    """Name of the top module."""
    suffix = "" if bus == "wishbone" else f"_{bus.replace('-', '_')}"
    return f"insitu_{block}{suffix}"


def _header(config: Configuration, block: str, bus: str, component: wiring.Component) -> str:
    """What the file is, as a comment, and the waivers that let it pass a linter."""
    about = (type(component).__doc__ or "").strip().partition("\n")[0]
    option = f"--bus {bus}" if block == "accelerator" else f"--block {block}"
    lines = [
        f"{block} of insitu: {about}",
        "",
        f"Generated by insitu {__version__}; do not change it, but run again",
        f"  insitu verilog --config {config.name} {option}",
        "",
        f"Configuration {config.name}, digest {config.digest:08x}:",
        *(f"  {name} = {value}" for name, value in asdict(config).items()),
        "",
        "clk and rst: everything is synchronous to the rising edge of clk, rst too. Memories are",
        "undefined until they are written.",
    ]
    if block == "accelerator":
        lines += [*_PORTS[bus].splitlines(), ""]
        lines += ["Byte addresses; docs/host.md says how to use them:", *comment(config, bus)]
    else:
        lines.append("A stream x has the ports x__payload, x__valid and x__ready.")
    lines += [
        "",
        "Warnings of verilator --lint-only -Wall that are off, and why they do not matter:",
    ]
    text = "\n".join(f"// {line}".rstrip() for line in lines)
    waivers = "\n".join(
        f"/* verilator lint_off {name} */ // {why}" for name, why in _WAIVED.items()
    )
    return f"{text}\n{waivers}\n\n"
