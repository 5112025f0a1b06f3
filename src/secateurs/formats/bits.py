"""Bits: a weight as its dtype, its shape and the bits that stand in it, and back; torch only where a tensor came in."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from secateurs.errors import InputError
from secateurs.exact.kinds import KINDS, Kind, Stored
from secateurs.exact.parts import split
from secateurs.exact.threads import spread

if TYPE_CHECKING:
    from torch import Tensor

    Weight = Tensor | np.ndarray[Any, Any]

_NUMPY = {"float64": "F64", "float32": "F32", "float16": "F16"}
_TORCH = {**_NUMPY, "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
_TORCH_OF = {name: torch for torch, name in _TORCH.items()}


@dataclass(frozen=True, eq=False)
class Bits:
    """A weight.

    stored  (n,) of the kind's storage, in C order
    """

    kind: Kind
    shape: tuple[int, ...]
    stored: Stored

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the weight seen as (out, everything else); fewer than two dimensions are one row."""
        return grid_of(self.shape)


def grid_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns), as Bits has them.

    >>> grid_of((64, 3, 3, 3)), grid_of((10,)), grid_of(())
    ((64, 27), (1, 10), (1, 1))
    """
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def bits_of(weight: "Weight") -> Bits:
    """The bits of a floating tensor or array, without a copy where it is contiguous and on the CPU."""
    name = str(weight.dtype).removeprefix("torch.")
    if name not in (_NUMPY if isinstance(weight, np.ndarray) else _TORCH):
        raise InputError(f"Weights of {name} cannot be packed. Known: {', '.join(_TORCH)}.")
    kind = KINDS[_TORCH[name]]
    shape = tuple(weight.shape)
    if isinstance(weight, np.ndarray):
        return Bits(kind, shape, np.ascontiguousarray(weight).reshape(-1).view(kind.storage))
    import torch

    same_size = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[kind.item_size]
    flat = weight.detach().cpu().contiguous().reshape(-1).view(same_size)
    return Bits(kind, shape, flat.numpy().view(kind.storage))


def keep_of(keep: "Weight | None", bits: Bits) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """(n,) bool; what is not +0.0 where no keep is given."""
    if keep is None:
        there = np.empty(bits.stored.size, np.bool_)
        parts = zip(split(bits.stored), split(there), strict=True)
        spread(lambda part: np.not_equal(part[0], 0, out=part[1]), parts)
        return there
    found = keep if isinstance(keep, np.ndarray) else keep.detach().cpu().numpy()
    if found.shape != bits.shape or found.dtype != np.bool_:
        raise InputError(
            f"The keep of a weight {bits.shape} is bool of its shape; got {found.dtype} {found.shape}. True = keep."
        )
    return np.ascontiguousarray(found).reshape(-1)


def tensor_of(bits: Bits) -> "Tensor":
    """The torch tensor of these bits, on the same memory."""
    import torch

    dtype = getattr(torch, _TORCH_OF[bits.kind.name])
    signed = bits.stored.view(f"i{bits.kind.item_size}") if bits.kind.item_size > 1 else bits.stored
    return torch.from_numpy(signed).view(dtype).reshape(bits.shape)
