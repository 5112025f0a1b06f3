"""Halving: which candidates get more training, and which one is handed over; from what was measured, nothing else.

    promising(tried, goal, n, rungs)  ->  the n shapes that are trained longer, with so many rungs to come
    worth_tuning(tried, goal)  ->  of one shape the way to store it that is worth training for, or None
    best(tried, goal)          ->  the one that meets the goal, or None;    closest(tried, goal) where none does
    front(tried)               ->  those that no other beats in both bytes and accuracy

Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943), with the goal in mind: not the most accurate are kept,
but the smallest that can still be expected to lose little enough.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secateurs.experiments.candidates import EXACT, Candidate

GAIN = 0.4  # share of a drop that three times as much training is expected to leave; it left 0.15 to 0.4 on MNIST
LEFT = 0.5  # share of what rounding costs that training with the values leaves; it left 0.3 to 0.7 on MNIST


@dataclass(frozen=True)
class Goal:
    """What is asked for; None asks for nothing.

    max_drop    of accuracy against the dense network, in [0, 1]
    size_bytes  of the packed file
    latency_s   of one example
    """

    max_drop: float
    size_bytes: float | None = None
    latency_s: float | None = None


@dataclass(frozen=True)
class Tried:
    """One candidate as it was measured.

    epochs      of training while it was pruned
    is_tuned    whether it was then trained on with its values; False: quantized after the training
    drop        validation accuracy of the dense network minus its own
    error       standard error of the drop: both answered the same n examples
    latency_s   seconds of one example, where that was measured
    """

    candidate: Candidate
    epochs: float
    is_tuned: bool
    size_bytes: int
    drop: float
    error: float
    n: int
    latency_s: float | None = None

    @property
    def surely(self) -> float:
        """The drop with one standard error on top: what has to stay below the goal."""
        return self.drop + self.error


def meets(each: Tried, goal: Goal) -> bool:
    """Whether it measurably meets all that is asked."""
    return each.surely <= goal.max_drop and _fits(each, goal)


def best(tried: Iterable[Tried], goal: Goal) -> Tried | None:
    """The smallest that meets the goal; where a size is asked for, the most accurate within it."""
    found = [each for each in tried if meets(each, goal)]
    if goal.size_bytes is None:
        return min(found, key=lambda each: (each.size_bytes, each.drop), default=None)
    return min(found, key=lambda each: (each.drop, each.size_bytes), default=None)


def closest(tried: Iterable[Tried], goal: Goal) -> Tried:
    """The one that misses the goal by least: the sum of what each measure is too large by, as a share of its goal."""

    def missing(each: Tried) -> float:
        total = max(0.0, each.surely - goal.max_drop) / max(goal.max_drop, 1e-3)
        for found, asked in ((each.size_bytes, goal.size_bytes), (each.latency_s, goal.latency_s)):
            if asked is not None:
                total += math.inf if found is None else max(0.0, found / asked - 1.0)
        return total

    return min(tried, key=lambda each: (missing(each), each.size_bytes))


def front(tried: Iterable[Tried]) -> list[Tried]:
    """Those that no other beats in both bytes and drop, smallest first."""
    found: list[Tried] = []
    for each in sorted(tried, key=lambda each: (each.size_bytes, each.drop)):
        if not found or each.drop < found[-1].drop:
            found.append(each)
    return found


def promising(tried: Iterable[Tried], goal: Goal, n: int, rungs: int = 1) -> list[Candidate]:
    """The n candidates, one of each shape, that are trained longer; `rungs` are still to come.

    Of each shape the smallest way to store it that may still come to lose little enough; of these the n - 1 smallest,
    and the smallest that meets the goal already or else loses least, to be on the safe side. Where these are fewer than
    n, others that lose least follow.
    """
    hopeful: dict[Candidate, Tried] = {}
    rest: dict[Candidate, Tried] = {}
    for each in sorted(tried, key=lambda each: each.size_bytes):
        expected = each.drop * (GAIN**rungs if each.drop > 0 else 1.0)
        shape = each.candidate.shape
        if expected <= goal.max_drop and _fits(each, goal):
            hopeful.setdefault(shape, each)
        elif shape not in rest or each.drop < rest[shape].drop:
            rest[shape] = each
    smallest = sorted(hopeful.values(), key=lambda each: each.size_bytes)
    found, left = smallest[: n - 1], smallest[n - 1 :]
    safe = sorted(left, key=lambda each: (not meets(each, goal), each.size_bytes if meets(each, goal) else each.drop))
    others = sorted((each for shape, each in rest.items() if shape not in hopeful), key=lambda each: each.drop)
    return [each.candidate for each in (*found, *safe[:1], *others)][:n]


def worth_tuning(tried: Sequence[Tried], goal: Goal) -> Candidate | None:
    """Of one shape's ways of storing it, the smallest that may lose little enough once it is trained with its values.

    Where a size is asked for: of those that fit the one that loses least. None where training would bring nothing: it
    is exact, or meets the goal as it is.
    """
    exact = next(each.drop for each in tried if each.candidate.values == EXACT)
    hopeful = [
        each for each in tried if _fits(each, goal) and exact + LEFT * max(0.0, each.drop - exact) <= goal.max_drop
    ]
    if goal.size_bytes is not None:
        found = min(hopeful, key=lambda each: (each.drop, each.size_bytes), default=None)
    else:
        found = min(hopeful, key=lambda each: (each.size_bytes, each.drop), default=None)
        if found is not None and meets(found, goal):
            return None
    return None if found is None or found.candidate.values == EXACT else found.candidate


def between(smaller: Candidate, tried: Sequence[Candidate]) -> Candidate | None:
    """A candidate half-way, in density, from this one to the next sparser of its kind, or twice as sparse if none is.

    None where it has no sparsity of its own choosing.
    """
    if smaller.pattern or not smaller.sparsity:
        return None
    alike = [each.sparsity for each in tried if each.student == smaller.student and not each.pattern]
    density = 1.0 - smaller.sparsity
    sparser = [1.0 - s for s in alike if s > smaller.sparsity]
    there = math.sqrt(density * max(sparser)) if sparser else density / 2
    return Candidate(smaller.student, round(1.0 - there, 5), smaller.values)


def _fits(each: Tried, goal: Goal) -> bool:
    fits = goal.size_bytes is None or each.size_bytes <= goal.size_bytes
    return fits and (goal.latency_s is None or (each.latency_s is not None and each.latency_s <= goal.latency_s))
