"""A lottery's ladder is exact, its tickets are what they are called, and its results are what its cells found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from secateurs.budgets import Budget
from secateurs.cli.lottery import print_levels
from secateurs.data import DataSpec, load_data
from secateurs.errors import RecipeError
from secateurs.experiments.exploration import Experiment
from secateurs.experiments.lottery import OTHER_SEED, Lottery, LotteryPlan, deepened
from secateurs.experiments.lottery_results import LotteryRun
from secateurs.experiments.work import Work
from secateurs.masks import Masks
from secateurs.models import ModelSpec, build
from secateurs.recipe import Recipe, with_words
from secateurs.train.rates import Rate
from secateurs.train.training import Training

DATA = DataSpec(limit_train=60, limit_validation=40, limit_test=40)
RECIPE = Recipe(pool="layer", budget={"fc3.weight": "sparsity(0.1)", "*": "sparsity(0.2)"})
# Percent of the 266,200 weights of LeNet-300-100 that are left, level by level, as the lottery ticket papers print it.
PUBLISHED = "80.04 64.06 51.28 41.05 32.87 26.32 21.07 16.88 13.52 10.83 8.68 6.95 5.57 4.47 3.58"


def lottery(**fields: Any) -> Lottery:
    training = Training(optimizer="adam", learning_rate=1.2e-3, rate=Rate("constant"), warmup=0.0, batch_size=20)
    words: dict[str, Any] = {"model": ModelSpec.parse("lenet-300-100(init=glorot)"), "data": DATA, "recipe": RECIPE}
    experiment = Experiment(training=Training(**{**training.values(), "epochs": 3.0}), seeds=(0, 1), **words)
    return Lottery(**{"experiment": experiment, "n_rounds": 2, "n_looks": 3, **fields})


@pytest.fixture(scope="module", params=[0, 4])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LotteryRun:
    """A lottery of two rounds on a few digits, run to the end, rewound to step 0 or 4."""
    asked, data = lottery(rewind=request.param), load_data(DATA)
    plan = LotteryPlan(asked, data.fingerprint, len(data.y_train))
    out = tmp_path_factory.mktemp("lottery")
    work = Work(plan.cells.values(), out, len(data.y_train), n_jobs=1)
    found = LotteryRun(asked, plan, out, "secateurs lottery", data, build(asked.experiment.model, data.shape, 0), work)
    found.run()
    return found


def weights(run: LotteryRun, *key: Any) -> dict[str, np.ndarray[Any, Any]]:
    return load_file(run.plan.cells[key].directory(run.out) / "model.safetensors")


def keep(run: LotteryRun, *key: Any) -> dict[str, np.ndarray[Any, Any]]:
    masks = Masks.load(run.plan.cells[key].directory(run.out) / "masks.safetensors")
    return {name: value.numpy() for name, value in masks.items()}


def test_the_ladder_is_the_published_one() -> None:
    sizes = {"fc1.weight": 235_200, "fc2.weight": 30_000, "fc3.weight": 1_000}
    found = []
    for k in range(1, 16):
        simple = deepened(RECIPE.budget, k).for_layers({name: (n,) for name, n in sizes.items()})
        left = sum(n - simple[name].n_pruned(n) for name, n in sizes.items())
        found.append(f"{100 * left / 266_200:.2f}")
    assert " ".join(found) == PUBLISHED


@pytest.mark.parametrize("budget", ["threshold(0.1)", "top(2)", "erk(0.5)", "{*: threshold(0.1)}"])
def test_only_a_share_can_be_cut_again_and_again(budget: str) -> None:
    with pytest.raises(RecipeError, match="cuts a share of what is left"):
        deepened(Budget.parse(budget), 2)


@pytest.mark.parametrize("fields", [{"n_rounds": 0}, {"rewind": -1}, {"n_looks": 0}])
def test_counts_that_mean_nothing_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="n_rounds and n_looks must be at least 1"):
        lottery(**fields)


def test_a_schedule_that_would_not_be_followed_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"cuts at once, between two trainings; drop 'cubic'"):
        lottery(experiment=lottery().experiment.model_copy(update={"recipe": with_words(RECIPE, schedule="cubic")}))


def test_rewinding_beyond_the_end_is_refused() -> None:
    with pytest.raises(RecipeError, match="rewind=9 is not before the end of 9 steps"):
        _ = LotteryPlan(lottery(rewind=9), "0" * 64, 60).cells


def test_every_level_keeps_exactly_what_the_ladder_says_and_survivors_are_nested(run: LotteryRun) -> None:
    for seed in (0, 1):
        before: dict[str, np.ndarray[Any, Any]] = {}
        for k in (1, 2):
            now = keep(run, "ticket", k, seed)
            for name, alive in now.items():
                share = 0.1 if name == "fc3.weight" else 0.2
                assert alive.sum() == alive.size - round((1 - (1 - share) ** k) * alive.size)
                assert not (alive & ~before.get(name, alive)).any()
                end = weights(run, "ticket", k, seed)[name]
                assert np.all(end[~alive] == 0)
                size = np.abs(weights(run, "ticket", k - 1, seed)[name])
                assert size[alive].min() >= size[~alive].max(), "the largest of the level before survive"
            before = now
            assert all(np.array_equal(alive, keep(run, "reinit", k, seed)[name]) for name, alive in now.items())
            elsewhere = keep(run, "random", k, seed)
            assert all(elsewhere[name].sum() == alive.sum() for name, alive in now.items())
            assert any(not np.array_equal(elsewhere[name], alive) for name, alive in now.items())


def test_a_ticket_starts_from_the_dense_networks_weights_at_the_rewind_step(run: LotteryRun) -> None:
    start = run.plan.cells["ticket", 1, 0].start
    assert start is not None
    assert start == run.plan.cells["random", 2, 0].start
    first = start.load(run.out).state_dict()
    if run.lottery.rewind == 0:
        fresh = build(run.lottery.experiment.model, run.data.shape, 0).state_dict()
        assert all(np.array_equal(fresh[name], first[name]) for name in first)
    # The dense network, stopped there: the same bits as a training of so many steps under a constant rate.
    assert start.training.n_steps(60) == run.lottery.rewind
    other = run.plan.cells["reinit", 1, 0].start
    assert other is not None
    assert other.seed == OTHER_SEED


def test_the_early_part_of_a_training_is_its_first_steps(tmp_path: Path) -> None:
    """One look per step: the losses on validation data of the early part are those of the whole."""
    asked = lottery(rewind=4, n_looks=9)
    data = load_data(DATA)
    plan = LotteryPlan(asked, data.fingerprint, 60)
    dense, early = plan.cells["ticket", 0, 0], plan.cells["ticket", 1, 0].start
    assert early is not None
    work = Work([dense, early], tmp_path, 60, n_jobs=1)
    work.run([dense, early])
    whole, part = (
        [json.loads(line) for line in (one.directory(tmp_path) / "metrics.jsonl").read_text().splitlines()]
        for one in (dense, early)
    )
    at = {look["step"]: look["validation_loss"] for look in whole if "step" in look}
    assert [at[look["step"]] for look in part if "step" in look] == [look["validation_loss"] for look in part[:-1]]


def test_the_results_say_what_the_cells_found(run: LotteryRun) -> None:
    results = json.loads((run.out / "results.json").read_text())
    assert [level["level"] for level in results["levels"]] == [0, 1, 2]
    for level in results["levels"]:
        for kind, found in level["kinds"].items():
            tests = []
            for seed, stop in zip((0, 1), found["early_stop_values"], strict=True):
                here = run.plan.cells[kind, level["level"], seed].directory(run.out)
                result = json.loads((here / "result.json").read_text())
                assert result["n_prunable"] - result["n_zero"] == level["n_kept"]
                tests.append(result["test"]["value"])
                looks = [json.loads(line) for line in (here / "metrics.jsonl").read_text().splitlines()]
                losses = {look["step"]: look["validation_loss"] for look in looks if look.get("step")}
                assert losses[stop["step"]] == min(losses.values())
            assert found["mean"] == pytest.approx(sum(tests) / 2)
            assert [value["accuracy"] for value in found["values"]] == tests
            if kind != "ticket":
                ticket = [value["accuracy"] for value in level["kinds"]["ticket"]["values"]]
                gap = level["gaps"][f"ticket-{kind}"]
                assert gap["mean"] == pytest.approx(sum(a - b for a, b in zip(ticket, tests, strict=True)) / 2)
                assert gap["is_beyond_noise"] == (gap["low"] > 1e-12 or gap["high"] < -1e-12)
    assert (run.out / "lottery.png").stat().st_size > 10_000


def test_the_same_again_runs_nothing_and_says_the_same(run: LotteryRun) -> None:
    before = (run.out / "results.json").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in run.out.glob("cells/*/result.json")}
    run.run()
    assert (run.out / "results.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize("control", ["reinit", "random"])
def test_one_control_is_enough(control: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked, data = lottery(controls=(control,), n_rounds=1), load_data(DATA)
    plan, both = (LotteryPlan(each, data.fingerprint, len(data.y_train)) for each in (asked, lottery(n_rounds=1)))
    assert {kind for kind, _, _ in plan.cells} == {"ticket", control}
    assert all(both.cells[key] == cell for key, cell in plan.cells.items())
    work = Work(plan.cells.values(), tmp_path, len(data.y_train), n_jobs=1)
    network = build(asked.experiment.model, data.shape, 0)
    results = LotteryRun(asked, plan, tmp_path, "secateurs lottery", data, network, work).run()
    assert set(results["levels"][1]["gaps"]) == {f"ticket-{control}", "ticket-dense"}
    print_levels(results)
    said = capsys.readouterr().out
    assert ("re-initialised" in said, "random masks" in said) == (control == "reinit", control == "random")


@pytest.mark.parametrize("controls", [(), ("reinit", "reinit"), ("rienit",)])
def test_controls_that_are_none_are_told(controls: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match=r"The controls are one or both of reinit, random|Did you mean 'reinit'"):
        lottery(controls=controls)
