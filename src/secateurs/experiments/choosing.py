"""Choosing: which of the candidates that were measured is handed over; from what was measured, nothing else.

best(tried, goal)  ->  the one that meets the goal, or None;    closest(tried, goal) where none does
front(tried)       ->  those that no other beats in both bytes and accuracy
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from secateurs.experiments.candidates import Candidate
from secateurs.measure.drop import error_of, interval_of

ABOUT = 1.01  # times the bytes are no difference: a hundred bytes are not worth a training
KNOWN = 20  # changed answers that are taken as seen before any is: without them the luck of a few would choose
WORSE = 2 / 3  # share of them that were right before; of MNIST's 12,000 0.4 to 0.7 where 1 % changed, 0.6 to 0.8 at 2 %
SURE = 1.2816  # standard errors on top: nine in ten such drops are smaller


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

    epochs      of training while it was pruned, or with its values where nothing is cut; 0: the dense network, as it is
    is_tuned    whether it was trained (on) with its values; False: quantized after the training
    n           validation examples, which the dense network answered, too
    n_lost      of them that only the dense network got right
    n_gained    and only this one
    latency_s   seconds of one example, where that was measured
    """

    candidate: Candidate
    epochs: float
    is_tuned: bool
    size_bytes: int
    n: int
    n_lost: int
    n_gained: int
    latency_s: float | None = None

    @property
    def drop(self) -> float:
        """Validation accuracy of the dense network minus its own."""
        return (self.n_lost - self.n_gained) / self.n

    @property
    def error(self) -> float:
        """Standard error of the drop."""
        return error_of(self.n, self.n_lost, self.n_gained)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the drop, as of every Drop."""
        return interval_of(self.drop, self.error, self.n)

    @property
    def expected(self) -> tuple[float, float]:
        """The drop that is to be expected of other examples, and its standard error: see `expected`."""
        return expected(self.n, self.n_lost, self.n_gained)

    @property
    def surely(self) -> float:
        """What has to stay below the goal: see `surely`."""
        return surely(self.n, self.n_lost, self.n_gained)


def expected(n: int, n_lost: int, n_gained: int) -> tuple[float, float]:
    """(drop, standard error) of a network with such answers, before which KNOWN changed ones were seen.

    How many answers change is well known; which way they change is not, and of the smallest of many networks luck is a
    part.
    """
    changed = n_lost + n_gained
    share, worse = (changed + 1) / (n + 2), (n_lost + WORSE * KNOWN) / (changed + KNOWN)
    down = 2 * worse - 1
    # A product of two shares, each with the variance of a beta distribution.
    of_down, of_share = 4 * worse * (1 - worse) / (changed + KNOWN + 1), share * (1 - share) / (n + 3)
    return share * down, math.sqrt(share**2 * of_down + down**2 * of_share + of_share * of_down)


def surely(n: int, n_lost: int, n_gained: int) -> float:
    """The drop that nine in ten such networks stay below; or, if more, the drop with one standard error on top."""
    drop, error = expected(n, n_lost, n_gained)
    return max(drop + SURE * error, (n_lost - n_gained) / n + error_of(n, n_lost, n_gained))


def meets(each: Tried, goal: Goal) -> bool:
    """Whether it measurably meets all that is asked."""
    return each.surely <= goal.max_drop and fits(each, goal)


def best(tried: Iterable[Tried], goal: Goal) -> Tried | None:
    """The smallest that meets the goal, or one about as small that loses less; with a size, the most accurate in it."""
    found = [each for each in tried if meets(each, goal)]
    if goal.size_bytes is None:
        least = min((each.size_bytes for each in found), default=0)
        found = [each for each in found if each.size_bytes <= ABOUT * least]
    return min(found, key=lambda each: (each.surely, each.size_bytes), default=None)


def closest(tried: Iterable[Tried], goal: Goal) -> Tried:
    """The one that misses the goal by least: the sum of the logarithms of how many times too large each measure is.

    So what nothing can reach, such as a latency of a microsecond, does not outweigh the rest by the noise of its ratio.
    """

    def missing(each: Tried) -> float:
        total = max(0.0, math.log(max(each.surely, 1e-9) / max(goal.max_drop, 1e-3)))
        for found, asked in ((each.size_bytes, goal.size_bytes), (each.latency_s, goal.latency_s)):
            if asked is not None:
                total += math.inf if found is None else max(0.0, math.log(found / asked))
        return total

    return min(tried, key=lambda each: (missing(each), each.size_bytes))


def front(tried: Iterable[Tried]) -> list[Tried]:
    """Those that no other beats in both bytes and drop, smallest first."""
    found: list[Tried] = []
    for each in sorted(tried, key=lambda each: (each.size_bytes, each.drop)):
        if not found or each.drop < found[-1].drop:
            found.append(each)
    return found


def fits(each: Tried, goal: Goal) -> bool:
    """Whether it is as small and as quick as is asked."""
    is_small = goal.size_bytes is None or each.size_bytes <= goal.size_bytes
    return is_small and (goal.latency_s is None or (each.latency_s is not None and each.latency_s <= goal.latency_s))
