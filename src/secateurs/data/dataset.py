"""Dataset: three splits as tensors, and everything that says what they are."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from secateurs.data.images import Scaling
from secateurs.data.shape import InputShape


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images float32 (n, channels, height, width), standardised; or token ids int64 (n, length), padded with 0.

    source      one sentence for results: where the data come from, licence if known, what was carved
    y_...       int64 (n,), positions in class_names
    scaling     how pixels were standardised; None for text
    vocabulary  word of every id; None for images
    unknown     id of every word that the vocabulary lacks; None for images
    """

    name: str
    source: str
    shape: InputShape
    class_names: tuple[str, ...]
    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor
    y_test: Tensor
    scaling: Scaling | None = None
    vocabulary: tuple[str, ...] | None = None
    unknown: int | None = None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the six arrays, with their names, types and shapes; computed when first asked for."""
        digest = hashlib.sha256()
        for name in ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"):
            array = getattr(self, name).contiguous().numpy()
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data)
        return digest.hexdigest()
