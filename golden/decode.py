"""Coefficient segments: dense coefficients of one precision, striped over the memory's words.

docs/image-format.md, 'Coefficient segments', defines the format. A word holds `stripe_bits` bits
of each stripe; stripe n owns bits [n * stripe_bits, (n + 1) * stripe_bits). In each stripe the
coefficients follow each other densely, least significant bit first, over the words; zeros pad the
last word only. A number of 1 bit is +1 (0) or -1 (1), a wider one is two's complement; what it
stands for says its `golden.code.Code`.
"""

import numpy as np
from numpy.typing import NDArray

from golden.checks import integer
from golden.code import Code, check_precision, has_code
from golden.fixed import in_range

__all__ = ["decode_segment", "encode_segment", "segment_words"]


def segment_words(count: int, precision: int, stripe_bits: int) -> int:
    """Words that a segment of `count` vectors takes: ceil(count * precision / stripe_bits).

    Parameters
    ----------
    count : int
        At least 0.
    precision : int
        Bits of a coefficient, 1..8.
    stripe_bits : int
        Bits of a word that belong to one stripe, 1..64.

    Raises
    ------
    TypeError, ValueError
        For parameters outside these ranges.
    """
    count = integer("count", count, 0, 1 << 32)
    precision = integer("precision", precision, 1, 8)
    stripe_bits = integer("stripe_bits", stripe_bits, 1, 64)
    return -(-count * precision // stripe_bits)


def encode_segment(
    vectors: NDArray[np.int8], precision: int, stripe_bits: int, code: Code = Code.UNIFORM
) -> NDArray[np.uint8]:
    """Pack a segment.

    Parameters
    ----------
    vectors : int8 [n, stripes]
        Coefficients, each in `golden.fixed.symmetric_range(precision)`, or of another `code` one
        that it has; n may be 0.
    precision : int
        Bits of a coefficient, 1..8.
    stripe_bits : int
        1..64; stripes * stripe_bits, the bits of a word, is a multiple of 8.
    code : Code, optional

    Returns
    -------
    uint8 [segment_words(n, precision, stripe_bits), stripes * stripe_bits / 8]
        Words, little endian.

    Raises
    ------
    TypeError, ValueError
        For types, shapes, parameters or coefficients outside these.
    """
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.int8:
        kind = vectors.dtype if isinstance(vectors, np.ndarray) else type(vectors).__name__
        raise TypeError(f"vectors must be an array of int8, not {kind}")
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ValueError(f"vectors must be [n, stripes], not of shape {vectors.shape}")
    count, stripes = vectors.shape
    words = segment_words(count, precision, stripe_bits)
    _check_word(stripes, stripe_bits)
    has_code("coefficient", vectors, precision, code)
    numbers = code.encoded(vectors)
    codes = (numbers < 0).view(np.uint8) if precision == 1 else numbers.view(np.uint8)
    streams = np.zeros((stripes, words * stripe_bits), np.uint8)
    streams[:, : count * precision] = np.unpackbits(
        codes.T.copy()[..., np.newaxis], axis=2, count=precision, bitorder="little"
    ).reshape(stripes, -1)
    bits = streams.reshape(stripes, words, stripe_bits).transpose(1, 0, 2)
    return np.packbits(bits.reshape(words, stripes * stripe_bits), axis=1, bitorder="little")


def decode_segment(
    words: NDArray[np.uint8],
    count: int,
    precision: int,
    stripe_bits: int,
    code: Code = Code.UNIFORM,
) -> NDArray[np.int8]:
    """Unpack a segment.

    Parameters
    ----------
    words : uint8 [segment_words(count, precision, stripe_bits), bytes]
        Words, little endian; their bits are a multiple of `stripe_bits`.
    count : int
        Vectors in the segment.
    precision, stripe_bits, code
        As in `encode_segment`.

    Returns
    -------
    int8 [count, stripes]

    Raises
    ------
    TypeError, ValueError
        For types, shapes or parameters outside these, padding that is not zero, or a number
        outside the symmetric range. What hardware makes of the last two is not defined.
    """
    expected = segment_words(count, precision, stripe_bits)
    if not isinstance(words, np.ndarray) or words.dtype != np.uint8:
        kind = words.dtype if isinstance(words, np.ndarray) else type(words).__name__
        raise TypeError(f"words must be an array of uint8, not {kind}")
    if words.ndim != 2 or words.shape[1] == 0:
        raise ValueError(f"words must be [n, bytes], not of shape {words.shape}")
    if len(words) != expected:
        raise ValueError(
            f"a segment of {count} vectors of {precision} bits must take {expected} words, "
            f"not {len(words)}"
        )
    stripes, rest = divmod(words.shape[1] * 8, stripe_bits)
    if rest:
        raise ValueError(
            f"a word must be a multiple of stripe_bits {stripe_bits}, not {words.shape[1] * 8} bits"
        )
    check_precision("coefficient", precision, code)
    bits = np.unpackbits(words, axis=1, bitorder="little").reshape(-1, stripes, stripe_bits)
    streams = bits.transpose(1, 0, 2).reshape(stripes, -1)
    used = count * precision
    if streams[:, used:].any():
        stripe = int(np.argwhere(streams[:, used:])[0, 0])
        raise ValueError(f"padding of a segment must be zero, not so in stripe {stripe}")
    codes = np.packbits(
        streams[:, :used].reshape(stripes, count, precision), axis=2, bitorder="little"
    )
    codes = codes.reshape(stripes, count).T
    if precision == 1:
        return np.where(codes, np.int8(-1), np.int8(1))
    sign = 1 << (precision - 1)
    numbers = np.ascontiguousarray((codes ^ sign) - np.uint8(sign)).view(np.int8)
    in_range("coefficient", numbers, precision)
    return code.decoded(numbers)


def _check_word(stripes: int, stripe_bits: int) -> None:
    if stripes * stripe_bits % 8:
        raise ValueError(
            f"stripes * stripe_bits must be a multiple of 8, not {stripes} * {stripe_bits}"
        )
