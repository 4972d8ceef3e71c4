"""The accelerator beside a RISC-V processor in a LiteX SoC, simulated with a program in C.

`python examples/litex/soc.py` builds both, runs two images of the example network, and prints the
classes that the program found and those of the golden model. It needs `.[dev]`, and of the machine
a compiler: `apt-get install gcc-riscv64-unknown-elf`.
"""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from litex.build.generic_platform import Pins, Subsignal
from litex.build.io import CRG
from litex.build.sim import SimPlatform
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCCore
from litex.soc.interconnect import wishbone
from migen import ClockSignal, Instance, ResetSignal

from golden.network import run as golden
from insitu.network import load
from insitu.pack import pack
from insitu.plan import plan
from insitu.register_map import c_header
from insitu.verilog import verilog
from rtl.config import configuration
from sim import Bench, Build, build_verilog, testbench
from sim import run as simulate

__all__ = ["main", "program", "simulator", "soc"]

HERE = Path(__file__).resolve().parent
CONFIG = configuration("up5k")
BASE = 0x9000_0000
ROM_BYTES = 0x2_0000
SAMPLES = 2
COMPILER = "riscv64-unknown-elf-gcc"

_STREAM = [("valid", 1), ("ready", 1), ("data", 8)]
_PINS = [
    ("clk", 0, Pins(1)),
    ("rst", 0, Pins(1)),
    (
        "serial",
        0,
        *(Subsignal(f"{way}_{name}", Pins(n)) for way in ("source", "sink") for name, n in _STREAM),
    ),
]


class _Soc(SoCCore):
    """VexRiscv, ROM, RAM, a UART of whole bytes, and the accelerator on the Wishbone bus."""

    def __init__(self, platform: SimPlatform) -> None:
        self.crg = CRG(platform.request("clk"), rst=platform.request("rst"))
        super().__init__(
            platform,
            clk_freq=24_000_000,
            cpu_type="vexriscv",
            cpu_variant="lite",
            integrated_rom_size=ROM_BYTES,
            integrated_rom_init=[0],  # Read from a file when the simulation begins.
            integrated_sram_size=0x2000,
            uart_name="sim",
            with_timer=False,
            with_ctrl=False,
        )
        bus = wishbone.Interface(data_width=32, adr_width=30, addressing="word")
        self.specials += Instance(
            "insitu_accelerator",
            i_clk=ClockSignal("sys"),
            i_rst=ResetSignal("sys"),
            i_bus__adr=bus.adr[:20],
            o_bus__dat_r=bus.dat_r,
            o_bus__ack=bus.ack,
            o_bus__err=bus.err,
            **{
                f"i_bus__{name}": getattr(bus, name)
                for name in ("dat_w", "sel", "cyc", "stb", "we")
            },
        )
        self.bus.add_slave("insitu", bus, SoCRegion(origin=BASE, size=0x40_0000, cached=False))


def soc() -> tuple[str, list[Path], int]:
    """Verilog of the SoC, the files that it needs, and the address of its UART."""
    platform = SimPlatform("SIM", _PINS, name="soc")
    made = _Soc(platform)
    made.finalize()
    text = platform.get_verilog(made, name="soc").main_source
    sources = [Path(source[0]) for source in platform.sources]
    return text, sources, made.csr_regions["uart"].origin


def simulator() -> tuple[Build, int]:
    """The simulator of the SoC, and the address of its UART."""
    text, sources, uart = soc()
    # LiteX writes the date; what is cached must not depend on it.
    text = "\n".join(line for line in text.splitlines() if not line.startswith("//"))
    return build_verilog(text + "\n" + verilog(CONFIG), "soc", extra_sources=sources), uart


