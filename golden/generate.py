"""Recovery of the weights from basis and coefficients.

Source: Gu et al., Towards Memory-Efficient Neural Networks via Multi-Level in situ Generation,
ICCV 2021. The sums are exact; each level rounds and saturates once, at its end.
"""

import numpy as np
from numpy.typing import NDArray

from golden.checks import array, integer
from golden.fixed import clamp8, round_shift

__all__ = ["cross", "intra"]

Int8 = NDArray[np.int8]


def intra(U: Int8, B: Int8, s1: int) -> Int8:
    """Intra-kernel level: clamp8(round_shift(sum_i U[b,c,i] * B[b,i,t], s1)).

    Parameters
    ----------
    U : int8 [Bo, Ci, Bi]
    B : int8 [Bo, Bi, T]
    s1 : int
        0..31.

    Returns
    -------
    int8 [Bo, Ci, T], in -127..127.

    Raises
    ------
    TypeError, ValueError
        For other types or ranges, or if Bo or Bi of U and B differ.
    """
    array("U", U, np.int8, "Bo", "Ci", "Bi")
    array("B", B, np.int8, "Bo", "Bi", "T")
    if B.shape[:2] != (U.shape[0], U.shape[2]):
        raise ValueError(
            f"B must be [Bo, Bi, T] with the Bo and Bi of U [Bo, Ci, Bi], "
            f"not {B.shape} with {U.shape}"
        )
    sums = U.astype(np.int64) @ B.astype(np.int64)
    return clamp8(round_shift(sums, integer("s1", s1, 0, 31)))


def cross(V: Int8, W1: Int8, s2: int) -> Int8:
    """Cross-kernel level: clamp8(round_shift(sum_b V[o,b] * W1[b,c,t], s2)).

    Parameters
    ----------
    V : int8 [Co, Bo]
    W1 : int8 [Bo, Ci, T]
    s2 : int
        0..31.

    Returns
    -------
    int8 [Co, Ci, T], in -127..127.

    Raises
    ------
    TypeError, ValueError
        For other types or ranges, or if Bo of V and W1 differ.
    """
    array("V", V, np.int8, "Co", "Bo")
    array("W1", W1, np.int8, "Bo", "Ci", "T")
    if V.shape[1] != W1.shape[0]:
        raise ValueError(f"V must be [Co, Bo] with the Bo of W1, not {V.shape} with {W1.shape}")
    sums = V.astype(np.int64) @ W1.reshape(len(W1), -1).astype(np.int64)
    return clamp8(round_shift(sums, integer("s2", s2, 0, 31))).reshape(-1, *W1.shape[1:])
