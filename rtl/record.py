"""Binary layout of what the sequencer reads: the program's steps and the layer records.

Both live in the coefficient memory, seen as little-endian 32-bit words. The program starts at
word 0: a list of steps, each one word, up to `OP_END`. A step runs the layer whose record begins
at the 32-bit word address it names. A layer record is `RECORD_WORDS` words; the place of each
field is in `FIELDS`. Units: an activation *beat* is `width` bytes, a coefficient *word* is
`coefficient_port` bits, an activation *word* is `activation_word` bytes.
"""

from typing import NamedTuple

__all__ = [
    "ADDRESS_STEPS",
    "CROSS",
    "FIELDS",
    "FIRST_WALK_WORD",
    "INTRA",
    "OP_END",
    "OP_LAYER",
    "PACKED_BIAS_BITS",
    "RECORD_WORDS",
    "ROUND_EVEN",
    "ROUND_TWICE",
    "ROUND_UP",
    "STORED",
    "SUM_SHIFT",
    "TABLE_WORDS",
    "TILE",
    "WALK_WORDS",
    "Field",
    "field_bits",
    "pack_record",
    "pack_step",
]

OP_END = 0
OP_LAYER = 1

STORED = 0
INTRA = 1
CROSS = 2
TILE = 3

ROUND_UP = 0
ROUND_TWICE = 1
ROUND_EVEN = 2

RECORD_WORDS = 19
FIRST_WALK_WORD = 1
WALK_WORDS = ("start", "kx", "ky", "channel", "x", "y", "group")
"""Words of a record, from `FIRST_WALK_WORD` on, that the address generator keeps as they are: what
it begins with, and the steps of its loops, innermost first."""

SUM_SHIFT = 7
"""Bits by which sums move up where a record says `shifted_sums`."""

PACKED_BIAS_BITS = 27
"""Bits of a bias that shares its word with a shift of 5 bits."""

TABLE_WORDS = 64
"""32-bit words of a table: 256 bytes, in order of what they stand for as an unsigned byte."""


class Field(NamedTuple):
    """Place of a field in a record: `width` bits from bit `lsb` of 32-bit word `word`."""

    word: int
    lsb: int
    width: int
    signed: bool = False


