"""Parts: what every source returns, before labels become numbers, splits are carved and inputs are encoded.

    source(spec) -> Parts

To add a source: a function of this form in its own file, and its line in `read` (data/sources.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from secateurs.errors import InputError

Array = npt.NDArray[Any]
Inputs = Array | Sequence[str]

# No single array of a source may be larger than this once unpacked: small files can declare enormous ones.
MAX_BYTES = 16 << 30


@dataclass(frozen=True)
class Part:
    """Examples of one split: images (n, ...) or a list of n texts, and n labels (whole numbers or text)."""

    x: Inputs
    y: Array

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Array) -> "Part":
        """The examples at these positions, in this order."""
        x = self.x[index] if isinstance(self.x, np.ndarray) else [self.x[i] for i in index]
        return Part(x, self.y[index])


@dataclass(frozen=True)
class Parts:
    """The splits of a source as it brings them.

    where        the file, directory or name that errors point to (never shown in results)
    about        one sentence for results: where the data come from, licence if known
    labels       the distinct labels in the order of the classes, and their names; None: as found in training
    divisor      of images: what brings a pixel to [0, 1]; None: 255 for uint8, 1 for other types
    """

    name: str
    where: str
    about: str
    train: Part
    validation: Part | None = None
    test: Part | None = None
    labels: tuple[tuple[Any, str], ...] | None = None
    divisor: float | None = None

    def each(self) -> list[tuple[str, Part]]:
        """(name of split, part) of every split that is there."""
        named = [("train", self.train), ("validation", self.validation), ("test", self.test)]
        return [(name, part) for name, part in named if part is not None]


def check_parts(parts: Parts) -> None:
    """InputError unless every split has examples, as many labels as inputs, and labels of one usable kind."""
    for split, part in parts.each():
        what = f"{parts.where}: the {split} split"
        if part.y.ndim != 1:
            raise InputError(
                f"{what} has labels of shape {part.y.shape}; one label per example, shape (n,), is needed."
            )
        if len(part.x) != len(part.y):
            raise InputError(f"{what} has {len(part.x):,} inputs but {len(part.y):,} labels. Repair the files.")
        if not len(part):
            raise InputError(f"{what} is empty. Leave the split out, or put examples in it.")
        if part.y.dtype.kind not in "iuU":
            raise InputError(
                f"{what} has labels of type {part.y.dtype}; whole numbers (or text in a table) are needed. "
                "Use y.astype('int64') if they are class numbers."
            )
        if part.y.dtype.kind != parts.train.y.dtype.kind and "U" in (part.y.dtype.kind, parts.train.y.dtype.kind):
            raise InputError(f"{what} has labels of type {part.y.dtype}, training has {parts.train.y.dtype}.")
        if part.y.dtype.kind == "i" and int(part.y.min()) < 0:
            raise InputError(
                f"{what} has the label {int(part.y.min())}; labels are 0 or more. "
                "Negative labels usually mark hidden ones: use a split whose labels are known."
            )


def number_labels(parts: Parts) -> tuple[Parts, tuple[str, ...]]:
    """The same parts with labels 0 .. n_classes - 1 (int64), and the class names in that order."""
    known = parts.labels or tuple((value, str(value)) for value in np.unique(parts.train.y).tolist())
    present = set(np.unique(parts.train.y).tolist())
    known = tuple((value, name) for value, name in known if value in present)
    if len(known) < 2:
        raise InputError(f"{parts.where}: the training data have {len(known)} class; a classifier needs 2 or more.")
    order = {value: i for i, (value, _) in enumerate(known)}

    def numbered(split: str, part: Part | None) -> Part | None:
        if part is None:
            return None
        values, inverse = np.unique(part.y, return_inverse=True)
        strange = [value for value in values.tolist() if value not in order]
        if strange:
            raise InputError(
                f"{parts.where}: the {split} split has {len(strange)} label(s) that training lacks, "
                f"first {strange[0]!r}. Every class needs training examples."
            )
        return Part(part.x, np.array([order[value] for value in values.tolist()], dtype=np.int64)[inverse])

    train = numbered("train", parts.train)
    assert train is not None
    changed = replace(
        parts,
        train=train,
        validation=numbered("validation", parts.validation),
        test=numbered("test", parts.test),
    )
    return changed, tuple(name for _, name in known)
