"""Each claim of the story against facts made up so that it holds, fails, or cannot be decided."""

import dataclasses
import math
from dataclasses import replace
from typing import Any

import pytest

from secateurs.experiments import claims
from secateurs.experiments.claims import CLAIMS, FAILS, HOLDS, OPEN, Claim, Facts

LADDER = (0.5, 0.7, 0.9)


def flat(value: float, spread: float = 0.001) -> list[float]:
    """Three seeds around a value: mean `value`, t interval +- 2.48 spread."""
    return [value - spread, value, value + spread]


def ladder(*values: float) -> dict[float, list[float]]:
    return {s: flat(value) for s, value in zip(LADDER, values, strict=True)}


def stage(sparsity: float = 0.7, test: float = 0.95, **more: Any) -> dict[str, Any]:
    layers = {name: {"n": 100, "n_zero": round(100 * sparsity), "sigma": 0.1} for name in ("head.weight", "up.weight")}
    found = {"value": test, "n": 10_000, "low": test - 0.004, "high": test + 0.004}
    return {"sparsity": sparsity, "accuracy": {"test": found}, "layers": layers, **more}


def zeros_alone(zeroed: int = 1000, low: float = 0.99, high: float = 1.01) -> dict[str, Any]:
    size = {"dense": 1000, "zeroed": zeroed, "dense_deflate": 900, "zeroed_deflate": 400}
    return {
        "size_bytes": size,
        "latency": {"ratio": (low + high) / 2, "low": low, "high": high, "n": 60, "batch": 64, "threads": 1},
    }


BASE = Facts(
    initialiser="normal, 0.02",
    tracked={"cls-head": "head.weight", "ffnn": "up.weight"},
    prunable=("head.weight", "up.weight"),
    kurtosis={"cls-head": flat(0.0, 0.1), "ffnn": flat(0.1, 0.1)},
    centre={"cls-head": flat(0.01), "ffnn": flat(-0.01)},
    sigma={part: {"initial": flat(0.02), "trained": flat(0.1)} for part in ("cls-head", "ffnn")},
    mean_size={"cls-head": flat(0.2), "ffnn": flat(0.1)},
    near_zero=flat(0.3),
    survivors=flat(1.5),
    survivors_at=0.7,
    accuracy={
        "one-shot": ladder(0.94, 0.90, 0.60),
        "fine-tuned": ladder(0.95, 0.95, 0.94),
        "in-loop": ladder(0.96, 0.96, 0.955),
    },
    dense=flat(0.95),
    n_test=10_000,
    stages={
        "trained": stage(0.0),
        "in-loop": stage(0.7),
        "one-shot": stage(0.7),
        "absolute": stage(0.8, 0.945, tau_value=0.4),
    },
    zeros_alone=zeros_alone(zeroed=900, low=1.1, high=1.2),
)


def stages(**changed: dict[str, Any]) -> Facts:
    return replace(BASE, stages={**BASE.stages, **{key.replace("_", "-"): value for key, value in changed.items()}})


def strategies(**changed: dict[float, list[float]]) -> Facts:
    return replace(BASE, accuracy={**BASE.accuracy, **{key.replace("_", "-"): v for key, v in changed.items()}})


CASES = [
    (claims.bell, FAILS, replace(BASE, kurtosis={"cls-head": flat(0.0), "ffnn": flat(-1.2)})),
    (claims.bell, FAILS, replace(BASE, kurtosis={"cls-head": flat(0.0), "ffnn": flat(0.7)})),
    (claims.bell, OPEN, replace(BASE, kurtosis={"cls-head": flat(0.0), "ffnn": flat(0.5, 0.1)})),
    (claims.bell, FAILS, replace(BASE, centre={"cls-head": flat(0.0), "ffnn": flat(0.4)})),
    (claims.bell, OPEN, replace(BASE, kurtosis={"cls-head": flat(0.0), "ffnn": [math.nan] * 3})),
    (claims.spreads, FAILS, replace(BASE, sigma={**BASE.sigma, "ffnn": {"initial": flat(0.2), "trained": flat(0.1)}})),
    (claims.spreads, OPEN, replace(BASE, sigma={"ffnn": {"initial": flat(0.1), "trained": flat(0.1)}})),
    (claims.spike, FAILS, stages(in_loop=stage(0.09))),
    (claims.spike, OPEN, replace(BASE, prunable=("other.weight",))),
    (claims.needs_fine_tuning, OPEN, strategies(**{name: {0.5: flat(0.9)} for name in ("one_shot", "fine_tuned")})),
    (claims.half_to_nine_tenths, OPEN, strategies(one_shot={0.5: flat(0.9)}, in_loop={0.5: flat(0.9)})),
    (claims.absolute_tau, OPEN, stages(absolute=stage(0.8, 0.942, tau_value=0.4))),
    (claims.survivors_grow, FAILS, replace(BASE, survivors=flat(0.9))),
    (claims.survivors_grow, OPEN, replace(BASE, survivors=flat(1.05, 0.05))),
    (
        claims.needs_fine_tuning,
        FAILS,
        strategies(one_shot=ladder(0.95, 0.95, 0.95), fine_tuned=ladder(0.95, 0.95, 0.95)),
    ),
    (claims.needs_fine_tuning, OPEN, strategies(one_shot={**ladder(0.9, 0.9, 0.9), 0.9: [0.7, 0.95, 0.9]})),
    (claims.heads_are_stronger, FAILS, replace(BASE, mean_size={"cls-head": flat(0.1), "ffnn": flat(0.2)})),
    (claims.heads_are_stronger, OPEN, replace(BASE, mean_size={"cls-head": [0.1, 0.2, 0.3], "ffnn": flat(0.19)})),
    (
        claims.half_to_nine_tenths,
        FAILS,
        strategies(in_loop=ladder(0.96, 0.96, 0.8), fine_tuned=ladder(0.96, 0.96, 0.7)),
    ),
    (
        claims.half_to_nine_tenths,
        OPEN,
        strategies(in_loop={**ladder(0.96, 0.96, 0), 0.9: [0.90, 0.94, 0.97]}, fine_tuned=ladder(0.96, 0.96, 0.7)),
    ),
    (claims.in_loop_wins, FAILS, strategies(in_loop=ladder(0.9, 0.9, 0.9))),
    (claims.in_loop_wins, OPEN, strategies(in_loop={s: [0.93, 0.95, 0.97] for s in LADDER})),
    (claims.absolute_tau, FAILS, stages(absolute=stage(0.99, 0.1, tau_value=0.4))),
    (claims.absolute_tau, FAILS, stages(absolute=stage(0.2, 0.95, tau_value=0.4))),
    (claims.many_near_zero, FAILS, replace(BASE, near_zero=flat(0.02))),
    (claims.many_near_zero, OPEN, replace(BASE, near_zero=flat(0.1))),
    (claims.smaller_on_disk, FAILS, replace(BASE, zeros_alone=zeros_alone(zeroed=1000))),
    (claims.faster, FAILS, replace(BASE, zeros_alone=zeros_alone(low=0.98, high=1.01))),
    (claims.faster, OPEN, replace(BASE, zeros_alone=zeros_alone(low=0.98, high=1.05))),
]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_the_base_facts_make_every_claim_hold(claim: Any) -> None:
    assert claim(BASE).verdict == HOLDS


