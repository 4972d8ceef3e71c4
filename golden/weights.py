"""Weights of a convolution: stored, or recovered from a basis and coefficients."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from golden import checks
from golden.checks import keep
from golden.code import Code, has_code
from golden.fixed import in_range
from golden.generate import cross, intra

__all__ = ["Generated", "Stored"]

Int8 = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Stored:
    """Weights stored as they are.

    Parameters
    ----------
    W : int8 [Co, Ci, T]
        Weights, taps rows first: t = ky * kw + kx. Ci counts the input channels of one group.
    q : int
        Precision in bits, 1..8; every weight is in `golden.fixed.symmetric_range(q)`.

    Raises
    ------
    TypeError, ValueError
        For a type, shape, precision or weight outside these; the message quotes it.
    """

    W: Int8
    q: int

    def __post_init__(self) -> None:
        checks.array("W", self.W, np.int8, "Co", "Ci", "T")
        keep(self, "q", checks.integer("q", self.q, 1, 8))
        in_range("W", self.W, self.q)
        keep(self, "W", self.W)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Co, Ci, T)."""
        co, ci, taps = self.W.shape
        return co, ci, taps

    @property
    def bits(self) -> dict[str, int]:
        """Bits that must be stored, without padding, by kind."""
        return {"basis": 0, "coefficients": 0, "stored": self.W.size * self.q}


@dataclass(frozen=True, eq=False, kw_only=True)
class Generated:
    """Weights recovered from a basis and coefficients.

    Source: Gu et al., Towards Memory-Efficient Neural Networks via Multi-Level in situ
    Generation, ICCV 2021; the rounding is this project's. At least one level is on:

        W1[b,c,t] = clamp8(round_shift(sum_i U[b,c,i] * B[b,i,t], s1))    intra level
        W [o,c,t] = clamp8(round_shift(sum_b V[o,b] * W1[b,c,t], s2))     cross level

    Parameters
    ----------
    U : int8 [Bo, Ci, Bi], or [Bo, Ci, T] without B
        Coefficients of the intra level; without it, W1 itself.
    B : int8 [Bo, Bi, T] or None
        Basis of the intra level; None where that level is off.
    V : int8 [Co, Bo] or None
        Coefficients of the cross level; None where that level is off, and then Bo = Co.
    qu, qb, qv : int
        Precision of U, B and V in bits, 1..8; 0 for a B or V that is None. Every element is in
        the `golden.fixed.symmetric_range` of its precision.
    code : Code
        Of U; powers of two only with B.
    s1, s2 : int
        Right shifts after the intra and the cross level, 0..31; 0 for a level that is off.

    Raises
    ------
    TypeError, ValueError
        For a type, shape, precision, code, shift or element outside these; the message quotes it.
    """

    U: Int8
    B: Int8 | None = None
    V: Int8 | None = None
    qu: int
    qb: int = 0
    qv: int = 0
    code: Code = Code.UNIFORM
    s1: int = 0
    s2: int = 0

    def __post_init__(self) -> None:
        if self.B is None and self.V is None:
            raise ValueError("Generated must have B or V; weights without either are Stored")
        checks.array("U", self.U, np.int8, "Bo", "Ci", "T" if self.B is None else "Bi")
        if self.B is not None:
            checks.array("B", self.B, np.int8, "Bo", "Bi", "T")
            if self.B.shape[:2] != (self.U.shape[0], self.U.shape[2]):
                raise ValueError(
                    f"B must be [Bo, Bi, T] with the Bo and Bi of U [Bo, Ci, Bi], "
                    f"not {self.B.shape} with {self.U.shape}"
                )
        keep(self, "code", Code(self.code))
        if self.B is None and self.code is not Code.UNIFORM:
            raise ValueError(f"code must be {Code.UNIFORM} where B is None, not {self.code}")
        if self.V is not None:
            checks.array("V", self.V, np.int8, "Co", "Bo")
            if self.V.shape[1] != self.U.shape[0]:
                raise ValueError(
                    f"V must be [Co, Bo] with the Bo of U, not {self.V.shape} with {self.U.shape}"
                )
        for name, precision, shift in (("U", "qu", None), ("B", "qb", "s1"), ("V", "qv", "s2")):
            values = getattr(self, name)
            for field, low, high in ((precision, 1, 8), (shift, 0, 31)):
                if field is None:
                    continue
                value = getattr(self, field)
                if values is None and value != 0:
                    raise ValueError(f"{field} must be 0 where {name} is None, not {value!r}")
                if values is not None:
                    keep(self, field, checks.integer(field, value, low, high))
            if values is not None:
                code = self.code if name == "U" else Code.UNIFORM
                has_code(name, values, getattr(self, precision), code)
                keep(self, name, values)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Co, Ci, T) of W."""
        bo, ci, last = self.U.shape
        co = bo if self.V is None else self.V.shape[0]
        return co, ci, last if self.B is None else self.B.shape[2]

    @cached_property
    def W1(self) -> Int8:
        """Basis kernels of the cross level, int8 [Bo, Ci, T]."""
        return self.U if self.B is None else intra(self.U, self.B, self.s1)

    @cached_property
    def W(self) -> Int8:
        """Weights, int8 [Co, Ci, T]."""
        return self.W1 if self.V is None else cross(self.V, self.W1, self.s2)

    @property
    def bits(self) -> dict[str, int]:
        """Bits that must be stored, without padding, by kind.

        `basis` counts B, or W1 where there is no intra level; `coefficients` counts V, and U
        where it is not W1.
        """
        u = self.U.size * self.qu
        v = 0 if self.V is None else self.V.size * self.qv
        if self.B is None:
            return {"basis": u, "coefficients": v, "stored": 0}
        return {"basis": self.B.size * self.qb, "coefficients": u + v, "stored": 0}
