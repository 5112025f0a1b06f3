"""Results: what a bench found, and how it is said: a ratio whose interval contains 1 is no difference."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from secateurs.measure.accuracy import Accuracy
from secateurs.measure.intervals import Interval

SCHEMA = "secateurs.bench/1"
Outcome = Literal["timed", "wrong", "failed", "skipped", "not installed"]

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)  # of shapes of layers


@dataclass(frozen=True)
class Latency:
    """One contender at one size.

    tokens   of each example; None where that cannot be chosen
    turns    seconds of the calls of each turn
    speedup  the reference's seconds by these, turn by turn; None for the reference itself
    """

    batch: int
    tokens: int | None
    turns: tuple[tuple[float, ...], ...]
    speedup: Interval | None

    @property
    def size(self) -> str:
        """In print: 8, or 1 × 128 tokens."""
        return size_text(self.batch, self.tokens)

    def quantile(self, share: float) -> float:
        """Seconds that this share of all calls took at most."""
        return float(np.quantile([second for turn in self.turns for second in turn], share))

    @property
    def per_second(self) -> float:
        """Examples per second, or tokens, at the median latency."""
        return self.batch * (self.tokens or 1) / self.quantile(0.5)

    @property
    def is_difference(self) -> bool:
        """Whether the speed-up's interval leaves 1 out."""
        return self.speedup is not None and not self.speedup.low <= 1 <= self.speedup.high

    @property
    def speedup_text(self) -> str:
        """In print."""
        if self.speedup is None:
            return "reference"
        interval = f"{self.speedup.low:.2f} to {self.speedup.high:.2f}"
        return f"{self.speedup.mean:.2f} ({interval})" if self.is_difference else f"no difference ({interval})"

    def values(self) -> dict[str, Any]:
        """JSON-able."""
        ratio = self.speedup
        return {
            "batch": self.batch,
            "tokens": self.tokens,
            "n_calls": sum(map(len, self.turns)),
            **{f"p{percent}_s": self.quantile(percent / 100) for percent in (10, 50, 90)},
            "per_second": self.per_second,
            "turn_medians_s": [statistics.median(turn) for turn in self.turns],
            "is_difference": self.is_difference,
            "speedup": ratio and {"median": ratio.mean, "low": ratio.low, "high": ratio.high, "n_turns": ratio.n},
        }


@dataclass(frozen=True)
class Row:
    """One contender with one model.

    model           which one of the models, from 0
    why             what went wrong, where it was not timed
    load_s          from its files to the first answer, its libraries imported before
    resident_bytes  memory more than before it was opened, after its first answer; mapped weights count
    peak_bytes      the most of it that was seen while it was opened and got ready
    difference      the largest to torch fp32 on the same inputs, as a share of the largest answer
    bound           what of that is right
    choices         {size: what this package decided for each layer}
    """

    model: int
    contender: str
    outcome: Outcome
    why: str
    bound: float
    size_bytes: int | None = None
    load_s: float | None = None
    resident_bytes: int | None = None
    peak_bytes: int | None = None
    difference: float | None = None
    accuracy: Accuracy | None = None
    latencies: tuple[Latency, ...] = ()
    choices: dict[str, list[dict[str, Any]]] | None = None

    def values(self) -> dict[str, Any]:
        """JSON-able."""
        plain = {key: value for key, value in vars(self).items() if key not in ("accuracy", "latencies")}
        return {
            **plain,
            "accuracy": self.accuracy and self.accuracy.values(),
            "latencies": [latency.values() for latency in self.latencies],
        }


@dataclass(frozen=True)
class Model:
    """A network as it was found."""

    path: str
    size_bytes: int
    n_parameters: int
    n_prunable: int
    n_zero: int

    @property
    def sparsity(self) -> float:
        """Zeros among the prunable weights."""
        return self.n_zero / self.n_prunable if self.n_prunable else 0.0


@dataclass(frozen=True)
class Line:
    """Layers of one shape at one size.

    names     the layers
    n_tokens  rows of its input at this size: examples times tokens
    speedups  {sparsity: dense seconds by packed seconds}
    """

    size: str
    shape: tuple[int, int]
    names: tuple[str, ...]
    n_tokens: int
    values: str
    speedups: dict[float, Interval]

    @property
    def break_even(self) -> float | None:
        """The least sparsity tried from which on packed is faster beyond noise; None where it never is."""
        found = None
        for sparsity in sorted(self.speedups, reverse=True):
            if self.speedups[sparsity].low <= 1:
                break
            found = sparsity
        return found

    def as_values(self) -> dict[str, Any]:
        """JSON-able."""
        ratios = {
            f"{sparsity:g}": {"median": each.mean, "low": each.low, "high": each.high}
            for sparsity, each in self.speedups.items()
        }
        plain = {key: value for key, value in vars(self).items() if key != "speedups"}
        return {**plain, "break_even": self.break_even, "speedups": ratios}


@dataclass(frozen=True)
class Bench:
    """Every contender of every model; the first row is the reference of all speed-ups.

    shapes  what layers of the first model's shapes give at each share of zeros, where that was asked for
    """

    models: tuple[Model, ...]
    rows: tuple[Row, ...]
    n_rounds: int
    environment: dict[str, Any]
    shapes: tuple[Line, ...] = ()

    @property
    def timed(self) -> list[Row]:
        """Those with latencies."""
        return [row for row in self.rows if row.outcome == "timed"]

    def values(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "schema": SCHEMA,
            "models": [{**asdict(model), "sparsity": model.sparsity} for model in self.models],
            "reference": f"{self.rows[0].contender} of {self.models[0].path}",
            "n_rounds": self.n_rounds,
            "rows": [row.values() for row in self.rows],
            "shapes": [line.as_values() for line in self.shapes],
            "environment": self.environment,
        }


def size_text(batch: int, tokens: int | None) -> str:
    """A size in print.

    >>> size_text(8, None), size_text(1, 128)
    ('8', '1 × 128 tokens')
    """
    return f"{batch}" if tokens is None else f"{batch} × {tokens} token{'s' if tokens > 1 else ''}"
