"""Parts: what one layer brings to a choice, in pieces that are read as often as needed and never gathered."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.exact.kernels import collect, count
from secateurs.exact.kinds import Kind, Stored, signed
from secateurs.exact.threads import n_threads, spread

PIECE = 1 << 20  # scores in one piece, for one thread
BLOCK = 1024  # scores in one block of a sample: a page of float32, so that sampling does not read a whole file
GROUP = 256  # of them stand for one where that is not enough
MUCH = 8  # one of so many scores of a piece inside is so much that equal ones are counted at once

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Inside:
    """What a scan found of a part in a bracket of values.

    n_below     scores below the bracket
    keys, upto  the keys inside, ascending, and how many scores of the bracket the first 0, 1, 2, ... of them are
    error       0, or where there were too many: keys stand for themselves and some of the smaller ones, so that
                up to this many of those that `n_upto` leaves out may be at most the value
    """

    kind: Kind
    n_below: int
    keys: Stored
    upto: Counts
    is_finite: bool
    error: int = 0

    def n_upto(self, keys: Counts) -> Counts:
        """How many scores have at most each of some keys, which stand for numbers of the bracket."""
        return self.n_below + self.upto[self.keys.searchsorted(keys.astype(self.keys.dtype), "right")]


@dataclass(frozen=True)
class Part:
    """The scores of one layer; their sign bit is not looked at.

    pieces  gives them anew each time it is called: arrays of the kind's storage, together n scores
    block   neighbours that a sample takes together: few where neighbours are nearly equal
    """

    kind: Kind
    n: int
    pieces: Callable[[], Iterable[Stored]]
    block: int = 0

    @property
    def sample_block(self) -> int:
        """Neighbours in one block of a sample, by default BLOCK."""
        return self.block or BLOCK

    @classmethod
    def of(cls, kind: Kind, stored: Stored) -> "Part":
        """A part that stands in one array, (n,) of the kind's storage."""
        return cls(kind, stored.size, lambda: map(aligned, split(stored)))

    def sample(self, sparse: int, n_before: int) -> list[Stored]:
        """The keys of one block out of `sparse` blocks, where n_before scores of other parts come first.

        returns  arrays of (blocks, neighbours)
        """
        size, mask = self.sample_block, self.kind.storage.type(self.kind.mask)
        every = sparse * size
        found: list[Stored] = []
        for piece in self.pieces():
            start = -n_before % every
            end = start + max(0, piece.size - start) // every * every
            found.append(signed(piece[start:end].reshape(-1, every)[:, :size] & mask))
            if end < piece.size:
                found.append(signed(piece[None, end : end + size] & mask))
            n_before += piece.size
        return found

    def scan(self, low: float, high: float, room: int) -> Inside:
        """Count what is below `low` and gather what lies in [low, high], in one pass.

        room  how many different scores may be remembered exactly
        """
        kind = self.kind
        first, last = kind.key_from(low), kind.key_upto(high)
        pieces = iter(self.pieces())
        found = Inside(kind, 0, signed(np.zeros(0, kind.storage)), np.zeros(1, np.int64), True)
        looks: list[_Look] = []
        while batch := list(islice(pieces, 4 * n_threads())):
            looks += spread(lambda piece: _look(kind, piece, first, last), batch)
            if sum(each.keys.size for each in looks) > room:
                found, looks = _thinned(_with(found, looks, room), room), []
        return _thinned(_with(found, looks, room), room)

    def n_not_finite(self) -> int:
        """How many scores are infinite or NaN."""
        kind = self.kind
        below = spread(
            lambda piece: count(signed(piece), kind.key(kind.mask), kind.key(kind.n_finite))[0], self.pieces()
        )
        return self.n - sum(below)


def split(stored: Stored, whole: int = 1) -> list[Stored]:
    """An array as views of about PIECE weights, whole runs of `whole`; equal ones, so that threads end together."""
    n_runs, n = -(-stored.size // whole), n_threads()
    n_pieces = -(-stored.size // PIECE)
    n_pieces = -(-n_pieces // n) * n if n_pieces > 1 else 1
    size = max(1, -(-n_runs // n_pieces)) * whole
    return [stored[start : start + size] for start in range(0, stored.size, size)]


def aligned(stored: Stored) -> Stored:
    """The same where its memory is aligned, as the kernels need it, else a copy; files may hold tensors anywhere."""
    return stored if stored.flags.aligned else stored.copy()


@dataclass(frozen=True)
class _Look:
    """What is in one piece; where it is much, counts say how often each key occurs, else it stands there as often."""

    n_below: int
    keys: Stored
    counts: Counts | None
    is_finite: bool


def _look(kind: Kind, piece: Stored, first: int, last: int) -> _Look:
    found = np.empty(piece.size, signed(piece).dtype)
    low, high, end = kind.key(first), kind.key(last), kind.key(kind.n_finite)
    n_below, n_found, is_finite = collect(signed(piece), kind.key(kind.mask), low, high, end, found)
    if n_found > piece.size // MUCH:
        return _Look(n_below, *_counted(found[:n_found]), is_finite)
    return _Look(n_below, found[:n_found].copy(), None, is_finite)


def _with(found: Inside, looks: list[_Look], room: int) -> Inside:
    """What is known of a part, and what was seen of it since; equal keys are one where there is no room for them."""
    every = [each for each in looks if each.keys.size]
    keys, upto = found.keys, found.upto
    if every:
        both = np.concatenate([keys, *(each.keys for each in every)])
        if keys.size or both.size > room or any(each.counts is not None for each in every):
            ones = (np.ones(each.keys.size, np.int64) if each.counts is None else each.counts for each in every)
            keys, counts = _counted(both, np.concatenate([np.diff(upto), *ones]))
            upto = np.append(0, counts.cumsum())
        else:
            keys, upto = np.sort(both, kind=_how(both)), np.arange(both.size + 1)
    n_below = found.n_below + sum(each.n_below for each in looks)
    is_finite = found.is_finite and all(each.is_finite for each in looks)
    return Inside(found.kind, n_below, keys, upto, is_finite, found.error)


def _how(keys: Stored) -> Any:
    """The fast way of numpy to sort: one for small integers, another for large ones."""
    return "stable" if keys.itemsize <= 2 else None


def _counted(keys: Stored, counts: Counts | None = None) -> tuple[Stored, Counts]:
    """The different ones of some keys, ascending, and how often each occurs; `counts` says so of those given."""
    if counts is None:
        keys = np.sort(keys, kind=_how(keys))
    else:
        order = keys.argsort(kind="stable")
        keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    n = np.diff(starts, append=keys.size) if counts is None else np.add.reduceat(counts, starts)
    return keys[starts], n


def _thinned(found: Inside, room: int) -> Inside:
    """The same where there is room for it, else the last of every GROUP keys for them all."""
    if found.keys.size <= room:
        return found
    # Groups of about as many scores, not keys, so that a number that is very common ends its group and costs no error.
    share = -(-int(found.upto[-1]) * GROUP // found.keys.size)
    ends = np.flatnonzero(np.append(np.diff(found.upto[:-1] // share), 1))
    upto = np.append(0, found.upto[1:][ends])
    return Inside(found.kind, found.n_below, found.keys[ends], upto, found.is_finite, found.error + share)