FIELDS = {
    # How weights come about.
    # STORED, INTRA (intra level alone), CROSS (a tile is generated), TILE (it is there already)
    "dataflow": Field(0, 0, 2),
    "to_tile": Field(0, 2, 1),  # STORED, one lane group: results are weights, for a TILE record
    "flat": Field(0, 3, 1),  # CROSS: 1 where U is W1 itself, tap by tap (no intra level)
    "basis_precision": Field(0, 4, 3),  # qb - 1
    "stream_precision": Field(0, 7, 3),  # precision - 1 of W (STORED) or U (INTRA, CROSS)
    "cross_precision": Field(0, 10, 3),  # qv - 1
    "intra_shift": Field(0, 13, 4),  # s1
    "terms": Field(0, 17, 3),  # Bi - 1
    # Lane r reads byte r of the activation word, modulo its size, in place of channel 0; a lane
    # group has channels of its own, and R of them may take several words, which are then walked.
    "depthwise": Field(0, 20, 1),
    "shifted_sums": Field(0, 21, 1),  # each channel group but the first begins with sums * 2**7
    "rectified_sums": Field(0, 22, 1),  # before a kernel row's last tap negative sums become 0
    "table": Field(0, 23, 1),  # results are looked up; the table is in front of the parameters
    "groups": Field(0, 24, 8),  # ceil(Co / lanes) - 1
    "powers": Field(15, 30, 1),  # U, of 3 bits, is codes of powers of two (docs/image-format.md)
    "rounding": Field(15, 28, 2),  # requantiser: ROUND_UP, ROUND_TWICE or ROUND_EVEN
    "uniform": Field(16, 31, 1),  # the channels have one multiplier and one shift (see below)
    # Input. After each tap the address generator adds one of six steps to the beat address, modulo
    # 2**20, and to the tap's row and column, from which it knows whether a tap lies in the padding:
    # the step of the innermost loop that goes on. Steps include the way back from where the loops
    # inside ended. A row of pixels begins again at a column, a lane group at a row and a column.
    # Words 1 to 7 are the start and these six.
    "input_start": Field(1, 0, 20),  # beat of pixel (-pad_top, -pad_left), modulo 2**20
    "row_start": Field(1, 20, 6, True),  # -pad_top
    "column_start": Field(1, 26, 6, True),  # -pad_left
    "input_kx_step": Field(2, 0, 20),  # dx*pixel, where pixel = pitch of a pixel, row = of a row
    "row_kx_step": Field(2, 20, 6, True),  # 0
    "column_kx_step": Field(2, 26, 6, True),  # dx
    "input_ky_step": Field(3, 0, 20),  # dy*row - (kw-1)*dx*pixel
    "row_ky_step": Field(3, 20, 6, True),  # dy
    "column_ky_step": Field(3, 26, 6, True),  # -(kw-1)*dx
    "input_channel_step": Field(4, 0, 20),  # 1 - (kh-1)*dy*row - (kw-1)*dx*pixel
    "row_channel_step": Field(4, 20, 6, True),  # -(kh-1)*dy
    "column_channel_step": Field(4, 26, 6, True),  # -(kw-1)*dx
    "input_x_step": Field(5, 0, 20),  # sx*pixel - (cg-1) - (kh-1)*dy*row - (kw-1)*dx*pixel
    "row_x_step": Field(5, 20, 6, True),  # -(kh-1)*dy
    "column_x_step": Field(5, 26, 6, True),  # sx - (kw-1)*dx
    "input_y_step": Field(6, 0, 20),  # sy*row - (ow-1)*sx*pixel - (cg-1) - (kh-1)*dy*row - ...
    "row_y_step": Field(6, 20, 6, True),  # sy - (kh-1)*dy
    "column_y_start": Field(6, 26, 6, True),  # -pad_left
    "input_group_step": Field(7, 0, 20),  # back to the start; depthwise: and on by R channels
    "row_group_start": Field(7, 20, 6, True),  # -pad_top
    "column_group_start": Field(7, 26, 6, True),  # -pad_left
    "kernel_height": Field(18, 20, 6),  # - 1
    "kernel_width": Field(18, 26, 6),  # - 1
    "channel_groups": Field(17, 0, 12),  # ceil(Ci / width) - 1
    "output_width": Field(17, 12, 10),  # - 1
    "output_height": Field(17, 22, 10),  # - 1
    "input_width": Field(18, 0, 10),
    "input_height": Field(18, 10, 10),
    "input_zero_point": Field(8, 20, 8, True),
    # Output: addresses in activation words.
    "output_base": Field(9, 0, 20),
    "output_pitch": Field(10, 0, 12),  # words from pixel to pixel
    "last_group_words": Field(10, 12, 6),  # words the last lane group writes, less 1
    "output_zero_point": Field(10, 18, 8, True),
    "activation_min": Field(11, 0, 8, True),
    "activation_max": Field(11, 8, 8, True),
    # Segments: vectors and words of each (docs/image-format.md); addresses in coefficient words.
    "coefficient_base": Field(8, 0, 20),  # of the basis segment, or of W where there is none
    "basis_vectors": Field(11, 16, 12),
    "basis_words": Field(14, 20, 12),
    "stream_words": Field(12, 0, 16),
    "stream_vectors": Field(12, 16, 16),
    "cross_words": Field(13, 0, 16),
    "cross_vectors": Field(13, 16, 16),
    "cross_base": Field(16, 0, 20),  # of V
    "stream_repeats": Field(15, 0, 20),  # - 1: output pixels, or segments of the cross stream
    # Taps as generator and tile count them: kernel_height * kernel_width - 1 (INTRA, CROSS); output
    # pixels - 1 where results go to the tile (`to_tile`); else 0
    "taps": Field(15, 20, 8),
    "blocks": Field(16, 20, 6),  # ceil(Bo / lanes) - 1 (CROSS), 0 (INTRA)
    "last_block_steps": Field(16, 26, 5),  # ceil((Bo - blocks * lanes) / width) - 1 (CROSS)
    # Requantiser: 32-bit word address of the parameters. A CROSS layer has one channel more, in
    # front: bias 0, multiplier 2**30, shift s2 - 1, which make the requantiser round the tile. So
    # has a uniform layer, with the multiplier and the shift of all: its channels have biases only.
    "parameter_base": Field(14, 0, 20),
}


