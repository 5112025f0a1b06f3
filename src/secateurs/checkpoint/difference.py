"""Difference: what changed between two checkpoints, tensor by tensor, streamed from both.

    diff(a, b) -> Difference        .tensors, .verdict, .is_same

Weights are paired by name and compared bit by bit where both are stored alike, else by value in float64, which holds
every number of every kind.
"""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.tensors import Checkpoint, Entry, Stored
from secateurs.exact.kinds import KINDS
from secateurs.exact.threads import spread

if TYPE_CHECKING:
    from torch import nn

CHUNK = 1 << 18  # weights that one task reads
BLOCK = 1 << 15  # weights that are turned into numbers at a time, so that they stay in the cache
LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class TensorDifference:
    """What changed in one tensor; the counts are 0 where there is nothing to compare.

    status         same, changed, only in A, only in B, another shape, another dtype, unreadable
    n_gained       zeros gained: not zero in A, zero in B
    n_lost         zeros lost: zero in A, came back in B
    n_kept_changed not zero in A nor in B, and not the same; of what is no floating dtype, every item that differs
    n_resigned     zeros whose sign changed
    n_nonfinite_a  NaN and infinite numbers; norms and max_change are of what is finite in both
    norm_change    ||B - A||_2, summed in float64; inf where its square is no float64
    max_change     the largest |B - A|
    """

    name: str
    status: str
    shape_a: tuple[int, ...] | None = None
    shape_b: tuple[int, ...] | None = None
    dtype_a: str | None = None
    dtype_b: str | None = None
    n: int = 0
    is_float: bool = False
    n_zero_a: int = 0
    n_zero_b: int = 0
    n_gained: int = 0
    n_lost: int = 0
    n_kept_changed: int = 0
    n_resigned: int = 0
    n_nonfinite_a: int = 0
    n_nonfinite_b: int = 0
    norm_a: float = 0.0
    norm_change: float = 0.0
    max_change: float = 0.0

    @property
    def is_paired(self) -> bool:
        """Whether both have it in comparable form."""
        return self.status in ("same", "changed")

    @property
    def relative_change(self) -> float | None:
        """||B - A|| / ||A||; None where A is all zero and B is not, or where ||A|| is no float64."""
        if self.norm_a == 0.0 or self.norm_a == math.inf:
            return 0.0 if self.norm_change == 0.0 else None
        return self.norm_change / self.norm_a

    @property
    def masks(self) -> str:
        """How the zeros lie: equal, B in A (every zero of A is one of B), A in B, neither; "" where not compared."""
        if not self.is_paired or not self.is_float:
            return ""
        if self.n_lost and self.n_gained:
            return "neither"
        return "A in B" if self.n_lost else "B in A" if self.n_gained else "equal"

    def values(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "relative_change": self.relative_change, "masks": self.masks}


