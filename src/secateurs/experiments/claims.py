"""Claims: each statement of the story, tested on this run: a number and a verdict.

A claim is a function Facts -> Claim. To add one: write it here and add its line to CLAIMS; the page, the table on
the command line and the docs find it there. A verdict needs its 95 % interval to lie on one side of the bound that
the claim names; with one seed nothing that varies by seed is decided.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateurs.measure.intervals import Interval, over_seeds

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided by this run"
SMALL_LOSS = 0.01  # one percentage point
NAMES = {"cls-head": "CLS head", "ffnn": "FFN"}


@dataclass(frozen=True)
class Claim:
    """One statement, what was measured, and whether it holds here."""

    id: str
    text: str
    verdict: str
    number: str
    detail: str


@dataclass(frozen=True)
class Facts:
    """What the claims look at; lists hold one number per seed.

    tracked        {component: layer}
    initialiser    sentence: how the first weights were drawn
    kurtosis       {component: [excess kurtosis of the first weights]}
    sigma          {component: {"initial" | "trained": [standard deviation]}}
    mean_size      {component: [mean |w| of the trained weights]}
    near_zero      [share of the trained prunable weights within 0.001 of zero]
    survivors      [mean |w| of the survivors of in-loop pruning / of one-shot pruning at the same sparsity]
    survivors_at   that sparsity
    accuracy       {strategy: {sparsity: [test accuracy]}}
    dense          [test accuracy of the dense network with the same training budget]
    stages         {stage id: the stage of the results}
    zeros_alone    sizes and latencies of the dense and the zeroed network
    """

    initialiser: str
    tracked: Mapping[str, str]
    kurtosis: Mapping[str, Sequence[float]]
    sigma: Mapping[str, Mapping[str, Sequence[float]]]
    mean_size: Mapping[str, Sequence[float]]
    near_zero: Sequence[float]
    survivors: Sequence[float]
    survivors_at: float
    accuracy: Mapping[str, Mapping[float, Sequence[float]]]
    dense: Sequence[float]
    stages: Mapping[str, Mapping[str, Any]]
    zeros_alone: Mapping[str, Any]


def bell(facts: Facts) -> Claim:
    """Narrow bell at the start: excess kurtosis near 0 (a uniform has -1.2)."""
    parts = {name: over_seeds(values) for name, values in facts.kurtosis.items()}
    is_bell = [interval.low > -0.5 and interval.high < 0.5 for interval in parts.values()]
    is_flat = [interval.high < -0.9 for interval in parts.values()]
    verdict = HOLDS if all(is_bell) else FAILS if any(is_flat) else OPEN
    sigmas = ", ".join(f"{NAMES[name]} sigma {over_seeds(facts.sigma[name]['initial']).mean:.4f}" for name in parts)
    return Claim(
        "bell",
        "Weights start as a narrow bell around zero.",
        verdict,
        ", ".join(f"{NAMES[name]} excess kurtosis {interval.mean:+.2f}" for name, interval in parts.items()),
        f"A normal bell has 0, a uniform -1.2; holds within 0.5 of 0. {sigmas}. Initialiser: {facts.initialiser}",
    )


def spreads(facts: Facts) -> Claim:
    """Training widens the distribution: ratio of standard deviations above 1."""
    parts = {name: over_seeds(_ratios(sigma["trained"], sigma["initial"])) for name, sigma in facts.sigma.items()}
    return Claim(
        "spreads",
        "Training spreads the weights over a broader range.",
        _all_above(parts.values(), 1.0),
        ", ".join(f"{NAMES[name]} sigma × {interval.mean:.2f}" for name, interval in parts.items()),
        f"Trained sigma over initial sigma, mean of {_seeds(facts.dense)} with 95 % interval: {_intervals(parts)}.",
    )


def spike(facts: Facts) -> Claim:
    """A spike of exact zeros appears in the loop: at least a tenth of both components is exactly zero."""
    layers = facts.stages["in-loop"]["layers"]
    shares = {name: layers[layer]["n_zero"] / layers[layer]["n"] for name, layer in facts.tracked.items()}
    return Claim(
        "spike",
        "Pruned inside the loop, a spike of exact zeros appears.",
        HOLDS if min(shares.values()) >= 0.1 else FAILS,
        ", ".join(f"{NAMES[name]} {share:.1%} exactly zero" for name, share in shares.items()),
        "Exact zeros among the weights of the stage 'pruned inside the training loop'; holds from 10 % in both.",
    )


def survivors_grow(facts: Facts) -> Claim:
    """The survivors of in-loop pruning are larger than as many survivors of pruning once."""
    interval = over_seeds(facts.survivors)
    return Claim(
        "survivors",
        "Inside the loop the remaining connections grow stronger to compensate.",
        _above(interval, 1.0),
        f"mean |w| of the survivors × {interval.mean:.2f}",
        f"In-loop over one-shot at the same {facts.survivors_at:.0%} sparsity, so that the small ones being gone does "
        f"not count as growth; {_seeds(facts.survivors)}, 95 % interval {_interval(interval)}.",
    )


def needs_fine_tuning(facts: Facts) -> Claim:
    """At 90 % sparsity, fine-tuning after pruning once wins back accuracy."""
    s = _nearest(facts, 0.9)
    drop = over_seeds(_differences(facts.dense, facts.accuracy["one-shot"][s]))
    gain = over_seeds(_differences(facts.accuracy["fine-tuned"][s], facts.accuracy["one-shot"][s]))
    where = _first_drop(facts)
    verdict = _all_above([drop, gain], SMALL_LOSS)
    return Claim(
        "fine-tuning",
        "Pruning once after training needs fine-tuning to recover.",
        verdict,
        f"at {s:.0%}: {_points(-drop.mean)} without, {_points(gain.mean - drop.mean)} with fine-tuning",
        f"Against the dense network; fine-tuning gives {_points(gain.mean)} ({_point_interval(gain)}), "
        f"{_seeds(facts.dense)}. {where} Holds where both the loss and the gain exceed one point.",
    )


def heads_are_stronger(facts: Facts) -> Claim:
    """Mean |w| of the head over mean |w| of the hidden layer, above 1."""
    interval = over_seeds(_ratios(facts.mean_size["cls-head"], facts.mean_size["ffnn"]))
    return Claim(
        "heads",
        "Classification heads keep stronger weights than hidden layers.",
        _above(interval, 1.0),
        f"mean |w| of the head is {interval.mean:.2f} × the FFN's",
        f"After training, {_seeds(facts.dense)}, 95 % interval {_interval(interval)}.",
    )


def half_to_nine_tenths(facts: Facts) -> Claim:
    """50, 70 and 90 % can go at a loss of at most one point, by the better retraining strategy."""
    at = [_nearest(facts, s) for s in (0.5, 0.7, 0.9)]
    best = {s: max(RETRAINED, key=lambda strategy: over_seeds(facts.accuracy[strategy][s]).mean) for s in at}
    loss = {s: over_seeds(_differences(facts.dense, facts.accuracy[best[s]][s])) for s in at}
    verdicts = [_above(Interval(-i.mean, -i.high, -i.low, i.n), -SMALL_LOSS) for i in loss.values()]
    verdict = FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS
    return Claim(
        "small-loss",
        "50 to 90 % of the weights can go at a small loss.",
        verdict,
        ", ".join(f"{s:.0%}: {_points(-interval.mean)}" for s, interval in loss.items()),
        "Better of in-loop and fine-tuned against the dense network with the same training budget; at most one point "
        f"counts as small. {_seeds(facts.dense)}; "
        + "; ".join(f"{s:.0%} ({best[s]}): {_point_interval(_negative(i))}" for s, i in loss.items())
        + ".",
    )


def in_loop_wins(facts: Facts) -> Claim:
    """In the loop minus after training with fine-tuning, averaged over the ladder, above 0; same training budget."""
    ladder = sorted(facts.accuracy["in-loop"])
    gaps = {s: _differences(facts.accuracy["in-loop"][s], facts.accuracy["fine-tuned"][s]) for s in ladder}
    mean = over_seeds([sum(column) / len(ladder) for column in zip(*gaps.values(), strict=True)])
    last = over_seeds(gaps[ladder[-1]])
    near = _nearest(facts, 0.9)
    once = over_seeds(_differences(facts.accuracy["in-loop"][ladder[-1]], facts.accuracy["one-shot"][ladder[-1]]))
    return Claim(
        "in-loop-wins",
        "Pruning in the loop beats pruning after training.",
        _above(mean, 0.0),
        f"{_points(over_seeds(gaps[near]).mean)} at {near:.0%}, {_points(last.mean)} at {ladder[-1]:.0%}",
        f"In-loop minus one-shot + fine-tuning, same training budget, over {len(ladder)} sparsities: "
        f"{_points(mean.mean)} on average ({_point_interval(mean)}); "
        f"at {near:.0%} {_point_interval(over_seeds(gaps[near]))}; "
        f"at {ladder[-1]:.0%} {_point_interval(last)}. Against one-shot without fine-tuning "
        f"{_points(once.mean)} ({_point_interval(once)}) at {ladder[-1]:.0%}. {_seeds(facts.dense)}.",
    )


def absolute_tau(facts: Facts) -> Claim:
    """The story's absolute tau takes 50 to 90 % at a loss of at most one point."""
    stage, trained = facts.stages["absolute"], facts.stages["trained"]
    sigmas = [layer["sigma"] for layer in trained["layers"].values() if layer["sigma"] > 0]
    tau = float(stage["tau_value"])
    before, after = trained["accuracy"]["test"], stage["accuracy"]["test"]
    is_small = before["value"] - after["value"] <= SMALL_LOSS
    is_usual = 0.5 <= stage["sparsity"] <= 0.9
    return Claim(
        "absolute-tau",
        f"An absolute tau of {tau:g} is a usable threshold (50 to 90 % gone at a small loss).",
        HOLDS if is_small and is_usual else FAILS,
        f"{stage['sparsity']:.1%} gone; accuracy {before['value']:.1%} → {after['value']:.1%}",
        f"tau = {tau:g} is {tau / max(sigmas):.1f} to {tau / min(sigmas):.1f} sigmas of the layers here. Test accuracy "
        f"of {after['n']} examples, pruned once, not fine-tuned.",
    )


