"""Intervals: of a share (Wilson's), of a mean over seeds (Student's t), of a median of paired ratios (bootstrap)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom (any statistics table).
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)

LEAST = 6  # 2 * 0.5**6 is 3 %: how often all lie on one side of the median


@dataclass(frozen=True)
class Interval:
    """An estimate from n values with its 95 % interval; unbounded where n = 1."""

    mean: float
    low: float
    high: float
    n: int

    def within(self, least: float, most: float) -> "Interval":
        """The same with bounds that the quantity cannot pass; an unbounded interval stays so."""
        if self.n == 1:
            return self
        return Interval(self.mean, max(self.low, least), min(self.high, most), self.n)

    def values(self) -> dict[str, float | None]:
        """JSON-able; None for a bound that one value cannot give."""
        low = self.low if math.isfinite(self.low) else None
        high = self.high if math.isfinite(self.high) else None
        return {"mean": self.mean, "low": low, "high": high, "n_seeds": self.n}


def half_width(values: Mapping[str, float | None]) -> float | None:
    """Of what `Interval.values` gave: the side that no bound cut short; None where there is no interval."""
    mean, low, high = values["mean"], values["low"], values["high"]
    return None if mean is None or low is None or high is None else max(high - mean, mean - low)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share of n examples, honest near 0 and 1 too. Wilson 1927."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959963984540054
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def over_seeds(values: Sequence[float], resolution: float = 0.0) -> Interval:
    """Mean and Student's t interval of one value per seed.

    resolution  the least the half-width may be: one example of n for an accuracy, since equal values of a few seeds
                do not make it certain

    The interval is about seeds; when all are tested on the same examples, the choice of those is not in it.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = max(resolution, (_T[n - 2] if n - 2 < len(_T) else 1.96 + 2.6 / (n - 1)) * spread / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired_ratio(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Interval:
    """Median of first[i] / second[i] with a bootstrap interval over the pairs; of fewer than LEAST unbounded.

    No interval of the median within the smallest and the largest of so few ratios holds it 95 times in 100.
    """
    ratios = np.asarray(first) / np.asarray(second)
    if len(ratios) < LEAST:
        return Interval(float(np.median(ratios)), 0.0, math.inf, len(ratios))
    picks = np.random.default_rng(seed).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return Interval(float(np.median(ratios)), float(low), float(high), len(ratios))
