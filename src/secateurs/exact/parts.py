"""Parts: what one layer brings to a choice, in pieces that are read as often as needed and never gathered."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from secateurs.exact.kernels import collect, count
from secateurs.exact.kinds import Kind, Stored, signed
from secateurs.exact.threads import n_threads, spread

PIECE = 1 << 20  # scores in one piece, for one thread
BLOCK = 1024  # scores in one block of a sample: a page of float32, so that sampling does not read a whole file
ROOM = 1 << 21  # different scores that one scan remembers exactly
GROUP = 256  # of them stand for one where that is not enough

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Inside:
    """What a scan found of a part in a bracket of values.

    n_below       scores below the bracket
    keys, counts  the different keys inside, ascending, and how often each occurs
    error         0, or where there were too many: keys stand for themselves and some of the smaller ones, so that
                  up to this many of those that `n_upto` leaves out may be at most the value
    """

    kind: Kind
    n_below: int
    keys: Stored
    counts: Counts
    is_finite: bool
    error: int = 0

    def n_upto(self, value: float) -> int:
        """How many scores are at most `value`, a number of the bracket."""
        return self.n_below + int(self.counts[: np.searchsorted(self.keys, self.kind.key_upto(value), "right")].sum())

    def n_at(self, value: float) -> int:
        """How many scores equal `value`."""
        return self.n_upto(value) - self.n_upto(np.nextafter(value, -1.0))

    @property
    def n(self) -> int:
        """How many scores are in the bracket or below it."""
        return self.n_below + int(self.counts.sum())


@dataclass(frozen=True)
class Part:
    """The scores of one layer; their sign bit is not looked at.

    pieces  gives them anew each time it is called: arrays of the kind's storage, together n scores
    """

    kind: Kind
    n: int
    pieces: Callable[[], Iterable[Stored]]

    @classmethod
    def of(cls, kind: Kind, stored: Stored) -> "Part":
        """A part that stands in one array, (n,) of the kind's storage."""
        return cls(kind, stored.size, lambda: map(aligned, split(stored)))

    def sample(self, every: int) -> list[Floats]:
        """A block of neighbouring scores out of `every` scores."""
        found: list[Floats] = []
        n_seen = 0
        for piece in self.pieces():
            for start in range(-n_seen % every, piece.size, every):
                block = piece[start : start + BLOCK] & self.kind.storage.type(self.kind.mask)
                found.append(self.kind.values(block))
            n_seen += piece.size
        return found

    def scan(self, low: float, high: float) -> Inside:
        """Count what is below `low` and gather what lies in [low, high], in one pass."""
        kind = self.kind
        first, last = kind.key_from(low), kind.key_upto(high)
        pieces = iter(self.pieces())
        found = Inside(kind, 0, np.zeros(0, signed(np.zeros(0, kind.storage)).dtype), np.zeros(0, np.int64), True)
        while batch := list(islice(pieces, 4 * n_threads())):
            looks = spread(lambda piece: _look(kind, piece, first, last), batch)
            found = _thinned(_together([found, *looks]))
        return found

    def n_not_finite(self) -> int:
        """How many scores are infinite or NaN."""
        kind = self.kind
        below = spread(
            lambda piece: count(signed(piece), kind.key(kind.mask), kind.key(kind.n_finite))[0], self.pieces()
        )
        return self.n - sum(below)


def split(stored: Stored, size: int = 0) -> list[Stored]:
    """An array as views of at most `size` weights, by default PIECE."""
    size = size or PIECE
    return [stored[start : start + size] for start in range(0, stored.size, size)]


def aligned(stored: Stored) -> Stored:
    """The same where its memory is aligned, as the kernels need it, else a copy; files may hold tensors anywhere."""
    return stored if stored.flags.aligned else stored.copy()


def _look(kind: Kind, piece: Stored, first: int, last: int) -> Inside:
    found = np.empty(piece.size, signed(piece).dtype)
    n_below, n_found, largest = collect(signed(piece), kind.key(kind.mask), kind.key(first), kind.key(last), found)
    keys, counts = np.unique(found[:n_found], return_counts=True)
    return Inside(kind, n_below, keys, counts, largest < kind.n_finite)


def _together(found: list[Inside]) -> Inside:
    """What several scans of one part found, as one."""
    keys = np.concatenate([each.keys for each in found])
    order = keys.argsort(kind="stable")
    keys, counts = keys[order], np.concatenate([each.counts for each in found])[order]
    if keys.size:
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        keys, counts = keys[starts], np.add.reduceat(counts, starts)
    n_below, error = sum(each.n_below for each in found), sum(each.error for each in found)
    return Inside(found[0].kind, n_below, keys, counts, all(each.is_finite for each in found), error)


def _thinned(found: Inside) -> Inside:
    """The same where there is room for it, else the last of every GROUP keys for them all."""
    if found.keys.size <= ROOM:
        return found
    starts = np.arange(0, found.keys.size, GROUP)
    counts = np.add.reduceat(found.counts, starts)
    keys = found.keys[np.minimum(starts + GROUP, found.keys.size) - 1]
    return Inside(found.kind, found.n_below, keys, counts, found.is_finite, found.error + int(counts.max()))
