"""Seconds: how long two things take, side by side in one run."""

import time
from collections.abc import Callable

from secateurs.measure.intervals import Interval, paired_ratio


def side_by_side(
    first: Callable[[], object], second: Callable[[], object], n_pairs: int = 40, warmup: int = 3
) -> tuple[list[float], list[float], Interval]:
    """Seconds of n_pairs interleaved calls of each, and the ratio first / second with its interval.

    The order within a pair alternates, so that a drift of the machine's speed cannot favour one.
    """
    for _ in range(warmup):
        first()
        second()
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(n_pairs):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (first, second)[which]()
            seconds[which].append(time.perf_counter() - start)
    return seconds[0], seconds[1], paired_ratio(seconds[0], seconds[1])