@dataclass(frozen=True)
class Difference:
    """What changed between A and B."""

    a: str
    b: str
    tensors: tuple[TensorDifference, ...]

    @property
    def is_same(self) -> bool:
        """Whether every tensor has the same name, shape, dtype and bits in both."""
        return all(tensor.status == "same" and tensor.dtype_a == tensor.dtype_b for tensor in self.tensors)

    def total(self, count: str) -> int:
        """The sum of one of the counts over the tensors: total("n_gained")."""
        return sum(getattr(tensor, count) for tensor in self.tensors)

    @property
    def norm_change(self) -> float:
        """||B - A||_2 over all tensors that both have."""
        return math.hypot(*(tensor.norm_change for tensor in self.tensors))

    @property
    def norm_a(self) -> float:
        """||A||_2 over all tensors that both have."""
        return math.hypot(*(tensor.norm_a for tensor in self.tensors))

    @property
    def max_change(self) -> float:
        """The largest |B - A|."""
        return max((tensor.max_change for tensor in self.tensors), default=0.0)

    @property
    def masks(self) -> str:
        """How the zeros of all compared tensors together lie: equal, B in A, A in B, neither."""
        found = {tensor.masks for tensor in self.tensors} - {"", "equal"}
        return "equal" if not found else found.pop() if len(found) == 1 else "neither"

    @property
    def verdict(self) -> str:
        """One sentence: "B is A with 188,340 weights zeroed; nothing else changed."."""
        if not any(tensor.is_paired for tensor in self.tensors):
            n_a = sum(tensor.shape_a is not None for tensor in self.tensors)
            n_b = sum(tensor.shape_b is not None for tensor in self.tensors)
            return f"A ({_many(n_a, 'tensor')}) and B ({_many(n_b, 'tensor')}) have nothing to compare."
        if self.is_same:
            n = _many(self.total("n"), "number")
            return f"A and B are the same: {_many(len(self.tensors), 'tensor')}, {n}, bit for bit."
        parts = list(self._parts())
        return f"B is A with {'; '.join(parts)}; nothing else changed."

    def _parts(self) -> Iterator[str]:
        if n := self.total("n_gained"):
            yield f"{_many(n, 'weight')} zeroed"
        if n := self.total("n_lost"):
            yield f"{_many(n, 'zero')} come back"
        if n := sum(tensor.n_kept_changed for tensor in self.tensors if tensor.is_float):
            yield f"{_many(n, 'kept weight')} changed"
        if n := self.total("n_resigned"):
            yield f"the sign of {_many(n, 'zero')} changed"
        if n := sum(tensor.status == "changed" and not tensor.is_float for tensor in self.tensors):
            yield f"{_many(n, 'tensor')} of no floating dtype changed"
        if n := sum(tensor.is_paired and tensor.dtype_a != tensor.dtype_b for tensor in self.tensors):
            yield f"{_many(n, 'tensor')} stored in another dtype"
        for status in ("another shape", "another dtype"):
            if n := sum(tensor.status == status for tensor in self.tensors):
                yield f"{_many(n, 'tensor')} of {status}, not compared"
        for status in ("unreadable, not compared", "only in A", "only in B"):
            if n := sum(status.startswith(tensor.status) for tensor in self.tensors):
                yield f"{_many(n, 'tensor')} {status}"

    def values(self) -> dict[str, Any]:
        """JSON-able; numbers that JSON cannot say (an overflow) are None."""
        counts = [name for name in TensorDifference.__dataclass_fields__ if name.startswith("n_")]
        totals = {
            "n": self.total("n"),
            **{name: self.total(name) for name in counts},
            "norm_a": self.norm_a,
            "norm_change": self.norm_change,
            "max_change": self.max_change,
            "masks": self.masks,
        }
        return {
            "format": "secateurs.difference/1",
            "a": self.a,
            "b": self.b,
            "is_same": self.is_same,
            "verdict": self.verdict,
            "totals": _sayable(totals),
            "tensors": [_sayable(tensor.values()) for tensor in self.tensors],
        }


def diff(a: "str | os.PathLike[str] | nn.Module", b: "str | os.PathLike[str] | nn.Module") -> Difference:
    """What changed from `a` to `b`; each is anything that `open_checkpoint` takes.

    Nothing is loaded: both are read once, tensor by tensor, each in pieces by all threads.
    """
    with ExitStack() as stack:
        one, two = stack.enter_context(open_checkpoint(a)), stack.enter_context(open_checkpoint(b))
        tensors = [_tensor(name, one, entry_a, two, entry_b) for name, entry_a, entry_b in _paired(one, two)]
    return Difference(_name(a), _name(b), tuple(tensors))


