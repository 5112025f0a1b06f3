"""Claims: each statement of the story, tested on this run: a number and a verdict.

A claim is a function Facts -> Claim. To add one: write it here and add its line to CLAIMS; the page, the table on
the command line and the docs find it there. A verdict needs its 95 % interval over the seeds to lie on one side of the
bound that the claim names, so one seed decides nothing that varies by seed. Claims about the story's own network (the
spike, the absolute tau) are decided by that network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateurs.measure.intervals import Interval, over_seeds
from secateurs.see.style import COMPONENTS

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided by this run"
SMALL_LOSS = 0.01  # one percentage point


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
    prunable       the layers that the recipe prunes
    initialiser    sentence: how the first weights were drawn
    kurtosis       {component: [excess kurtosis of the first weights]}
    centre         {component: [mean of the first weights, in sigmas]}
    sigma          {component: {"initial" | "trained": [standard deviation]}}
    mean_size      {component: [mean |w| of the trained weights]}
    near_zero      [share of the trained prunable weights within 0.001 of zero]
    survivors      [mean |w| of the survivors of in-loop pruning / of one-shot pruning at the same sparsity]
    survivors_at   that sparsity
    accuracy       {strategy: {sparsity: [test accuracy]}}
    dense          [test accuracy of the dense network, trained as the in-loop ones are]
    n_test         examples behind every accuracy
    stages         {stage id: the stage of the results}
    zeros_alone    sizes and latencies of the dense and the zeroed network
    """

    initialiser: str
    tracked: Mapping[str, str]
    prunable: Sequence[str]
    kurtosis: Mapping[str, Sequence[float]]
    centre: Mapping[str, Sequence[float]]
    sigma: Mapping[str, Mapping[str, Sequence[float]]]
    mean_size: Mapping[str, Sequence[float]]
    near_zero: Sequence[float]
    survivors: Sequence[float]
    survivors_at: float
    accuracy: Mapping[str, Mapping[float, Sequence[float]]]
    dense: Sequence[float]
    n_test: int
    stages: Mapping[str, Mapping[str, Any]]
    zeros_alone: Mapping[str, Any]


def bell(facts: Facts) -> Claim:
    """A bell around zero at the start: excess kurtosis within 0.5 of 0 (a uniform has -1.2), mean within 0.1 sigma."""
    shape = {name: over_seeds(values) for name, values in facts.kurtosis.items()}
    centre = {name: over_seeds(values) for name, values in facts.centre.items()}
    inside = [_within(interval, 0.5) for interval in shape.values()]
    inside += [_within(interval, 0.1) for interval in centre.values()]
    sigmas = ", ".join(
        f"{COMPONENTS[name]} sigma {over_seeds(facts.sigma[name]['initial']).mean:.4f}" for name in shape
    )
    return Claim(
        "bell",
        "Weights start as a narrow bell around zero.",
        _all(inside),
        ", ".join(f"{COMPONENTS[name]} excess kurtosis {interval.mean:+.2f}" for name, interval in shape.items()),
        "A normal bell has 0, a uniform -1.2; holds within 0.5 of 0, with a mean within 0.1 sigma of zero "
        f"({', '.join(f'{COMPONENTS[name]} {interval.mean:+.3f}' for name, interval in centre.items())}). {sigmas}. "
        f"Initialiser: {facts.initialiser}",
    )


def spreads(facts: Facts) -> Claim:
    """Training widens the distribution: ratio of standard deviations above 1."""
    parts = {name: over_seeds(_ratios(sigma["trained"], sigma["initial"])) for name, sigma in facts.sigma.items()}
    return Claim(
        "spreads",
        "Training spreads the weights over a broader range.",
        _all([_above(interval, 1.0) for interval in parts.values()]),
        ", ".join(f"{COMPONENTS[name]} sigma × {interval.mean:.2f}" for name, interval in parts.items()),
        f"Trained sigma over initial sigma, mean of {_seeds(facts.dense)} with 95 % interval: {_intervals(parts)}.",
    )


