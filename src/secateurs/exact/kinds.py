"""Kinds: how each floating dtype stores |w|, so that weights can be ranked by their bits.

    key = stored & kind.mask          an integer; keys are ordered as |w| is

To add one: give it a line in KINDS; its sign bit must be the highest and its positive values ordered by their bits.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stored = np.ndarray[Any, Any]  # one dimension of uint8, uint16, uint32 or uint64


@dataclass(frozen=True)
class Kind:
    """A floating dtype.

    name        as safetensors writes it
    n_exponent  bits of the exponent
    n_mantissa  bits of the mantissa
    n_finite    keys from here on are infinite or NaN
    """

    name: str
    n_exponent: int
    n_mantissa: int
    n_finite: int

    @cached_property
    def storage(self) -> "np.dtype[Any]":
        """Unsigned integers of the same size."""
        return np.dtype(f"u{(1 + self.sign) // 8}")

    @property
    def sign(self) -> int:
        """Where the sign bit stands: how many bits are below it."""
        return self.n_exponent + self.n_mantissa

    @property
    def mask(self) -> int:
        """All bits but the sign."""
        return (1 << self.sign) - 1

    def key(self, number: int) -> Any:
        """An integer as the kernels take it, at most `mask`; -1 is below every key."""
        return _SIGNED[self.item_size](number)

    @property
    def item_size(self) -> int:
        """Bytes of one weight."""
        return self.storage.itemsize

    def values(self, stored: Stored) -> NDArray[np.float64]:
        """The numbers that stand in bit patterns of this kind, exactly: float64 holds every one of them."""
        bits = np.ascontiguousarray(stored, self.storage)
        with np.errstate(invalid="ignore"):  # a signalling NaN
            if self.name in _NATIVE:
                return bits.view(_NATIVE[self.name]).astype(np.float64)
            if self.name == "BF16":
                return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        signed: NDArray[np.float64] = _table(self)[bits]
        return signed

    def key_from(self, value: float) -> int:
        """The smallest key whose number is at least `value` >= 0; one past the largest finite where there is none."""
        return int(self.keys_from(np.array([value]))[0])

    def key_upto(self, value: float) -> int:
        """The largest key whose number is at most `value` >= 0; -1 for a negative one."""
        return int(self.keys_upto(np.array([value]))[0])

    def keys_from(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """`key_from` of many."""
        if self.item_size <= 2:
            return np.searchsorted(_sizes(self), values)
        with np.errstate(over="ignore"):
            near = (values + 0.0).astype(_NATIVE[self.name])  # -0.0 is 0.0
        return np.minimum(near.view(self.storage).astype(np.int64) + (near < values), self.n_finite)

    def keys_upto(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """`key_upto` of many."""
        keys = self.keys_from(np.maximum(values, 0.0))
        is_above = (keys == self.n_finite) | (self.values(keys.astype(self.storage)) != values)
        return np.where(values < 0, -1, keys - is_above)

    def value(self, key: int) -> float:
        """The number of one key."""
        return float(self.values(np.array([key], self.storage))[0])

    def rounded(self, tau: float) -> float:
        """`tau` >= 0 as this dtype holds it, to nearest even, as `w.abs() > tau` compares; inf where it overflows."""
        if self.item_size < 4:
            tau = KINDS["F32"].rounded(tau)  # torch goes through float32
        above = self.key_from(tau)
        if above == 0 or (above < self.n_finite and self.value(above) == tau):
            return tau
        low = self.value(above - 1)
        # Past the largest number, the next one would be a step further on.
        high = self.value(above) if above < self.n_finite else 2 * low - self.value(above - 2)
        up = tau - low > high - tau or (tau - low == high - tau and above % 2 == 0)
        return low if not up else high if above < self.n_finite else float("inf")


def signed(stored: Stored) -> Stored:
    """The same memory as the kernels take it: comparing signed integers is cheaper, and no key is negative."""
    return stored.view(_SIGNED[stored.itemsize])


_SIGNED = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
_NATIVE = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


@cache
def _sizes(kind: Kind) -> NDArray[np.float64]:
    """The finite numbers of a small kind by their keys, ascending."""
    return kind.values(np.arange(kind.n_finite, dtype=kind.storage))


@cache
def _table(kind: Kind) -> NDArray[np.float64]:
    """The numbers of all 256 patterns of an 8-bit kind."""
    bits = np.arange(256, dtype=np.int64)
    bias = (1 << (kind.n_exponent - 1)) - 1
    exponent, mantissa = (bits & kind.mask) >> kind.n_mantissa, bits & ((1 << kind.n_mantissa) - 1)
    is_normal = exponent > 0
    size = np.ldexp((is_normal << kind.n_mantissa) + mantissa, np.maximum(exponent, 1) - bias - kind.n_mantissa)
    size = np.where((bits & kind.mask) < kind.n_finite, size, np.nan)
    if kind.name == "F8_E5M2":
        size[(bits & kind.mask) == kind.n_finite] = np.inf
    return np.where(bits > kind.mask, -size, size)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("F64", 11, 52, 0x7FF << 52),
        Kind("F32", 8, 23, 0xFF << 23),
        Kind("F16", 5, 10, 0x1F << 10),
        Kind("BF16", 8, 7, 0xFF << 7),
        Kind("F8_E5M2", 5, 2, 0x1F << 2),
        Kind("F8_E4M3", 4, 3, 0x7F),
    )
}
