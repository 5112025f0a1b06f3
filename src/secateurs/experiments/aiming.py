"""Aiming: which candidates get more training: those at the edge of what the goal allows.

    aimed(tried, goal, epochs, n_steps, shares) -> candidates, the boldest first
    is_hopeless(it, tried, goal, epochs) -> whether less was asked of others, and they are expected to lose too much
    beyond_hope(goal, epochs, last)     ->  the drop from which one of so many epochs is
    worth_tuning(tried, goal, n_steps)  ->  of one shape the way to store it that is worth training for, or None

Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943) with the goal in mind: what a candidate will lose is
guessed from what it lost after less training, and between two sparsities the guess is interpolated, so that the search
comes to the sparsity that the goal allows and not to the next one on a list.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from secateurs.experiments.candidates import EXACT, Candidate
from secateurs.experiments.choosing import SURE, Goal, Tried, fits, meets

LONGER = 3.0  # times as much training leaves a share of a drop, its gain
GAIN = 0.4  # where nothing tells; 0.16 to 0.54 on MNIST, more where less is left
GAINS = (0.2, 0.8)  # what is believed
LEAST = 0.05  # of the weights zeroed, or none: fewer save nothing, and the network would be trained for them
BOLDEST = 1.5  # times the drop that is allowed is what the boldest aim at
# See `left_after`. Of what rounding costs was left: of MiniLM after 30 steps 0.3 to 1.1, on MNIST after 600 to 1,800
# 0.1 to 0.7, after 2,900 to 6,000 -0.2 to 0.25.
LEFT = (0.2, 1.3, 0.3)
NEAR = 1.25  # times the drop that is allowed: what may yet come down to it, where nothing is better worth a training


@dataclass(frozen=True)
class Place:
    """A candidate, and what is expected of it after so much training.

    drop       with the margin on top that makes it sure
    size       log of its bytes
    latency_s  of one example; None where it was not measured
    """

    candidate: Candidate
    drop: float
    size: float
    latency_s: float | None

    @property
    def density(self) -> float:
        """Share of the weights that is left."""
        return 1.0 - self.candidate.sparsity


def aimed(tried: Iterable[Tried], goal: Goal, epochs: float, n_steps: int, shares: Sequence[float]) -> list[Candidate]:
    """One candidate for each share of the drop that is allowed: the smallest expected to lose no more than that.

    epochs   that they will be trained for
    n_steps  of training with their values after it
    shares   above 1: bold; below: on the safe side. Where a size is asked for, those that fit it and are expected to
            lose least instead

    All of different shapes, one after the other of another share of units gone where there are several; where fewer are
    hopeful, those expected to lose least follow.
    """
    lines = _lines(list(tried), epochs, left_after(n_steps))
    if goal.size_bytes is not None:
        most = math.log(goal.size_bytes)
        fitting = [place for line in lines if (place := _within(line, most)) is not None]
        found = sorted((place for place in fitting if _is_quick(place, goal)), key=lambda each: each.drop)
    else:
        found = []
        for share in shares:
            edges = [place for line in lines if (place := _edge(line, share * goal.max_drop)) is not None]
            before = found[-1].candidate.student if found else None
            known = {place.candidate.shape for place in found}
            fitting = [place for place in edges if _is_quick(place, goal) and place.candidate.shape not in known]
            found += sorted(fitting, key=lambda each: (each.candidate.student == before, each.size))[:1]
    by_shape: dict[Candidate, Candidate] = {}
    for place in (*found, *sorted((place for line in lines for place in line), key=lambda each: each.drop)):
        by_shape.setdefault(place.candidate.shape, place.candidate)
    return list(by_shape.values())[: len(shares)]


def is_hopeless(it: Candidate, tried: Iterable[Tried], goal: Goal, epochs: float) -> bool:
    """Whether one of which no more was removed or zeroed is expected to lose more than the boldest could aim at.

    Never where a size or a time is asked for: then what loses too much may still be the closest.
    """
    if goal.size_bytes is not None or goal.latency_s is not None:
        return False
    return any(
        place.candidate.values == EXACT
        and place.candidate.is_cut
        and place.candidate.pattern == it.pattern
        and place.candidate.student <= it.student
        and place.candidate.sparsity <= it.sparsity
        and place.drop > BOLDEST * goal.max_drop
        for line in _lines(list(tried), epochs, 1.0)  # exact values: nothing is rounded
        for place in line
    )


def beyond_hope(goal: Goal, epochs: float, last: float) -> float | None:
    """The drop after so many epochs from which those of the last rung are not expected to come back.

    None where a size or a time is asked for, as in `is_hopeless`.
    """
    if goal.size_bytes is not None or goal.latency_s is not None:
        return None
    rungs = max(0.0, math.log(last / epochs, LONGER))
    return float(BOLDEST * goal.max_drop / GAIN**rungs)


def left_after(n_steps: float) -> float:
    """Share of what rounding costs that so many steps of training with the values leave."""
    least, at_first, by_ten = LEFT
    return min(1.0, max(least, at_first - by_ten * math.log10(max(1.0, n_steps))))


def worth_tuning(tried: Sequence[Tried], goal: Goal, n_steps: int) -> Candidate | None:
    """Of one shape's ways of storing it, the smallest that may lose little enough once it is trained with its values.

    n_steps  of that training

    One of which nothing is cut may be bold: it learns with its values for all of the epochs. Where a size is asked for:
    of those that fit the one that loses least. None where training would bring nothing: it is exact, or meets the goal
    as it is.
    """
    exact, left = next(each.surely for each in tried if each.candidate.values == EXACT), left_after(n_steps)

    def hopeful_within(times: float) -> list[Tried]:
        return [
            each
            for each in tried
            if fits(each, goal)
            and exact + left * max(0.0, each.surely - exact)
            <= goal.max_drop * (max(times, BOLDEST) if not each.candidate.is_cut else times)
        ]

    hopeful = hopeful_within(1.0) or hopeful_within(NEAR)
    if goal.size_bytes is not None:
        found = min(hopeful, key=lambda each: (each.surely, each.size_bytes), default=None)
    else:
        found = min(hopeful, key=lambda each: (each.size_bytes, each.drop), default=None)
        if found is not None and meets(found, goal):
            return None
    return None if found is None or found.candidate.values == EXACT else found.candidate


def gain_of(tried: Sequence[Tried]) -> float:
    """The share of a drop that LONGER times as much training leaves, by what was trained for less and for more.

    The median over those whose drop was measured at a sparsity, and lies between two that were measured after less.
    """
    exact = [each for each in tried if each.candidate.values == EXACT and not each.is_tuned]
    found = []
    for more in exact:
        less = [each for each in exact if _is_alike(each, more) and each.epochs < more.epochs]
        last = max((each.epochs for each in less), default=0.0)
        was = _drop_at(more.candidate.sparsity, [each for each in less if each.epochs in (0.0, last)])
        if last and was is not None and was > 2 * more.error:  # or it is noise
            found.append((max(0.0, more.drop) / was) ** (1.0 / math.log(more.epochs / last, LONGER)))
    return min(max(median(found), GAINS[0]), GAINS[1]) if found else GAIN


def _is_alike(each: Tried, other: Tried) -> bool:
    a, b = each.candidate, other.candidate
    return (a.student, a.pattern) == (b.student, b.pattern)


def _drop_at(sparsity: float, measured: Sequence[Tried]) -> float | None:
    """The drop at a sparsity, between those that were measured; None beyond them."""
    line = sorted(measured, key=lambda each: each.candidate.sparsity)
    if not line or not line[0].candidate.sparsity <= sparsity <= line[-1].candidate.sparsity:
        return None
    at = [-math.log(1.0 - each.candidate.sparsity) for each in line]
    return float(np.interp(-math.log(1.0 - sparsity), at, [each.drop for each in line]))


def _lines(tried: Sequence[Tried], epochs: float, left: float) -> list[list[Place]]:
    """Places that differ in their sparsity alone, the densest first; each by what was measured after most training.

    left  share of what rounding costs that training with the values will leave

    The densest of all is the network as it is, which no training will change.
    """
    gain = gain_of(tried)
    shapes: dict[Candidate, list[Tried]] = defaultdict(list)
    for each in tried:
        shapes[each.candidate.shape].append(each)
    lines: dict[tuple[float, str, str], dict[float, Place]] = defaultdict(dict)
    for measured in shapes.values():
        last = max(each.epochs for each in measured if not each.is_tuned)
        exact = next(each for each in measured if each.candidate.values == EXACT and each.epochs == last)
        # What was trained with its values comes last, and is what counts.
        latest = [each for each in measured if each.epochs >= last]
        for each in sorted(latest, key=lambda each: (each.is_tuned, each.epochs)):
            it = each.candidate
            drop = _expected(each, exact, epochs, gain, left)
            lines[it.student, it.pattern, it.values][it.sparsity] = Place(
                it, drop, math.log(each.size_bytes), each.latency_s
            )
    return [[line[sparsity] for sparsity in sorted(line)] for line in lines.values()]


def _expected(each: Tried, exact: Tried, epochs: float, gain: float, left: float) -> float:
    """What it will surely lose no more than; exact: its shape, not rounded."""
    rungs = math.log(epochs / each.epochs, LONGER) if each.epochs else 0.0
    drop, error = exact.expected
    return (
        drop * float(gain**rungs)
        + SURE * error
        + max(0.0, each.surely - exact.surely) * (1.0 if each.is_tuned else left)
    )


def _edge(line: Sequence[Place], allowed: float) -> Place | None:
    """The sparsest place that is expected to lose no more than allowed."""
    last = max((k for k, place in enumerate(line) if place.drop <= allowed), default=None)
    if last is None:
        return None
    ahead = line[last + 1] if last + 1 < len(line) else _beyond(line)
    if ahead is None:
        return line[last]
    if ahead.drop <= allowed:
        return ahead
    found = _between(line[last], ahead, (allowed - line[last].drop) / (ahead.drop - line[last].drop))
    return found if found.candidate.sparsity >= LEAST else line[last]


def _within(line: Sequence[Place], most: float) -> Place | None:
    """The densest place whose size is at most that."""
    first = next((k for k, place in enumerate(line) if place.size <= most), None)
    if first is None:
        return None
    if first == 0 or line[first].candidate.pattern:
        return line[first]
    # A hair on the sparse side: the guess of a size is good to about as much.
    share = 0.98 * (line[first].size - most) / (line[first].size - line[first - 1].size)
    return _between(line[first], line[first - 1], share)


def _between(place: Place, other: Place, share: float) -> Place:
    """So far on the way from this place to the other; half-way is half-way in the logarithm of density."""
    it = place.candidate
    density = place.density ** (1.0 - share) * other.density**share
    latency_s = place.latency_s
    if latency_s is not None and other.latency_s is not None:
        latency_s += share * (other.latency_s - latency_s)
    return Place(
        Candidate(it.student, round(1.0 - density, 4), it.values, it.pattern),
        place.drop + share * (other.drop - place.drop),
        place.size + share * (other.size - place.size),
        latency_s,
    )


def _beyond(line: Sequence[Place]) -> Place | None:
    """Half as dense as the sparsest that was tried, as the last two lead there; None where there are not two."""
    if len(line) < 2:
        return None
    share = math.log(2.0) / math.log(line[-2].density / line[-1].density)
    return _between(line[-1], line[-2], -share)


def _is_quick(place: Place, goal: Goal) -> bool:
    return goal.latency_s is None or (place.latency_s is not None and place.latency_s <= goal.latency_s)
