"""Choosing: which scores of all layers live, exactly, without gathering them.

A sample brackets the smallest score that lives, one pass over everything counts what is below and remembers what is
inside, and the answer is found among those. Only counts are added up, so several processes can share the layers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateurs.errors import InputError
from secateurs.exact.kinds import KINDS, Kind, Stored
from secateurs.exact.parts import BLOCK, Counts, Floats, Inside, Part
from secateurs.exact.ranks import ALONE, Ranks

N_SAMPLE = 30  # scores in a sample, times the root of their number: finding and looking then take about as long
SPARSE = 32  # at most one score out of so many
ROOM = 1 << 21  # different scores near the answer that are remembered exactly, of all parts together
LEAST_ROOM = 4096  # of each part
WAYS = 64  # parts into which a range of numbers is cut, again and again, to find one of them
DEVIATIONS = 3.0  # of the sample's estimate, on either side; a miss costs one pass more and nothing else
WIDER = 4.0  # times as far beside a bracket that missed as the answer is expected


@dataclass(frozen=True)
class Cut:
    """What lives in one layer: n_kept in all, keys above `key` and the first n_ties equal to it, by flat index."""

    key: int
    n_ties: int
    n_kept: int


def choose(
    parts: Mapping[str, Part],
    n_pruned: int,
    n_first: Mapping[str, int] | None = None,
    names: list[str] | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Cut]:
    """The cut of every part, so that n_pruned scores of all parts together go, the smallest.

    n_first  how many of a part's best live whatever the others offer; the rest compete and the total stays exact
    names    of the parts on all ranks; by default those of `parts`

    Among equals the earlier name, then the earlier flat index, lives. InputError where a score is not finite.
    """
    places = {name: i for i, name in enumerate(sorted(parts if names is None else names))}
    first = {name: min((n_first or {}).get(name, 0), part.n) for name, part in parts.items()}
    n_all = int(ranks.sum([sum(part.n for part in parts.values())])[0])
    n_held = int(ranks.sum([sum(first.values())])[0])
    assert 0 <= n_pruned <= n_all - n_held, (n_pruned, n_all, n_held)
    if n_pruned in (0, n_all - n_held):
        for name, part in parts.items():  # nothing is ranked, so nothing else would notice
            if part.n_not_finite():
                raise not_finite(name, part)
        if n_pruned == 0:
            return {name: Cut(-1, 0, part.n) for name, part in parts.items()}
        return {
            name: choose({name: part}, part.n - first[name])[name] if first[name] else Cut(part.kind.mask, 0, 0)
            for name, part in parts.items()
        }
    found, value = _last_survivor(parts, first, n_all, n_pruned, ranks)
    held, room = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64)
    counts = {name: _around(found[name], value) for name in parts}
    for name, part in parts.items():
        n_upto, n_ties = counts[name]
        n_above = part.n - n_upto
        held[places[name]] = max(first[name], n_above)
        room[places[name]] = max(0, n_above + n_ties - held[places[name]])
    held, room = ranks.sum(held), ranks.sum(room)
    before = np.cumsum(room) - room  # ties of earlier names come first
    n_kept = held + np.clip(n_all - n_pruned - held.sum() - before, 0, room)
    cuts = {}
    for name, part in parts.items():
        mine, (n_upto, n_ties) = int(n_kept[places[name]]), counts[name]
        n_spared = mine - (part.n - n_upto)
        if n_spared <= n_ties:
            cuts[name] = Cut(part.kind.key_upto(value), n_spared, mine)
        else:  # its best reach below what the others need
            cuts[name] = choose({name: part}, part.n - mine)[name]
    return cuts


def place_key(part: Part, place: int) -> int:
    """The key at `place` of a part's scores in ascending order, counted from 0."""
    return part.kind.key_upto(_last_survivor({"": part}, {"": 0}, part.n, place, ALONE)[1])


