"""Receipt: where the bytes of a packed file are, and what other ways to store the same weights would take.

Everything is counted, nothing estimated: `bound` is the entropy of what was stored, from its own counts.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.checkpoint.tensors import Entry
from secateurs.exact.kinds import KINDS
from secateurs.formats.bits import grid_of
from secateurs.formats.values import Values


@dataclass(frozen=True)
class Line:
    """One tensor of a packed file.

    positions    the kinds of positions its pieces have: "bitmask", "model"
    n_stored     weights that are not zero and are stored
    csr          bytes of the same dense values as CSR: one value and 4 bytes for each, 4 bytes for each row; 0 where
                 the tensor has less than two dimensions
    zstd         bytes of the dense tensor under zstd; None where that was not asked for
    bound        bytes of the entropy bound: positions as if drawn one by one, exponents (or codes) by their counts,
                 sign and mantissa as they are; scales and codebook included; None for what are no floating numbers
    worst, mean  largest and mean error of the stored weights; 0 for exact values
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: str
    positions: tuple[str, ...]
    n: int
    n_stored: int
    dense_bytes: int
    position_bytes: int
    value_bytes: int
    table_bytes: int
    csr: int
    zstd: int | None
    bound: float | None
    worst: float
    mean: float

    @property
    def packed_bytes(self) -> int:
        """Bytes of its streams."""
        return self.position_bytes + self.value_bytes + self.table_bytes


@dataclass(frozen=True)
class Receipt:
    """A whole packed file; header_bytes are those of no tensor: header, index, and what fills up."""

    path: str
    size_bytes: int
    header_bytes: int
    lines: tuple[Line, ...]

    def total(self, what: str) -> int:
        """The sum of one of the counts of a Line over all tensors."""
        return sum(getattr(line, what) for line in self.lines)

    @property
    def compression(self) -> float:
        """Dense bytes / bytes of the file."""
        return self.total("dense_bytes") / max(1, self.size_bytes)

    @property
    def csr(self) -> int:
        """Bytes with every matrix as CSR where that is smaller than dense."""
        return sum(min(line.csr, line.dense_bytes) if line.csr else line.dense_bytes for line in self.lines)

    @property
    def zstd(self) -> int | None:
        """Bytes of the dense tensors under zstd, one by one; None where that was not asked for."""
        found = [line.zstd for line in self.lines]
        return None if any(each is None for each in found) else sum(each or 0 for each in found)

    @property
    def bound(self) -> float:
        """The entropy bound; tensors that have none count as they are stored."""
        return sum(line.packed_bytes if line.bound is None else line.bound for line in self.lines)

    def values(self) -> dict[str, Any]:
        """JSON-able."""
        lines = [{**asdict(line), "packed_bytes": line.packed_bytes} for line in self.lines]
        totals = {
            **{name: self.total(name) for name in ("dense_bytes", "position_bytes", "value_bytes", "table_bytes")},
            "csr": self.csr,
            "zstd": self.zstd,
            "bound": self.bound,
            "compression": self.compression,
        }
        return {
            "format": "secateurs.receipt/1",
            "path": self.path,
            "size_bytes": self.size_bytes,
            "header_bytes": self.header_bytes,
            "totals": totals,
            "tensors": lines,
        }


def bound_of(entry: Entry, values: Values, n_stored: int, drawn: NDArray[np.int64], table_bytes: int) -> float | None:
    """The entropy bound of one tensor, in bytes; `drawn` as in formats/pieces.py."""
    kind = KINDS.get(entry.dtype)
    if kind is None:
        return None
    raw = n_stored * (1 + kind.n_mantissa) if values.is_exact else 0
    return (_of_positions(entry.n, n_stored) + entropy(drawn) + raw) / 8 + table_bytes


def entropy(counts: NDArray[np.int64]) -> float:
    """Bits of so many draws, each by the share of its count.

    >>> entropy(np.array([4, 0, 4]))
    8.0
    """
    some = counts[counts > 0].astype(np.float64)
    return float((some * np.log2(some.sum() / some)).sum())


def csr_bytes(entry: Entry, n_stored: int) -> int:
    """Bytes of a matrix in compressed sparse rows, 32-bit indices; 0 for vectors."""
    if len(entry.shape) < 2 or not entry.n:
        return 0
    return n_stored * (entry.n_bytes // entry.n + 4) + 4 * (grid_of(entry.shape)[0] + 1)


def _of_positions(n: int, n_stored: int) -> float:
    if n_stored in (0, n):
        return 0.0
    share = n_stored / n
    return -n * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
