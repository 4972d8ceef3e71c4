"""Geometry of the accelerator: one validated, frozen object.

The same `Configuration` parametrises the RTL, the compiler, the packer, the simulator and the
command line, so that an image and the hardware it runs on cannot disagree unnoticed:
`Configuration.digest` is a register of the device and a field of the image.
"""

import zlib
from dataclasses import asdict, dataclass

from . import record

__all__ = ["CONFIGURATIONS", "Configuration", "configuration"]

FAMILIES = ("sim", "ice40", "ecp5")

LARGEST_MEMORY = 1 << 20
"""Bytes of each memory at most: its address space on the bus."""


def _integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(name, value):
    if not _integer(value) or value <= 0:
        raise ValueError(f"{name} must be a positive integer, not {value!r}")


def _within(name, value, low, high):
    if not _integer(value) or not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {value!r}")


def _kilobytes(name, value):
    _positive(name, value)
    if value % 1024 or value > LARGEST_MEMORY:
        raise ValueError(
            f"{name} must be a multiple of 1024 and at most {LARGEST_MEMORY}, not {value!r}"
        )


def _power_of_two(name, value):
    _positive(name, value)
    if value & (value - 1):
        raise ValueError(f"{name} must be a power of two, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Geometry of one accelerator.

    Parameters
    ----------
    name : str
        Name, as used on the command line.
    family : "sim", "ice40" or "ecp5"
        Device family. A board's tools follow from it, and it is the `technology` that boards and
        `insitu verilog --primitives` give the `Accelerator`, which does not take it from here by
        itself. Arithmetic and cycle counts do not depend on it.
    lanes : int
        Output channels computed in parallel (R): a power of two in 4..128, at most 32 * `width`.
    width : int
        Input channels each lane multiplies per cycle (C): 1, 2, 4 or 8.
    activation_bytes : int
        Size of the activation memory in bytes, a multiple of 1024, at most 1 MB.
    activation_word : int
        Bytes of one activation memory word, a power of two of at least 4, a multiple of `width` and
        a divisor of `lanes`.
    activation_ports : 1 or 2
        1: reads and writes share one port, writes first, as on iCE40. 2: they do not, as where
        memory is slow.
    coefficient_bytes : int
        Size of the coefficient memory in bytes, a multiple of 1024, at most 1 MB; two words of
        it at least.
    coefficient_port : int
        Bits of one coefficient memory word, a power of two of at least 32; `lanes * width` divides
        it. Each of the R*C decoder stripes receives `coefficient_port / (lanes * width)` bits of
        every word, at most 64.
    tile_bytes : int
        Size of the weight tile in bytes: a cross-level layer needs `lanes * Ci' * T` of it, with
        Ci' the input channels rounded up to `width`; a product with one pixel up to 9 words of
        `lanes * width` bytes.
    generator_terms : int
        Largest Bi of the intra level (1..8).
    generator_u_bits, generator_b_bits : int
        Largest precision of U and B of the intra level (2..8).
    basis_depth : int
        Words of the basis buffer, a power of two; a layer needs `T * ceil(Bo / lanes)` (cross
        level) or `2 * T` (intra level alone).
    basis_blocks : int
        Largest `ceil(Bo / lanes)` of the cross level, a power of two.
    requantiser_outputs : int
        Outputs requantised per cycle (P), a divisor of `activation_word`.
    slow_memory : bool
        Block memories take most of a cycle to give a word, and lie far apart: the switch of the
        deep pipeline, which has two `activation_ports`. Results are the same, latencies those in
        brackets in docs/architecture.md. It adds

        - registers at memories: in front of those of activations and coefficients, one for reads
          and two for writes, and one behind (`Storage`, `ActivationBuffer`, `CoefficientMemory`);
          behind the basis buffer; in front of the writes of tile, U, and the requantiser's
          parameters and table; on the host's way;
        - registers in arithmetic: between the additions of `WideMultiplier`, before the
          requantiser's parameters are read, in the middle of its shift, before its limits and its
          table, between the additions of W1, in the choice of a 32-bit word from a wide one;
        - registers on ways: two from the decoder's decision to its values, two from activations to
          the array, one until basis buffer and generator hear of a vector;
        - longer queues: 8 words of coefficients (else 2), granted by the room there is, 2 requests
          of 32-bit words (1), 8 steps (4), 16 blocks of W1 (1);
        - copies of registers that reach a whole datapath (`rtl.delay.copies`): of the memories'
          addresses and writes, the decoder's control, the choice of the weights' source, the step
          of the accumulators;
        - registers for what decides much, worked out a cycle before: the ends of segments, loops
          and blocks of W1, the room for steps, the begin of a walk, which word of a record
          arrives, what is in front of the queues of words and steps;

        and it chooses between the weights of decoder and tile by a multiplexer. Without it that is
        an OR, and both are silent where they are not the source (`rtl.issue.sources_are_silent`).
    accumulator_bits : int
        Width of the accumulators (16..32); the compiler proves that no layer overflows it.
    clock_hz : int
        Clock the configuration is meant to close, for figures of frames per second.

    Raises
    ------
    ValueError
        For a parameter outside its range; the message quotes it.
    TypeError
        For a `slow_memory` that is no bool.
    """

    name: str
    family: str
    lanes: int
    width: int
    activation_bytes: int
    activation_word: int
    activation_ports: int
    coefficient_bytes: int
    coefficient_port: int
    tile_bytes: int
    generator_terms: int
    generator_u_bits: int
    generator_b_bits: int
    basis_depth: int
    basis_blocks: int
    requantiser_outputs: int
    accumulator_bits: int
    slow_memory: bool
    clock_hz: int

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {self.family!r}")
        if not _integer(self.lanes) or self.lanes not in (4, 8, 16, 32, 64, 128):
            raise ValueError(f"lanes must be a power of two in 4..128, not {self.lanes!r}")
        for name in (
            "width",
            "activation_word",
            "coefficient_port",
            "basis_depth",
            "basis_blocks",
        ):
            _power_of_two(name, getattr(self, name))
        if self.width > 8:
            raise ValueError(f"width must be at most 8, not {self.width}")
        most = self.width << record.FIELDS["last_block_steps"].width
        if self.lanes > most:
            raise ValueError(
                f"lanes must be at most {most} where width is {self.width}, not {self.lanes}"
            )
        for name in ("activation_bytes", "coefficient_bytes"):
            _kilobytes(name, getattr(self, name))
        for name in ("tile_bytes", "requantiser_outputs", "clock_hz"):
            _positive(name, getattr(self, name))
        if self.activation_word % self.width or self.activation_word < 4:
            raise ValueError(
                f"activation_word must be at least 4 and a multiple of width {self.width}, "
                f"not {self.activation_word!r}"
            )
        if self.lanes % self.activation_word:
            raise ValueError(
                f"activation_word must divide lanes {self.lanes}, not {self.activation_word!r}"
            )
        if not _integer(self.activation_ports) or self.activation_ports not in (1, 2):
            raise ValueError(f"activation_ports must be 1 or 2, not {self.activation_ports!r}")
        if self.coefficient_port < 32 or self.coefficient_port % (self.lanes * self.width):
            raise ValueError(
                f"coefficient_port must be at least 32 and a multiple of lanes * width "
                f"{self.lanes * self.width}, not {self.coefficient_port!r}"
            )
        if self.stripe_bits > 64:
            raise ValueError(
                f"coefficient_port must be at most 64 * lanes * width {64 * self.stripes}, "
                f"not {self.coefficient_port!r}"
            )
        word = self.coefficient_port // 8
        if self.coefficient_bytes % word or self.coefficient_bytes < 2 * word:
            raise ValueError(
                f"coefficient_bytes must be two words or more of coefficient_port / 8 {word}, "
                f"not {self.coefficient_bytes!r}"
            )
        if self.tile_bytes % (self.lanes * self.width):
            raise ValueError(
                f"tile_bytes must be a multiple of lanes * width {self.lanes * self.width}, "
                f"not {self.tile_bytes!r}"
            )
        for name, low in (("terms", 1), ("u_bits", 2), ("b_bits", 2)):
            _within(f"generator_{name}", getattr(self, f"generator_{name}"), low, 8)
        if self.basis_depth < 2 * self.basis_blocks:
            raise ValueError(
                f"basis_depth must be at least twice basis_blocks {self.basis_blocks}, "
                f"not {self.basis_depth!r}"
            )
        if self.activation_word % self.requantiser_outputs:
            raise ValueError(
                f"requantiser_outputs must divide activation_word {self.activation_word}, "
                f"not {self.requantiser_outputs!r}"
            )
        if not isinstance(self.slow_memory, bool):
            raise TypeError(f"slow_memory must be a bool, not {self.slow_memory!r}")
        if self.slow_memory and self.activation_ports == 1:
            raise ValueError("activation_ports must be 2 where memory is slow, not 1")
        if self.family == "ice40" and self.activation_ports == 2:
            raise ValueError(
                "activation_ports must be 1 on ice40, whose memory has one port and is not slow, "
                "not 2"
            )
        _within("accumulator_bits", self.accumulator_bits, 16, 32)

    @property
    def stripes(self):
        """Decoder stripes, one for each multiplier: R*C."""
        return self.lanes * self.width

    @property
    def stripe_bits(self):
        """Bits of a coefficient memory word that belong to one stripe."""
        return self.coefficient_port // self.stripes

    @property
    def activation_words(self):
        """Words of the activation memory."""
        return self.activation_bytes // self.activation_word

    @property
    def coefficient_words(self):
        """Words of the coefficient memory."""
        return self.coefficient_bytes * 8 // self.coefficient_port

    @property
    def tile_depth(self):
        """Words of the weight tile; a word holds R*C weights."""
        return self.tile_bytes // self.stripes

    @property
    def parameters_packed(self):
        """Whether a channel's shift lies above its bias, in one word.

        A bias is never wider than an accumulator.
        """
        return self.accumulator_bits <= record.PACKED_BIAS_BITS

    @property
    def parameter_words(self):
        """32-bit words of an output channel's parameters."""
        return 2 if self.parameters_packed else 3

    @property
    def generator_sum_bits(self):
        """Bits, with sign, of the largest sum of `generator_terms` products U*B."""
        largest = (
            self.generator_terms
            * (2 ** (self.generator_u_bits - 1) - 1)
            * (2 ** (self.generator_b_bits - 1) - 1)
        )
        return largest.bit_length() + 1

    @property
    def generator_max_shift(self):
        """Largest s1: shifts beyond it would only throw away bits of every weight."""
        return max(0, self.generator_sum_bits - 8)

    @property
    def digest(self):
        """CRC-32 of what an image depends on; hardware and image must agree in it.

        That is the geometry, and the layout of records.
        """
        fields = asdict(self)
        for name in ("name", "family", "clock_hz"):
            del fields[name]
        layout = (
            sorted(record.FIELDS.items()),
            record.SUM_SHIFT,
            record.TABLE_WORDS,
            self.parameter_words,
        )
        return zlib.crc32(repr((sorted(fields.items()), layout)).encode())


CONFIGURATIONS = {
    config.name: config
    for config in (
        Configuration(
            name="sim-8x1",
            family="sim",
            lanes=8,
            width=1,
            activation_bytes=1 << 20,
            activation_word=8,
            activation_ports=2,
            coefficient_bytes=1 << 20,
            coefficient_port=64,
            tile_bytes=1 << 16,
            generator_terms=4,
            generator_u_bits=8,
            generator_b_bits=8,
            basis_depth=1024,
            basis_blocks=32,
            requantiser_outputs=1,
            accumulator_bits=32,
            slow_memory=False,
            clock_hz=100_000_000,
        ),
        Configuration(
            name="sim-16x4",
            family="sim",
            lanes=16,
            width=4,
            activation_bytes=1 << 20,
            activation_word=16,
            activation_ports=2,
            coefficient_bytes=1 << 20,
            coefficient_port=512,
            tile_bytes=1 << 16,
            generator_terms=2,
            generator_u_bits=4,
            generator_b_bits=4,
            basis_depth=256,
            basis_blocks=16,
            requantiser_outputs=2,
            accumulator_bits=32,
            slow_memory=True,
            clock_hz=100_000_000,
        ),
        Configuration(
            name="up5k",
            family="ice40",
            lanes=8,
            width=1,
            activation_bytes=1 << 16,
            activation_word=4,
            activation_ports=1,
            coefficient_bytes=1 << 16,
            coefficient_port=32,
            tile_bytes=6144,
            generator_terms=2,
            generator_u_bits=4,
            generator_b_bits=4,
            basis_depth=256,
            basis_blocks=16,
            requantiser_outputs=1,
            accumulator_bits=24,
            slow_memory=False,
            clock_hz=33_000_000,
        ),
        Configuration(
            name="ecp5-45f",
            family="ecp5",
            lanes=16,
            width=4,
            activation_bytes=1 << 16,
            activation_word=16,
            activation_ports=2,
            coefficient_bytes=1 << 16,
            coefficient_port=256,
            tile_bytes=32768,
            generator_terms=2,
            generator_u_bits=4,
            generator_b_bits=4,
            basis_depth=256,
            basis_blocks=16,
            requantiser_outputs=2,
            accumulator_bits=32,
            slow_memory=True,
            clock_hz=100_000_000,
        ),
        Configuration(
            name="ecp5-25f",
            family="ecp5",
            lanes=8,
            width=2,
            activation_bytes=32 << 10,
            activation_word=8,
            activation_ports=2,
            coefficient_bytes=64 << 10,
            coefficient_port=128,
            tile_bytes=4096,
            generator_terms=2,
            generator_u_bits=4,
            generator_b_bits=4,
            basis_depth=256,
            basis_blocks=16,
            requantiser_outputs=2,
            accumulator_bits=32,
            slow_memory=True,
            clock_hz=100_000_000,
        ),
        Configuration(
            name="ecp5-85f",
            family="ecp5",
            lanes=32,
            width=4,
            activation_bytes=72 << 10,
            activation_word=16,
            activation_ports=2,
            coefficient_bytes=320 << 10,
            coefficient_port=1024,
            tile_bytes=2048,
            generator_terms=2,
            generator_u_bits=4,
            generator_b_bits=4,
            basis_depth=128,
            basis_blocks=8,
            requantiser_outputs=4,
            accumulator_bits=32,
            slow_memory=True,
            clock_hz=100_000_000,
        ),
    )
}


def configuration(name):
    """The named configuration.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists those that exist.
    """
    try:
        return CONFIGURATIONS[name]
    except KeyError:
        raise ValueError(
            f"no configuration named {name!r}; there are {', '.join(CONFIGURATIONS)}"
        ) from None
