"""Values: how the kept weights are stored: as they are, as small integers with a scale, or as places in a codebook.

    exact        the bits of the dtype
    int8, int4   weight = code * scale, with one scale per row, or per `group` neighbours of a row: "int8/64"
    codebook:5   weight = codebook[code]: 2**5 numbers per tensor, by k-means

Codes are made of the dense weight, one per weight, so that any format can gather them as it gathers bits.
To add one: a line in `parse`, its branch in `code`, and where packed.py and pieces.py read codes.
"""

import re
from dataclasses import dataclass

import numpy as np

from secateurs.errors import InputError, RecipeError
from secateurs.exact.kinds import Kind, Stored
from secateurs.exact.parts import Part
from secateurs.formats import ints
from secateurs.formats.codebook import codes_of, different, fit

N_FIT = 1 << 22  # weights that a codebook is fitted to, spread evenly over the tensor


@dataclass(frozen=True)
class Values:
    """How weights are stored.

    name    "exact", "int" or "codebook"
    n_bits  of one code; 0 for exact
    group   weights of a row that share a scale; 0 for the whole row
    """

    name: str = "exact"
    n_bits: int = 0
    group: int = 0

    @classmethod
    def parse(cls, text: "str | Values") -> "Values":
        """`exact`, `int8`, `int4`, `int4/64` or `codebook:5`.

        >>> Values.parse("int4/64")
        Values(name='int', n_bits=4, group=64)
        """
        if isinstance(text, Values):
            return text
        if text == "exact":
            return cls()
        if found := re.fullmatch(r"int([48])(?:/([1-9][0-9]{0,8}))?", text):
            return cls("int", int(found[1]), int(found[2] or 0))
        if found := re.fullmatch(r"codebook:([2-8])", text):
            return cls("codebook", int(found[1]))
        raise RecipeError(
            "Values are exact, int8, int4, int8/64 (one scale per 64 weights) or codebook:2 to codebook:8; "
            f"got {text!r}."
        )

    def __str__(self) -> str:
        if self.name == "exact":
            return "exact"
        if self.name == "codebook":
            return f"codebook:{self.n_bits}"
        return f"int{self.n_bits}/{self.group}" if self.group else f"int{self.n_bits}"

    @property
    def is_exact(self) -> bool:
        """Whether every bit comes back."""
        return self.name == "exact"

    def width(self, n_columns: int) -> int:
        """Weights of a row that share a scale."""
        return min(self.group or n_columns, n_columns)

    def n_scales(self, n_columns: int) -> int:
        """Scales of one row."""
        return -(-n_columns // self.group) if self.group else 1


EXACT = Values()


def code(values: Values, kind: Kind, stored: Stored, n_columns: int, codebook: Stored) -> tuple[Stored, Stored]:
    """(codes, scales) of whole rows: a code per weight, and for int the bits of the scales, else none.

    stored    (rows * n_columns,); zeros and what is not kept do not count
    codebook  what `codebook_of` found in the tensor, for codebook values
    """
    if values.is_exact:
        return stored, _NO_SCALES
    if not stored.size:
        return stored.astype(np.uint8), _NO_SCALES
    if values.name == "codebook":
        return codes_of(kind.values(stored), kind.values(codebook)), _NO_SCALES
    return ints.code(kind, stored, n_columns, values.width(n_columns), values.n_bits)


def codebook_of(values: Values, kind: Kind, stored: Stored, has_zero: bool = False) -> Stored:
    """The bits of the 2**n_bits numbers that stand best for the weights but zeros, ascending; one is zero if it must.

    Where there are no more different weights than that, these are the numbers, and every bit comes back.
    """
    n = 2**values.n_bits - has_zero
    found = different(stored, kind.storage.type(kind.mask), n)
    if found is None:
        found = ints.stored_as(kind, fit(kind.values(_sample(stored, kind.mask)), n))
    found = np.append(found, np.zeros(int(has_zero or not found.size), found.dtype))
    ordered = found[np.argsort(kind.values(found), kind="stable")]
    return np.pad(ordered, (0, 2**values.n_bits - ordered.size), "edge")


def assert_finite(kind: Kind, stored: Stored, name: str) -> None:
    """InputError where there is a NaN or infinity, which only exact values can hold."""
    n_wild = Part.of(kind, stored).n_not_finite()
    if n_wild:
        raise InputError(f"{name} holds {n_wild:,} NaN or infinite weights, which only exact values can store.")


_NO_SCALES: Stored = np.zeros(0, np.uint16)


def _sample(stored: Stored, mask: int) -> Stored:
    """Weights that are not zero, all of them or every so many."""
    some = stored[:: -(-stored.size // N_FIT)]
    return np.asarray(some[some & some.dtype.type(mask) != 0])