def many_near_zero(facts: Facts) -> Claim:
    """A large share of the trained weights lies within 0.001 of zero: a tenth or more."""
    interval = over_seeds(facts.near_zero)
    return Claim(
        "near-zero",
        "Many trained weights are very close to zero (within ±0.001).",
        _above(interval, 0.1),
        f"{interval.mean:.2%} of the prunable weights",
        f"Holds from 10 % on. {_seeds(facts.near_zero)}, {_point_interval(interval)} points.",
    )


def smaller_on_disk(facts: Facts) -> Claim:
    """The zeros alone make the dense file smaller."""
    size = facts.zeros_alone["size_bytes"]
    return Claim(
        "smaller",
        "The zeros alone make the file smaller.",
        HOLDS if size["zeroed"] < size["dense"] else FAILS,
        f"{size['dense']:,} → {size['zeroed']:,} bytes",
        f"The pruned network ({facts.stages['one-shot']['sparsity']:.1%} zeros) as plain safetensors. A general "
        f"compressor takes the zeroed file to {size['zeroed_deflate']:,} bytes (dense: {size['dense_deflate']:,}).",
    )


def faster(facts: Facts) -> Claim:
    """The zeros alone make the dense network faster."""
    speed = facts.zeros_alone["latency"]
    is_same = speed["low"] <= 1.0 <= speed["high"]
    verdict = OPEN if speed["low"] < 1.02 < speed["high"] else HOLDS if speed["low"] >= 1.02 else FAILS
    return Claim(
        "faster",
        "The zeros alone make the network faster.",
        verdict,
        "no difference" if is_same else f"speed-up × {speed['ratio']:.3f}",
        f"Dense seconds / zeroed seconds, the ordinary dense kernels, median of {speed['n']} interleaved pairs: "
        f"{speed['ratio']:.3f} (95 % interval {speed['low']:.3f} to {speed['high']:.3f}), batch {speed['batch']}, "
        f"{speed['threads']} thread(s). Holds from a gain of 2 % on.",
    )