def _last_survivor(
    parts: Mapping[str, Part], first: Mapping[str, int], n_all: int, n_pruned: int, ranks: Ranks
) -> tuple[dict[str, Inside], float]:
    """What was found around the smallest score that lives, and that score."""
    kind = _common(parts, ranks)
    low, high = _bracket(parts, first, n_all, n_pruned, ranks, kind) if n_all > 8 * BLOCK else (0.0, math.inf)

    def n_upto(values: Floats, with_error: bool = False) -> Counts:
        keys = {kind: kind.keys_upto(values) for kind in {part.kind for part in parts.values()}}
        total = np.zeros(values.size, np.int64)
        for name, inside in found.items():
            n = inside.n_upto(keys[inside.kind]) + with_error * inside.error
            total += np.minimum(n, parts[name].n - first[name])
        return ranks.sum(total)

    room, has_missed = max(LEAST_ROOM, ROOM // max(1, len(parts))), False
    while True:
        found = {name: part.scan(low, high, room) for name, part in parts.items()}
        _check_finite(parts, found)
        n_before, n_within = n_upto(np.array([np.nextafter(low, -1.0), high]))
        # How far beside the bracket the answer is to be expected, if scores are as dense there; once, then anywhere.
        width = WIDER * (high - low) / max(1, n_within - n_before)
        if has_missed or not width or n_within == n_before:
            width = math.inf
        if n_before > n_pruned:
            width *= n_before - n_pruned
            high = float(np.nextafter(low, -1.0))
            low, has_missed = max(0.0, high - width), True
        elif n_within <= n_pruned:
            width *= n_pruned + 1 - n_within
            low = float(np.nextafter(high, math.inf))
            high, has_missed = low + width, True
        else:
            value = _smallest(kind, lambda values: n_upto(values) > n_pruned, low, high)
            if not int(ranks.sum([sum(inside.error for inside in found.values())])[0]):
                return found, value
            low, high = _smallest(kind, lambda values: n_upto(values, True) > n_pruned, low, high), value


def _common(parts: Mapping[str, Part], ranks: Ranks) -> Kind:
    """The kind of all parts of all ranks, else float64, which holds the numbers of every kind."""
    kinds = list(KINDS.values())
    n_of = ranks.sum([sum(part.kind == kind for part in parts.values()) for kind in kinds])
    return kinds[int(np.argmax(n_of))] if np.count_nonzero(n_of) == 1 else KINDS["F64"]


def _bracket(
    parts: Mapping[str, Part], first: Mapping[str, int], n_all: int, n_pruned: int, ranks: Ranks, kind: Kind
) -> tuple[float, float]:
    """Values between which the smallest survivor very likely stands, from a sample."""
    sparse = _sparse(n_all)
    samples: list[list[Stored]] = []
    n_before = 0
    for part in parts.values():
        samples.append(part.sample(sparse, n_before))
        n_before += part.n
    # Sorted keys and the share of them that competes: of all parts of a kind together where all do, else of each.
    alike: dict[tuple[Kind, str | None], list[Stored]] = {}
    for (name, part), blocks in zip(parts.items(), samples, strict=True):
        if blocks:
            alike.setdefault((part.kind, name if first[name] else None), []).extend(each.ravel() for each in blocks)
    keys = [
        (kind, np.sort(np.concatenate(blocks)), 1.0 if name is None else 1 - first[name] / max(1, parts[name].n))
        for (kind, name), blocks in alike.items()
    ]
    n_sampled = int(ranks.sum([sum(each.size for _, each, _ in keys)])[0])
    share = n_pruned / n_all

    def n_upto(values: Floats) -> Counts:
        asked = {kind: kind.keys_upto(values) for kind in {kind for kind, _, _ in keys}}
        total = np.zeros(values.size)
        for kind, each, most in keys:
            total += np.minimum(each.searchsorted(asked[kind].astype(each.dtype), "right"), most * each.size)
        return ranks.sum(total)

    def at(place: float) -> float:
        """The score at a place of the sample, counted from 0."""
        if ranks.n == 1 and len(keys) == 1 and keys[0][2] == 1:
            return keys[0][0].value(int(keys[0][1][int(place)]))
        return _smallest(kind, lambda values: n_upto(values) > place, 0.0, math.inf)

    middle = at(share * n_sampled)
    variances = (
        _variance(blocks, part.kind.key(part.kind.key_upto(middle)))
        for part, blocks in zip(parts.values(), samples, strict=True)
    )
    squares = int(ranks.sum([math.ceil(sum(variances))])[0])
    margin = DEVIATIONS * math.sqrt(squares) + 2
    low = at(share * n_sampled - margin) if share * n_sampled > margin else 0.0
    return low, at(share * n_sampled + margin) if share * n_sampled + margin < n_sampled else math.inf


def _sparse(n_all: int) -> int:
    """Of how many blocks one is sampled."""
    return max(SPARSE, round(math.sqrt(n_all) / N_SAMPLE))


def _variance(blocks: list[Stored], key: Any) -> float:
    """Of the number of a part's sampled keys that are at most `key`; neighbours resemble each other, so a block counts
    as one draw. How parts differ does not matter, as each is sampled in proportion."""
    sizes = np.array([each.shape[1] for each in blocks for _ in each], np.int64)
    if not sizes.size:
        return 0.0
    is_less = np.concatenate([each.ravel() for each in blocks]) <= key
    counts = np.add.reduceat(is_less, sizes.cumsum() - sizes, dtype=np.int64)
    share = counts.sum() / is_less.size
    alone = float(is_less.size * share * (1 - share))  # if scores were drawn one by one
    if counts.size < 2:
        return 4 * alone
    # The last block of a piece may be short, and is no odd one for that.
    squares = np.square(counts - share * sizes).sum()
    return max(alone, float(squares * counts.size / (counts.size - 1)))


def _around(inside: Inside, value: float) -> tuple[int, int]:
    """(scores that are at most `value`, those that equal it)."""
    less, upto = inside.n_upto(inside.kind.keys_upto(np.array([np.nextafter(value, -1.0), value]))).tolist()
    return upto, upto - less


def _smallest(kind: Kind, is_enough: Callable[[Floats], Any], low: float, high: float) -> float:
    """The smallest number of a kind in [low, high] of which it is true; `high` where it is true of none below it.

    is_enough  of many numbers at once: all ranks have to meet for an answer
    """
    a, b = kind.key_from(low), kind.key_from(high)
    end = b
    while a < b:
        keys = range(a, b, -(-(b - a) // WAYS))
        n_not = len(keys) - int(np.count_nonzero(is_enough(kind.values(np.array(keys, kind.storage)))))
        b = keys[n_not] if n_not < len(keys) else b
        a = keys[n_not - 1] + 1 if n_not else a
    return high if a == end else kind.value(a)


def _check_finite(parts: Mapping[str, Part], found: Mapping[str, Inside]) -> None:
    for name, inside in found.items():
        if not inside.is_finite:
            raise not_finite(name, parts[name])


def not_finite(name: str, part: Part) -> InputError:
    """The error of weights that have no order."""
    return InputError(
        f"'{name}' holds {part.n_not_finite()} weights of {part.n} that are infinite or not a number: there is no "
        "order to prune by. Look for a diverged training or a broken file."
    )
