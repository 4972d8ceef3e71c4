"""golden.decode against a bit-by-bit loop over one big integer a word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from golden.code import Code
from golden.decode import decode_segment, encode_segment, segment_words
from golden.fixed import symmetric_range

# Bits of each power of two, the first one first.
POWERS = {0: "000", 1: "100", -1: "111", 2: "010", -2: "011", 4: "110", -4: "101"}


def packed(
    vectors: list[list[int]], q: int, stripe_bits: int, code: Code = Code.UNIFORM
) -> list[bytes]:
    """Words of a segment, each bit placed on its own."""
    stripes = len(vectors[0])
    words = [0] * -(-len(vectors) * q // stripe_bits)
    for n in range(stripes):
        place = 0
        for vector in vectors:
            value = vector[n]
            number = {1: 0, -1: 1}[value] if q == 1 else value % (1 << q)
            bits = (
                [int(bit) for bit in POWERS[value]]
                if code is Code.POWER_OF_TWO
                else [number >> bit & 1 for bit in range(q)]
            )
            for bit in bits:
                word, offset = divmod(place, stripe_bits)
                words[word] |= bit << (n * stripe_bits + offset)
                place += 1
    return [word.to_bytes(stripes * stripe_bits // 8, "little") for word in words]


def coefficients(rng: np.random.Generator, n: int, stripes: int, q: int) -> NDArray[np.int8]:
    low, high = symmetric_range(q)
    values = rng.integers(low, high + 1, (n, stripes), dtype=np.int8)
    return np.where(values == 0, np.int8(1), values) if q == 1 else values


GEOMETRIES = [
    (stripes, stripe_bits)
    for stripe_bits in (*range(1, 18), 31, 32, 33, 63, 64)
    for stripes in (1, 2, 3, 4, 8, 16, 64)
    if stripes * stripe_bits % 8 == 0
]


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(GEOMETRIES), st.integers(1, 8), st.integers(1, 40), st.integers(0, 2**32 - 1)
)
def test_segment(geometry: tuple[int, int], q: int, n: int, seed: int) -> None:
    stripes, stripe_bits = geometry
    vectors = coefficients(np.random.default_rng(seed), n, stripes, q)
    words = encode_segment(vectors, q, stripe_bits)
    assert words.dtype == np.uint8
    assert [bytes(word) for word in words] == packed(vectors.tolist(), q, stripe_bits)
    assert len(words) == segment_words(n, q, stripe_bits)
    decoded = decode_segment(words, n, q, stripe_bits)
    assert decoded.dtype == np.int8
    np.testing.assert_array_equal(decoded, vectors)


@settings(deadline=None)
@given(st.sampled_from(GEOMETRIES), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_powers_of_two(geometry: tuple[int, int], n: int, seed: int) -> None:
    stripes, stripe_bits = geometry
    vectors = np.random.default_rng(seed).choice(np.array([*POWERS], np.int8), (n, stripes))
    words = encode_segment(vectors, 3, stripe_bits, Code.POWER_OF_TWO)
    expected = packed(vectors.tolist(), 3, stripe_bits, Code.POWER_OF_TWO)
    assert [bytes(word) for word in words] == expected
    decoded = decode_segment(words, n, 3, stripe_bits, Code.POWER_OF_TWO)
    assert decoded.dtype == np.int8
    np.testing.assert_array_equal(decoded, vectors)


@pytest.mark.parametrize("q", [1, 2, 4, 8])
def test_powers_of_two_have_3_bits(q: int) -> None:
    message = f"^coefficient in powers of two must have 3 bits, not {q}$"
    with pytest.raises(ValueError, match=message):
        encode_segment(np.ones((1, 1), np.int8), q, 8, Code.POWER_OF_TWO)
    with pytest.raises(ValueError, match=message):
        decode_segment(np.ones((1, 1), np.uint8), 1, q, 8, Code.POWER_OF_TWO)


def test_no_power_of_two() -> None:
    for value in (3, -3, 8, -128):
        message = rf"^coefficient in .* must be 0, \+-1, \+-2 or \+-4, not {value} at \[0, 1\]$"
        with pytest.raises(ValueError, match=message):
            encode_segment(np.array([[1, value]], np.int8), 3, 8, Code.POWER_OF_TWO)
    with pytest.raises(ValueError, match=r"^coefficient of 3 bits .* not -4 at \[0, 1\]$"):
        decode_segment(np.array([[0, 4]], np.uint8), 1, 3, 8, Code.POWER_OF_TWO)


@pytest.mark.parametrize("q", range(1, 9))
def test_every_coefficient(q: int) -> None:
    low, high = symmetric_range(q)
    values = [v for v in range(low, high + 1) if q > 1 or v]
    vectors = np.array([values, values[::-1]] * 8, np.int8).T
    words = encode_segment(vectors, q, 4)
    assert [bytes(word) for word in words] == packed(vectors.tolist(), q, 4)
    np.testing.assert_array_equal(decode_segment(words, len(values), q, 4), vectors)


def test_worked_by_hand() -> None:
    # Two stripes of 4 bits, q = 3: stripe 0 holds 1, -2 = 001, 110; stripe 1 holds -1, 3.
    vectors = np.array([[1, -1], [-2, 3]], np.int8)
    # Stripe 0, first bit first: 100 011 -> 1000, 11(00); stripe 1: 111 110 -> 1111, 10(00).
    assert encode_segment(vectors, 3, 4).tolist() == [[0b1111_0001], [0b0001_0011]]
    # One bit: +1 is 0 and -1 is 1.
    vectors = np.array([[1], [-1], [-1]], np.int8)
    assert encode_segment(vectors, 1, 8).tolist() == [[0b110]]


def test_empty_segment() -> None:
    words = encode_segment(np.zeros((0, 4), np.int8), 3, 8)
    assert words.shape == (0, 4)
    assert decode_segment(words, 0, 3, 8).shape == (0, 4)


def test_a_million_coefficients(seed: int) -> None:
    vectors = coefficients(np.random.default_rng(seed), 125_000, 8, 5)
    words = encode_segment(vectors, 5, 8)
    assert words.shape == (78_125, 8)
    np.testing.assert_array_equal(decode_segment(words, 125_000, 5, 8), vectors)


@pytest.mark.parametrize(
    ("vectors", "q", "stripe_bits", "error", "message"),
    [
        ([[1]], 2, 8, TypeError, "vectors must be an array of int8, not list"),
        (np.ones((1, 1), np.int16), 2, 8, TypeError, "vectors must be an array of int8, not int16"),
        (np.ones(4, np.int8), 2, 8, ValueError, r"vectors must be \[n, stripes\], not of shape"),
        (np.ones((4, 0), np.int8), 2, 8, ValueError, r"vectors must be \[n, stripes\], not of"),
        (np.ones((1, 1), np.int8), 0, 8, ValueError, "precision must be in 1..8, not 0"),
        (np.ones((1, 1), np.int8), 9, 8, ValueError, "precision must be in 1..8, not 9"),
        (np.ones((1, 8), np.int8), 1, 0, ValueError, "stripe_bits must be in 1..64, not 0"),
        (np.ones((1, 8), np.int8), 1, 65, ValueError, "stripe_bits must be in 1..64, not 65"),
        (
            np.ones((1, 3), np.int8),
            1,
            4,
            ValueError,
            r"stripes \* stripe_bits must be a multiple of 8, not 3 \* 4",
        ),
        (
            np.array([[1], [2]], np.int8),
            2,
            8,
            ValueError,
            r"coefficient of 2 bits must be in -1..1, not 2 at \[1, 0\]",
        ),
        (
            np.array([[-128]], np.int8),
            8,
            8,
            ValueError,
            r"coefficient of 8 bits must be in -127..127, not -128 at \[0, 0\]",
        ),
        (
            np.array([[0]], np.int8),
            1,
            8,
            ValueError,
            r"coefficient of 1 bits must be -1 or \+1, not 0 at \[0, 0\]",
        ),
    ],
)
def test_encode_refuses(
    vectors: NDArray[np.int8], q: int, stripe_bits: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        encode_segment(vectors, q, stripe_bits)


@pytest.mark.parametrize(
    ("words", "count", "q", "stripe_bits", "error", "message"),
    [
        ([[1]], 1, 2, 8, TypeError, "words must be an array of uint8, not list"),
        (np.ones((1, 1), np.int8), 1, 2, 8, TypeError, "words must be an array of uint8, not int8"),
        (np.ones(1, np.uint8), 1, 2, 8, ValueError, r"words must be \[n, bytes\], not of shape"),
        (np.ones((1, 0), np.uint8), 1, 2, 8, ValueError, r"words must be \[n, bytes\], not of"),
        (np.ones((1, 1), np.uint8), -1, 2, 8, ValueError, "count must be in 0..4294967296, not -1"),
        (
            np.ones((1, 1), np.uint8),
            5,
            2,
            8,
            ValueError,
            "a segment of 5 vectors of 2 bits must take 2 words, not 1",
        ),
        (
            np.ones((1, 2), np.uint8),
            1,
            2,
            3,
            ValueError,
            "a word must be a multiple of stripe_bits 3, not 16 bits",
        ),
        (
            np.array([[0, 8]], np.uint8),
            1,
            3,
            8,
            ValueError,
            "padding of a segment must be zero, not so in stripe 1",
        ),
        (
            np.array([[0, 4]], np.uint8),
            1,
            3,
            8,
            ValueError,
            r"coefficient of 3 bits must be in -3..3, not -4 at \[0, 1\]",
        ),
    ],
)
def test_decode_refuses(
    words: NDArray[np.uint8],
    count: int,
    q: int,
    stripe_bits: int,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        decode_segment(words, count, q, stripe_bits)