@pytest.mark.parametrize(("claim", "verdict", "facts"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_other_facts_make_it_fail_or_leave_it_open(claim: Any, verdict: str, facts: Facts) -> None:
    assert claim(facts).verdict == verdict


def test_every_claim_has_a_case_and_an_id_of_its_own() -> None:
    assert {case[0] for case in CASES} == set(CLAIMS)
    assert len({claim(BASE).id for claim in CLAIMS}) == len(CLAIMS)


def test_the_words_of_the_verdicts_are_the_published_ones() -> None:
    assert (HOLDS, FAILS, OPEN) == ("holds", "does not hold", "not decided by this run")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_every_claim_shows_a_number_and_how_it_came_about(claim: Any) -> None:
    found: Claim = claim(BASE)
    assert any(letter.isdigit() for letter in found.number)
    assert found.text.endswith(".")
    assert found.detail
    assert "nan" not in " ".join(dataclasses.astuple(found))


def one_seed(facts: Facts) -> Facts:
    return replace(
        facts,
        kurtosis={part: values[:1] for part, values in facts.kurtosis.items()},
        sigma={part: {k: v[:1] for k, v in sigma.items()} for part, sigma in facts.sigma.items()},
        mean_size={part: values[:1] for part, values in facts.mean_size.items()},
        near_zero=facts.near_zero[:1],
        survivors=facts.survivors[:1],
        accuracy={name: {s: v[:1] for s, v in points.items()} for name, points in facts.accuracy.items()},
        dense=facts.dense[:1],
    )


VARIES_BY_SEED = (
    claims.spreads,
    claims.survivors_grow,
    claims.needs_fine_tuning,
    claims.heads_are_stronger,
    claims.half_to_nine_tenths,
    claims.in_loop_wins,
    claims.many_near_zero,
)


@pytest.mark.parametrize("claim", VARIES_BY_SEED, ids=lambda claim: claim.__name__)
def test_one_seed_decides_nothing_that_varies_by_seed(claim: Any) -> None:
    found = claim(one_seed(BASE))
    assert found.verdict == OPEN
    assert "nan" not in found.detail


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_one_seed_prints_no_infinite_interval(claim: Any) -> None:
    found = claim(one_seed(BASE))
    assert " inf" not in found.detail
    assert "-inf" not in found.detail


def test_numbers_of_the_claims_by_hand() -> None:
    assert (
        "sigma × 5.00"
        in claims.spreads(replace(BASE, sigma={"ffnn": {"initial": [0.1] * 3, "trained": [0.5] * 3}})).number
    )
    assert claims.heads_are_stronger(
        replace(BASE, mean_size={"cls-head": [0.2] * 3, "ffnn": [0.1] * 3})
    ).number.startswith("mean |w| of the head is 2.00 ×")
    assert claims.needs_fine_tuning(BASE).number == "at 90%: -35.0 points without, -1.0 points with fine-tuning"
    assert claims.half_to_nine_tenths(BASE).number == "50%: +1.0 points, 70%: +1.0 points, 90%: +0.5 points"
    assert claims.in_loop_wins(BASE).number == "+1.5 points at 90%, +1.5 points at 90%"
    assert claims.absolute_tau(BASE).number == "80.0% gone; accuracy 95.0% → 94.5%"
    assert "4.0 to 4.0 sigmas" in claims.absolute_tau(BASE).detail
    assert claims.smaller_on_disk(BASE).number == "1,000 → 900 bytes"
    assert claims.faster(replace(BASE, zeros_alone=zeros_alone())).number == "no difference"
    assert claims.faster(BASE).number == "speed-up × 1.150"


def test_the_order_in_which_sparsities_were_asked_changes_no_claim() -> None:
    turned = replace(BASE, accuracy={name: dict(reversed(points.items())) for name, points in BASE.accuracy.items()})
    assert [claim(turned) for claim in CLAIMS] == [claim(BASE) for claim in CLAIMS]