ADDRESS_STEPS = tuple(
    name for name, field in FIELDS.items() if name.startswith("input_") and field.width == 20
)
"""Fields that count modulo the power of two that the activation memory's beats fit: higher bits are
ignored."""


def _bits(largest):
    return max(1, largest.bit_length())


def field_bits(config):
    """Bits of each field that the hardware of a configuration keeps.

    Fields of `ADDRESS_STEPS` are taken modulo that; any other must fit, which the compiler checks.

    Parameters
    ----------
    config : Configuration

    Returns
    -------
    dict of str to int
    """
    words = config.coefficient_words
    basis = config.basis_depth * -(-config.generator_terms // config.width)
    cross = -(-config.basis_blocks * config.lanes // config.width)
    limits = {name: _bits(config.activation_bytes // config.width - 1) for name in ADDRESS_STEPS}
    limits |= {
        "coefficient_base": _bits(words - 1),
        "cross_base": _bits(words - 1),
        "parameter_base": _bits(config.coefficient_bytes // 4 - 1),
        "output_base": _bits(config.activation_words - 1),
        "output_pitch": _bits(config.activation_words - 1),
        "basis_vectors": _bits(basis),
        "basis_words": _bits(-(-basis * 8 // config.stripe_bits)),
        "stream_words": _bits(words),
        "cross_vectors": _bits(cross),
        "cross_words": _bits(-(-cross * 8 // config.stripe_bits)),
        # Of pixels, or of channels and taps of a tile.
        "stream_repeats": _bits(
            max(config.activation_words, config.tile_bytes // config.lanes) - 1
        ),
        "blocks": _bits(config.basis_blocks - 1),
        "last_block_steps": _bits(config.lanes // config.width - 1),
        "last_group_words": _bits(config.lanes // config.activation_word - 1),
        "intra_shift": _bits(config.generator_max_shift),
        "terms": _bits(config.generator_terms - 1),
    }
    return {name: min(field.width, limits.get(name, 32)) for name, field in FIELDS.items()}


def pack_record(**values):
    """Pack a layer record.

    Parameters
    ----------
    **values : int
        Value of each field of `FIELDS`; fields left out are 0.

    Returns
    -------
    list of int
        `RECORD_WORDS` unsigned 32-bit words.

    Raises
    ------
    ValueError
        For an unknown field, or a value that the field cannot hold.
    """
    words = [0] * RECORD_WORDS
    for name, value in values.items():
        if name not in FIELDS:
            raise ValueError(f"a layer record has no field {name!r}")
        field = FIELDS[name]
        low = -(1 << (field.width - 1)) if field.signed else 0
        high = low + (1 << field.width) - 1
        if not low <= value <= high:
            raise ValueError(f"{name} must be in {low}..{high}, not {value!r}")
        words[field.word] |= (int(value) & ((1 << field.width) - 1)) << field.lsb
    return words


def pack_step(op, record=0):
    """Pack a step: `op` (`OP_END` or `OP_LAYER`) and the 32-bit word address of its record."""
    if op not in (OP_END, OP_LAYER):
        raise ValueError(f"op must be {OP_END} or {OP_LAYER}, not {op!r}")
    if not 0 <= record < 1 << 20:
        raise ValueError(f"record must be in 0..{(1 << 20) - 1}, not {record!r}")
    return op << 28 | record