RETRAINED = ("in-loop", "fine-tuned")
CLAIMS: tuple[Callable[[Facts], Claim], ...] = (
    bell,
    spreads,
    spike,
    survivors_grow,
    needs_fine_tuning,
    heads_are_stronger,
    half_to_nine_tenths,
    in_loop_wins,
    absolute_tau,
    many_near_zero,
    smaller_on_disk,
    faster,
)


def _above(interval: Interval, bound: float) -> str:
    return HOLDS if interval.low > bound else FAILS if interval.high < bound else OPEN


def _all_above(intervals: Any, bound: float) -> str:
    verdicts = [_above(interval, bound) for interval in intervals]
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS


def _negative(interval: Interval) -> Interval:
    return Interval(-interval.mean, -interval.high, -interval.low, interval.n)


def _ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(first, second, strict=True)]


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(first, second, strict=True)]


def _nearest(facts: Facts, s: float) -> float:
    return min(facts.accuracy["one-shot"], key=lambda known: abs(known - s))


def _first_drop(facts: Facts) -> str:
    """The lowest sparsity at which pruning once costs more than one point, seeds' interval considered."""
    for s, values in sorted(facts.accuracy["one-shot"].items()):
        if over_seeds(_differences(facts.dense, values)).low > SMALL_LOSS:
            return f"The loss without it first exceeds one point at {s:.0%}."
    return "At no sparsity measured does the loss without it surely exceed one point."


def _seeds(values: Sequence[float]) -> str:
    return f"{len(values)} seed{'s' if len(values) != 1 else ''}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"


def _point_interval(interval: Interval) -> str:
    if interval.n == 1:
        return "one seed gives no interval"
    return f"95 % interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f}"


def _interval(interval: Interval) -> str:
    return "none from one seed" if interval.n == 1 else f"{interval.low:.2f} to {interval.high:.2f}"


def _intervals(parts: Mapping[str, Interval]) -> str:
    return ", ".join(f"{NAMES[name]} {_interval(interval)}" for name, interval in parts.items())