def _name(source: Any) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else type(source).__name__


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _sayable(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _paired(a: Checkpoint, b: Checkpoint) -> Iterator[tuple[str, Entry | None, Entry | None]]:
    """Every stored tensor of A with the one of B that has one of its names, then those that only B has.

    A tensor that is tied in A and stored twice in B is compared with both.
    """
    in_b = {name: entry for entry in b.entries for name in entry.names}
    met: set[str] = set()
    for entry in a.entries:
        found = {in_b[name].name: name for name in reversed(entry.names) if name in in_b}
        for name in reversed(found.values()):
            yield name, entry, in_b[name]
        if not found:
            yield entry.name, entry, None
        met.update(found)
    for entry in b.entries:
        if entry.name not in met:
            yield entry.name, None, entry


def _is_comparable(a: Entry, b: Entry) -> bool:
    return a.shape == b.shape and (a.dtype == b.dtype or _is_float(a, b))


def _is_float(a: Entry, b: Entry) -> bool:
    return a.dtype in KINDS and b.dtype in KINDS


def _tensor(name: str, one: Checkpoint, a: Entry | None, two: Checkpoint, b: Entry | None) -> TensorDifference:
    """What changed in one pair."""
    if a is None or b is None:
        status = "only in B" if a is None else "only in A"
        return TensorDifference(name, status, **_kept(a, "a"), **_kept(b, "b"))
    if one.unreadable(a) or two.unreadable(b):
        return TensorDifference(name, "unreadable", **_kept(a, "a"), **_kept(b, "b"))
    if not _is_comparable(a, b):
        status = "another shape" if a.shape != b.shape else "another dtype"
        return TensorDifference(name, status, **_kept(a, "a"), **_kept(b, "b"))
    stored_a, stored_b = one.stored(a), two.stored(b)
    starts = range(0, stored_a.size, CHUNK)
    pieces = spread(_measure, [_Chunk(stored_a, stored_b, a.dtype, b.dtype, start) for start in starts])
    counts: dict[str, Any] = {count: sum(piece.counts[i] for piece in pieces) for i, count in enumerate(_COUNTS)}
    is_changed = any(counts[count] for count in _CHANGES)
    return TensorDifference(
        name,
        "changed" if is_changed else "same",
        **_kept(a, "a"),
        **_kept(b, "b"),
        n=a.n,
        is_float=_is_float(a, b),
        **counts,
        norm_a=math.sqrt(sum(piece.square_a for piece in pieces)),
        norm_change=math.sqrt(sum(piece.square_change for piece in pieces)),
        max_change=max((piece.max_change for piece in pieces), default=0.0),
    )


def _kept(entry: Entry | None, side: str) -> dict[str, Any]:
    return {} if entry is None else {f"shape_{side}": entry.shape, f"dtype_{side}": entry.dtype}


_CHANGES = ("n_gained", "n_lost", "n_kept_changed", "n_resigned")
_COUNTS = ("n_zero_a", "n_zero_b", *_CHANGES, "n_nonfinite_a", "n_nonfinite_b")
_KEPT_CHANGED = _COUNTS.index("n_kept_changed")


@dataclass(frozen=True)
class _Chunk:
    """Some items of a pair of tensors, from `start` on."""

    a: Stored
    b: Stored
    dtype_a: str
    dtype_b: str
    start: int


@dataclass(frozen=True)
class _Piece:
    """What was found in a chunk."""

    counts: tuple[int, ...]
    square_a: float
    square_change: float
    max_change: float


def _measure(chunk: _Chunk) -> _Piece:
    """Count and sum a chunk, block after block."""
    n, x = np.zeros(len(_COUNTS), np.int64), np.zeros(3)
    stop = min(chunk.start + CHUNK, chunk.a.size)
    for start in range(chunk.start, stop, BLOCK):
        a, b = (side[start : min(start + BLOCK, stop)] for side in (chunk.a, chunk.b))
        if chunk.dtype_a not in KINDS:
            differs = a != b
            if chunk.dtype_a == "C128":  # stored as bytes
                differs = differs.reshape(-1, 16).any(axis=1)
            n[_KEPT_CHANGED] += np.count_nonzero(differs)
            continue
        with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
            p, q = KINDS[chunk.dtype_a].values(a), KINDS[chunk.dtype_b].values(b)
        # Bits where they can be: two NaN are not equal, and need not be the same NaN.
        if chunk.dtype_a == chunk.dtype_b:
            n[_KEPT_CHANGED] += np.count_nonzero(a != b)
        else:
            is_nan = np.isnan(p) & np.isnan(q)
            n[_KEPT_CHANGED] += np.count_nonzero((p.view(np.uint64) != q.view(np.uint64)) & ~is_nan)
        _count(p, q, n)
        _sum(p, q, x)
    return _Piece(tuple(n.tolist()), *x.tolist())


@njit(nogil=True, cache=True)
def _count(p: Stored, q: Stored, n: Stored) -> None:
    """Add to the counts `n`, in the order of _COUNTS, of all that differ; then zero what is not finite in both."""
    zero_a = zero_b = zero_both = resigned = wild_a = wild_b = np.int64(0)
    for i in range(p.size):
        is_zero_a, is_zero_b = p[i] == 0.0, q[i] == 0.0
        zero_a += np.int64(is_zero_a)
        zero_b += np.int64(is_zero_b)
        zero_both += np.int64(is_zero_a & is_zero_b)
        wild_a += np.int64(not abs(p[i]) <= LARGEST)
        wild_b += np.int64(not abs(q[i]) <= LARGEST)
    if zero_both:
        for i in range(p.size):
            resigned += np.int64((p[i] == 0.0) & (q[i] == 0.0) & (np.signbit(p[i]) != np.signbit(q[i])))
    if wild_a + wild_b:
        for i in range(p.size):
            if not (abs(p[i]) <= LARGEST and abs(q[i]) <= LARGEST):
                p[i] = q[i] = 0.0
    gained, lost = zero_b - zero_both, zero_a - zero_both
    for j, found in enumerate((zero_a, zero_b, gained, lost, -gained - lost - resigned, resigned, wild_a, wild_b)):
        n[j] += found


# All numbers are finite here, and may be summed in any order, so that the loop is vectorised.
@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "nnan"})
def _sum(p: Stored, q: Stored, x: Stored) -> None:
    """Add to `x`: sum A^2, sum (B - A)^2; raise its third to max |B - A|."""
    square_a = square_change = most = 0.0
    for i in range(p.size):
        change = abs(q[i] - p[i])
        square_a += p[i] * p[i]
        square_change += change * change
        most = change if change > most else most
    x[0] += square_a
    x[1] += square_change
    x[2] = max(x[2], most)