def program(folder: Path, uart: int) -> list[int]:
    """Compile the program into `soc_rom.init`; the classes that it must find, by golden."""
    network = load(HERE.parent / "fashion" / "fashion_compressed.npz")
    images = np.load(HERE.parent / "fashion" / "fashion500.npz")["inputs"][:SAMPLES]
    x = (images.transpose(0, 2, 3, 1).astype(np.int16) - 128).astype(np.int8)
    planned = plan(network, CONFIG)
    payload = pack(planned)
    source, target = planned.input, planned.output
    samples = [_words(source.place(one)) for one in x]
    lines = [
        f"#define INSITU_BASE 0x{BASE:x}u",
        f"#define UART_BASE 0x{uart:x}u",
        f"#define SAMPLES {SAMPLES}",
        f"#define CLASSES {target.span}",
        f"#define OUTPUT_WORDS {-(-target.span // 4)}",
        f"static const uint32_t payload[] = {{{_c(_words(payload))}}};",
        f"static const uint32_t samples[][{len(samples[0])}] = {{",
        *(f"    {{{_c(words)}}}," for words in samples),
        "};",
        "static const insitu_image network = {",
        f"    payload, {len(payload) // 4}, 0x{zlib.crc32(payload):x}u,",
        f"    {source.address}, {len(samples[0])}, {target.address}, OUTPUT_WORDS}};",
    ]
    (folder / "network.h").write_text("\n".join([*lines, ""]))
    (folder / "insitu_registers.h").write_text(c_header(CONFIG, "wishbone"))
    command = [
        *(COMPILER, "-march=rv32i", "-mabi=ilp32", "-Os", "-ffreestanding", "-nostdlib"),
        *("-Wall", "-Wextra", "-Werror", "-I.", f"-I{HERE.parent / 'c'}"),
        *("-T", str(HERE / "soc.ld"), "-o", "main.elf"),
        *(str(HERE / name) for name in ("start.S", "main.c")),
        str(HERE.parent / "c" / "insitu.c"),
        "-lgcc",
    ]
    subprocess.run(command, cwd=folder, check=True)
    copy = [COMPILER.replace("gcc", "objcopy"), "-O", "binary", "main.elf", "main.bin"]
    subprocess.run(copy, cwd=folder, check=True)
    words = _words((folder / "main.bin").read_bytes())
    (folder / "soc_rom.init").write_text("".join(f"{word:08x}\n" for word in words))
    (folder / "soc_sram.init").write_text("")
    return [int(one.argmax()) for one in golden(network, x).reshape(SAMPLES, -1)]


@testbench
async def prints(bench: Bench) -> None:
    """Keep what the program prints, up to the message it ends with."""
    bench.dut.serial_source_ready.value = 1
    text = ""
    while text.count("\n") <= SAMPLES:
        if not bench.dut.serial_source_valid.value:
            await bench.dut.serial_source_valid.rising_edge
        await bench.clock.edge
        if bench.dut.serial_source_valid.value:
            text += chr(int(bench.dut.serial_source_data.value))
        if text.endswith("\n") and not text.splitlines()[-1].startswith("class"):
            break  # The message that it ends with, whatever went before.
    bench.record["text"] = text
    bench.record["cycles"] = bench.cycle


def main(folder: Path) -> tuple[list[str], list[int], int]:
    """Lines that the program prints, the classes by golden, and the cycles that it took."""
    built, uart = simulator()
    expected = program(folder, uart)
    sys.path.insert(0, str(HERE))
    done = simulate(built, "soc", "prints", directory=folder, timeout_cycles=20_000_000)
    return done.record["text"].splitlines(), expected, done.record["cycles"]


def _words(data: bytes) -> list[int]:
    padded = data + bytes(-len(data) % 4)
    return [int.from_bytes(padded[at : at + 4], "little") for at in range(0, len(padded), 4)]


def _c(words: Sequence[int]) -> str:
    return ", ".join(f"0x{word:08x}u" for word in words)


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        lines, classes, cycles = main(Path(name))
    print(*lines, sep="\n")
    print(f"golden: {classes}; {cycles:,} cycles")
