"""CRC-32 as zlib computes it, a few bits at a time."""

from amaranth import Cat, Value

__all__ = ["CRC32_INITIAL", "CRC32_POLYNOMIAL", "crc32_step"]

CRC32_POLYNOMIAL = 0xEDB88320
"""Polynomial of zlib's CRC-32, reflected: bit 0 is the coefficient of x**31."""

CRC32_INITIAL = 0xFFFFFFFF
"""State before the first bit; the result is the complement of the last state."""


def crc32_step(state, bits):
    """State of a CRC-32 after some more bits of the message.

    Parameters
    ----------
    state : Value, 32 bits
        From `CRC32_INITIAL`.
    bits : Value
        The next bits; a byte's least significant bit comes first.

    Returns
    -------
    Value, 32 bits
        For one bit, a cost of one 4-input LUT a bit of state at most.
    """
    state, bits = Value.cast(state), Value.cast(bits)
    if len(state) != 32:
        raise ValueError(f"state must be 32 bits wide, not {len(state)}")
    # Each new bit is the parity of some old bits and some of the message: find out which.
    terms = [{("state", n)} for n in range(32)]
    for n in range(len(bits)):
        feedback = terms[0] ^ {("bits", n)}
        terms = [*terms[1:], set()]
        for tap in range(32):
            if CRC32_POLYNOMIAL >> tap & 1:
                terms[tap] = terms[tap] ^ feedback
    signals = {"state": state, "bits": bits}
    return Cat(Cat(signals[name][n] for name, n in sorted(term)).xor() for term in terms)
