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
GROUP = 256  # of them stand for one where that is not enough

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Inside:
    """What a scan found of a part in a bracket of values.

    n_below     scores below the bracket
    keys, upto  the different keys inside, ascending, and how many scores of the bracket are at most each
    error       0, or where there were too many: keys stand for themselves and some of the smaller ones, so that
                up to this many of those that `n_upto` leaves out may be at most the value
    """

    kind: Kind
    n_below: int
    keys: Stored
    upto: Counts
    is_finite: bool
    error: int = 0

    def n_upto(self, value: float) -> int:
        """How many scores are at most `value`, a number of the bracket."""
        place = int(self.keys.searchsorted(self.kind.key(self.kind.key_upto(value)), "right"))
        return self.n_below + (int(self.upto[place - 1]) if place else 0)

    def n_at(self, value: float) -> int:
        """How many scores equal `value`."""
        return self.n_upto(value) - self.n_upto(np.nextafter(value, -1.0))


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
        found = Inside(kind, 0, np.zeros(0, signed(np.zeros(0, kind.storage)).dtype), np.zeros(0, np.int64), True)
        while batch := list(islice(pieces, 4 * n_threads())):
            found = _thinned(_with(found, spread(lambda piece: _look(kind, piece, first, last), batch)), room)
        return found

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


def _look(kind: Kind, piece: Stored, first: int, last: int) -> Inside:
    """What is in one piece."""
    found = np.empty(piece.size, signed(piece).dtype)
    low, high, end = kind.key(first), kind.key(last), kind.key(kind.n_finite)
    n_below, n_found, is_finite = collect(signed(piece), kind.key(kind.mask), low, high, end, found)
    keys = np.sort(found[:n_found])
    ends = np.flatnonzero(keys[1:] != keys[:-1])
    ends = np.append(ends, n_found - 1) if n_found else ends
    return Inside(kind, n_below, keys[ends], ends + 1, is_finite)


def _with(found: Inside, looks: list[Inside]) -> Inside:
    """What is known of a part, and what was seen of it since."""
    every = [each for each in (found, *looks) if each.keys.size]
    keys, upto = found.keys, found.upto
    if every:
        both = np.concatenate([each.keys for each in every])
        if all(each.upto[-1] == each.keys.size for each in every):  # all different, as nearly always
            both.sort()
            ends = np.append(np.flatnonzero(both[1:] != both[:-1]), both.size - 1)
            keys, upto = both[ends], ends + 1
        else:
            counts = np.concatenate([np.diff(each.upto, prepend=0) for each in every])
            order = both.argsort(kind="stable")  # a merge, as each is in order
            both = both[order]
            ends = np.append(np.flatnonzero(both[1:] != both[:-1]), both.size - 1)
            keys, upto = both[ends], counts[order].cumsum()[ends]
    n_below = found.n_below + sum(each.n_below for each in looks)
    is_finite = found.is_finite and all(each.is_finite for each in looks)
    return Inside(found.kind, n_below, keys, upto, is_finite, found.error)


def _thinned(found: Inside, room: int) -> Inside:
    """The same where there is room for it, else the last of every GROUP keys for them all."""
    if found.keys.size <= room:
        return found
    before = np.append(0, found.upto[:-1])
    # Groups of about as many scores, not keys, so that a number that is very common ends its group and costs no error.
    share = -(-int(found.upto[-1]) * GROUP // found.keys.size)
    ends = np.flatnonzero(np.append(np.diff(before // share), 1))
    return Inside(found.kind, found.n_below, found.keys[ends], found.upto[ends], found.is_finite, found.error + share)
