"""Racing: what may stand for a part of a network is timed against it, in turn; and what came of it.

    found = race({name: {"dense": layer, "bitmask fp32": packed, ...}}, {name: inputs}, rounds)

All names in turn, round after round: each finds in the caches what the parts before it have left there, as in the
network itself.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from secateurs.measure.intervals import Interval, paired_ratio

ROUNDS, WARM_UP = 15, 2
GROUP = 256 << 20  # bytes of dense weights that are timed together: enough to empty the caches
DENSE, LAYERS = "dense", "layer by layer"  # what stays: of a layer, of a block
Contenders = dict[str, dict[str, Callable[..., object]]]  # {name: {what stays, first; or what may stand for it}}
Given = Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]  # what a part is called with, anew for every call
Seconds = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Choice:
    """What was measured for a layer, or for a whole layer of a transformer, and what came of it.

    shape      (outputs, inputs) of a product: of a convolution, all inputs that one position sees; of a layer of a
               transformer the widths of its wide states and of its states
    n_tokens   rows of its input in the example, or positions of its output
    seconds    {`stays` or what may stand for it: median}
    chosen     one of these names; "" where nothing was timed
    speed_up   of the fastest of these over `stays`, with its interval; None where nothing was timed
    n_bytes    {name: bytes}
    reason     why nothing was timed, or why it stayed
    stays      "dense", or "layer by layer": what stands where nothing is faster
    """

    name: str
    shape: tuple[int, int]
    sparsity: float
    n_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    n_bytes: dict[str, int] = field(default_factory=dict)
    chosen: str = ""
    speed_up: Interval | None = None
    reason: str = ""
    stays: str = DENSE

    @property
    def is_swapped(self) -> bool:
        """Whether something else stands there now."""
        return self.chosen not in ("", self.stays)

    def __str__(self) -> str:
        rows, columns = self.shape
        begun = f"{self.name} ({rows} x {columns}, {self.sparsity:.0%} zeros)"
        if self.speed_up is None:
            return f"{begun}: {self.stays}, {self.reason}"
        times = ", ".join(f"{name} {1e6 * each:.0f} us" for name, each in self.seconds.items())
        ratio = f"{self.speed_up.mean:.2f}x ({self.speed_up.low:.2f} to {self.speed_up.high:.2f})"
        return f"{begun}, {self.n_tokens} tokens: {self.chosen}; {times}; best packed {ratio}"


@dataclass(frozen=True)
class Race:
    """What came of one part.

    seconds   {name: median}
    best      the fastest of what may stand for it
    speed_up  of `best` over what stays, in rounds of their own
    """

    seconds: dict[str, float]
    best: str
    speed_up: Interval

    @property
    def is_won(self) -> bool:
        """Whether it is faster beyond doubt."""
        return self.speed_up.low > 1.0


def race(contenders: Contenders, given: Mapping[str, Given], rounds: int) -> dict[str, Race]:
    """Of each part the fastest; whether it is faster is decided in new rounds, as of many one is lucky."""
    seconds, found = seconds_of(contenders, given, rounds), {}
    again: Contenders = {}
    for name, calls in contenders.items():
        stays, *others = calls
        best = min(others, key=lambda each: median(seconds[name][each]))
        again[name] = {each: calls[each] for each in (stays, best)}
    new = seconds_of(again, given, rounds)
    for name, calls in again.items():
        stays, best = calls
        medians = {each: median(values) for each, values in {**seconds[name], **new[name]}.items()}
        found[name] = Race(medians, best, paired_ratio(new[name][stays], new[name][best]))
    return found


def seconds_of(contenders: Contenders, given: Mapping[str, Given], rounds: int) -> Seconds:
    """Of every call, all parts in turn."""
    seconds: Seconds = {name: {each: [] for each in calls} for name, calls in contenders.items()}
    kinds = sorted(
        {each for calls in contenders.values() for each in calls}, key=lambda each: each not in (DENSE, LAYERS)
    )
    with torch.inference_mode():
        for i in range(WARM_UP + rounds):
            for kind in kinds if i % 2 else reversed(kinds):
                for name, calls in contenders.items():
                    if kind not in calls:
                        continue
                    inputs, named = given[name]()
                    start = time.perf_counter()
                    calls[kind](*inputs, **named)
                    if i >= WARM_UP:
                        seconds[name][kind].append(time.perf_counter() - start)
    return seconds