def spike(facts: Facts) -> Claim:
    """A spike of exact zeros appears in the loop: at least a tenth of each component the recipe prunes is zero."""
    text = "Pruned inside the loop, a spike of exact zeros appears."
    layers = facts.stages["in-loop"]["layers"]
    shares = {
        name: layers[layer]["n_zero"] / layers[layer]["n"]
        for name, layer in facts.tracked.items()
        if layer in facts.prunable
    }
    if not shares:
        return Claim("spike", text, OPEN, "not pruned", "The recipe prunes neither the CLS head nor the FFN.")
    return Claim(
        "spike",
        text,
        HOLDS if min(shares.values()) >= 0.1 else FAILS,
        ", ".join(f"{COMPONENTS[name]} {share:.1%} exactly zero" for name, share in shares.items()),
        "Exact zeros among the weights of the stage 'pruned inside the training loop'; holds from 10 % in each.",
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
    """At 90 % sparsity pruning once costs more than one point, and fine-tuning wins more than one point back."""
    text = "Pruning once after training needs fine-tuning to recover."
    s = _at(facts, 0.9)
    if s is None:
        return _not_measured("fine-tuning", text, "90 %")
    drop = _gap(facts, facts.dense, facts.accuracy["one-shot"][s])
    gain = _gap(facts, facts.accuracy["fine-tuned"][s], facts.accuracy["one-shot"][s])
    return Claim(
        "fine-tuning",
        text,
        _all([_above(drop, SMALL_LOSS), _above(gain, SMALL_LOSS)]),
        f"at {s:.0%}: {_points(-drop.mean)} without, {_points(gain.mean - drop.mean)} with fine-tuning",
        f"Against the dense network, all with the same number of epochs; fine-tuning gives {_points(gain.mean)} "
        f"({_point_interval(gain)}), {_seeds(facts.dense)}. {_first_drop(facts)} Holds where both the loss and the "
        "gain exceed one point.",
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
    """50, 70 and 90 % can go, pruned in the loop, at a loss of at most one point each."""
    text = "50 to 90 % of the weights can go at a small loss."
    at = [_at(facts, s) for s in (0.5, 0.7, 0.9)]
    if None in at:
        return _not_measured("small-loss", text, "50, 70 and 90 %")
    change = {s: _gap(facts, facts.accuracy["in-loop"][s], facts.dense) for s in at if s is not None}
    tuned = {s: _gap(facts, facts.accuracy["fine-tuned"][s], facts.dense) for s in change}
    return Claim(
        "small-loss",
        text,
        _all([_above(interval, -SMALL_LOSS) for interval in change.values()]),
        ", ".join(f"{s:.0%}: {_points(interval.mean)}" for s, interval in change.items()),
        "Pruned in the loop, against the dense network trained alike; at most one point counts as small. "
        f"{_seeds(facts.dense)}: "
        + "; ".join(f"{s:.0%} {_point_interval(interval)}" for s, interval in change.items())
        + ". Pruned once and fine-tuned: "
        + ", ".join(f"{s:.0%} {_points(interval.mean)}" for s, interval in tuned.items())
        + ".",
    )


def in_loop_wins(facts: Facts) -> Claim:
    """In the loop minus after training with fine-tuning, averaged over the ladder, above 0; equally many epochs."""
    ladder = sorted(facts.accuracy["in-loop"])
    loop, tuned = facts.accuracy["in-loop"], facts.accuracy["fine-tuned"]
    means = [
        [sum(column) / len(ladder) for column in zip(*(part[s] for s in ladder), strict=True)] for part in (loop, tuned)
    ]
    mean = _gap(facts, means[0], means[1])
    last = _gap(facts, loop[ladder[-1]], tuned[ladder[-1]])
    once = _gap(facts, loop[ladder[-1]], facts.accuracy["one-shot"][ladder[-1]])
    near = min(ladder, key=lambda s: abs(s - 0.9))
    at_near = _gap(facts, loop[near], tuned[near])
    return Claim(
        "in-loop-wins",
        "Pruning in the loop beats pruning after training.",
        _above(mean, 0.0),
        f"{_points(at_near.mean)} at {near:.0%}, {_points(last.mean)} at {ladder[-1]:.0%}",
        "In-loop (masks follow the schedule and never shrink) minus one-shot + fine-tuning, equally many epochs, over "
        f"{len(ladder)} sparsities: {_points(mean.mean)} on average ({_point_interval(mean)}); at {near:.0%} "
        f"{_point_interval(at_near)}; at {ladder[-1]:.0%} {_point_interval(last)}. Against one-shot untuned: "
        f"{_points(once.mean)} ({_point_interval(once)}) at {ladder[-1]:.0%}. {_seeds(facts.dense)}.",
    )


def absolute_tau(facts: Facts) -> Claim:
    """The story's absolute tau takes 50 to 90 % at a loss of at most one point."""
    stage, trained = facts.stages["absolute"], facts.stages["trained"]
    sigmas = [layer["sigma"] for layer in trained["layers"].values() if layer["sigma"] > 0]
    tau = float(stage["tau_value"])
    before, after = trained["accuracy"]["test"], stage["accuracy"]["test"]
    loss = Interval(
        before["value"] - after["value"], before["value"] - after["high"], before["value"] - after["low"], 2
    )
    is_usual = 0.5 <= stage["sparsity"] <= 0.9
    return Claim(
        "absolute-tau",
        f"An absolute tau of {tau:g} is a usable threshold (50 to 90 % gone at a small loss).",
        _above(_negative(loss), -SMALL_LOSS) if is_usual else FAILS,
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


def _within(interval: Interval, bound: float) -> str:
    """Whether a quantity lies within bound of 0."""
    if -bound < interval.low and interval.high < bound:
        return HOLDS
    return FAILS if interval.low > bound or interval.high < -bound else OPEN


def _all(verdicts: Sequence[str]) -> str:
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS


def _not_measured(name: str, text: str, where: str) -> Claim:
    return Claim(name, text, OPEN, "not measured", f"This run did not measure the trade-off at {where}.")


def _negative(interval: Interval) -> Interval:
    return Interval(-interval.mean, -interval.high, -interval.low, interval.n)


def _ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(first, second, strict=True)]


def _gap(facts: Facts, first: Sequence[float], second: Sequence[float]) -> Interval:
    """first - second, seed by seed: two accuracies on the same examples."""
    return over_seeds([a - b for a, b in zip(first, second, strict=True)], resolution=1 / facts.n_test)


def _at(facts: Facts, s: float) -> float | None:
    """The measured sparsity within 2.5 points of s, if there is one."""
    near = [known for known in facts.accuracy["one-shot"] if abs(known - s) <= 0.025]
    return min(near, key=lambda known: abs(known - s), default=None)


def _first_drop(facts: Facts) -> str:
    """The lowest sparsity at which pruning once costs more than one point, seeds' interval considered."""
    for s, values in sorted(facts.accuracy["one-shot"].items()):
        if _gap(facts, facts.dense, values).low > SMALL_LOSS:
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
    return ", ".join(f"{COMPONENTS[name]} {_interval(interval)}" for name, interval in parts.items())
