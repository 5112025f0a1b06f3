"""`secateurs explore` from end to end, on a very small exploration, judged by numpy on the files it left."""

import json
import os
import random
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
from safetensors.numpy import load_file

from secateurs.experiments.directory import locked
from secateurs.experiments.exploration import Exploration
from secateurs.recipe import Recipe

STAGES = ("initialised", "trained", "in-loop", "one-shot", "fine-tuned", "absolute")
Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def results(tiny: Path) -> dict[str, Any]:
    return tiny_run.results(tiny)


@pytest.fixture(scope="module")
def weights(tiny: Path, results: dict[str, Any]) -> dict[str, Weights]:
    """{stage: {prunable layer: values}} from models/*/model.safetensors."""
    names = [layer["name"] for layer in results["layers"]]
    found = {stage: load_file(tiny / "run" / "models" / stage / "model.safetensors") for stage in STAGES}
    return {stage: {name: tensors[name] for name in names} for stage, tensors in found.items()}


def n_zero(layers: Weights) -> int:
    return sum(int(np.count_nonzero(weight == 0)) for weight in layers.values())


def n_of(layers: Weights) -> int:
    return sum(weight.size for weight in layers.values())


def test_every_file_of_the_story_is_there(tiny: Path, results: dict[str, Any]) -> None:
    tau = results["tau"]["text"]
    pictures = {
        "initialization-cls-head",
        "initialization-ffnn",
        "before-pruning-distribution-cls-head",
        "before-pruning-distribution-ffnn",
        "threshold-inside-the-training-loop-cls",
        "threshold-inside-the-training-loop-ffnn",
        f"at-prune-{tau}-cls-head",
        f"at-prune-{tau}-ffnn",
        "at-prune-0.4-cls-head",
        "at-prune-0.4-ffnn",
        "overview",
        "tradeoff",
    }
    others = {"results.json", "report.html", "recipe.yaml", "exploration.yaml", "metrics.jsonl"}
    run = tiny / "run"
    found = {p.name for p in run.iterdir() if p.is_file() and p.name != ".lock"}
    assert found == others | {f"{name}.{kind}" for name in pictures for kind in ("png", "svg")}
    assert {p.name for p in (run / "models").iterdir()} == set(STAGES)
    for name in pictures:
        assert (run / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (run / f"{name}.svg").read_text().startswith("<svg")
    assert len((run / "report.html").read_bytes()) <= 5_000_000


def test_what_json_prints_is_what_results_json_holds(tiny: Path, results: dict[str, Any]) -> None:
    assert json.loads((tiny / "printed.json").read_text()) == results


def test_the_recipe_and_the_exploration_read_back(tiny: Path, results: dict[str, Any]) -> None:
    recipe = Recipe.from_yaml((tiny / "run" / "recipe.yaml").read_text())
    assert str(recipe.budget) == f"threshold({results['tau']['text']})"
    assert str(recipe.schedule) == "cubic"
    exploration = Exploration.from_yaml((tiny / "run" / "exploration.yaml").read_text())
    assert exploration == Exploration.from_yaml(tiny_run.EXPLORATION)
    assert exploration.values() == results["experiment"]
    _, *typed = shlex.split(results["command"])
    assert typed == ["explore", "--experiment", "tiny.yaml", "--out", "run", "--recipe", str(recipe)]


def test_zeros_are_what_numpy_counts_in_the_saved_models(results: dict[str, Any], weights: dict[str, Weights]) -> None:
    assert [stage["id"] for stage in results["stages"]] == list(STAGES)
    for stage in results["stages"]:
        layers = weights[stage["id"]]
        for name, weight in layers.items():
            described = stage["layers"][name]
            assert described["n"] == weight.size
            assert described["n_zero"] == np.count_nonzero(weight == 0)
            assert described["within_0.001"] == np.count_nonzero(np.abs(weight) <= 0.001)
            assert described["sigma"] == pytest.approx(weight.astype(np.float64).std(), rel=1e-9)
        assert stage["sparsity"] == n_zero(layers) / n_of(layers)
    assert results["model"]["n_prunable"] == n_of(weights["trained"])


def test_the_storys_tau_is_the_multiple_of_a_twentieth_sigma_nearest_to_seventy_percent(
    results: dict[str, Any], weights: dict[str, Weights]
) -> None:
    trained = [weight.astype(np.float64) for weight in weights["trained"].values()]
    n = sum(weight.size for weight in trained)

    def share(k: int) -> float:
        return sum(int((np.abs(weight) <= 0.05 * k * weight.std()).sum()) for weight in trained) / n

    k = round(results["tau"]["sigmas"] / 0.05)
    assert results["tau"]["sigmas"] == pytest.approx(0.05 * k)
    assert abs(share(k) - 0.7) == min(abs(share(other) - 0.7) for other in range(1, 121))
    assert f"nearest to 70% of the trained network: {share(k):.1%}" in results["tau"]["why"]


def test_pruning_once_cuts_what_lies_within_tau_and_changes_nothing_else(
    results: dict[str, Any], weights: dict[str, Weights]
) -> None:
    for name, trained in weights["trained"].items():
        sigma = trained.astype(np.float64).std()
        once = np.where(np.abs(trained.astype(np.float64)) <= results["tau"]["sigmas"] * sigma, 0, trained)
        assert np.array_equal(weights["one-shot"][name], once)
        assert np.array_equal(weights["absolute"][name], np.where(np.abs(trained) <= np.float32(0.4), 0, trained))


def test_fine_tuning_holds_the_zeros_and_moves_the_rest(weights: dict[str, Weights]) -> None:
    assert n_zero(weights["fine-tuned"]) == n_zero(weights["one-shot"])
    for name, once in weights["one-shot"].items():
        assert np.all(weights["fine-tuned"][name][once == 0] == 0)
    assert any(np.any(weights["fine-tuned"][name] != once) for name, once in weights["one-shot"].items())


def test_every_point_of_the_trade_off_has_exactly_the_asked_zeros(tiny: Path, results: dict[str, Any]) -> None:
    n = results["model"]["n_prunable"]
    points = {(point["strategy"], point["asked"]) for point in results["tradeoff"]}
    assert points == {(how, s) for how in ("one-shot", "fine-tuned", "in-loop") for s in (0.5, 0.9)}
    for point in results["tradeoff"]:
        assert [value["seed"] for value in point["values"]] == [0, 1]
        assert {value["sparsity"] for value in point["values"]} == {round(point["asked"] * n) / n}
        assert point["mean"] == pytest.approx(np.mean([value["accuracy"] for value in point["values"]]))
    names = [layer["name"] for layer in results["layers"]]
    cut = []
    for path in (tiny / "run" / "cells").glob("*/result.json"):
        cell = json.loads(path.read_text())["cell"]
        if cell["recipe"] and cell["recipe"]["budget"].startswith("sparsity"):
            tensors = load_file(path.parent / "model.safetensors")
            cut.append((cell["recipe"]["budget"], n_zero({name: tensors[name] for name in names})))
    assert sorted(cut) == [("sparsity(0.5)", round(0.5 * n))] * 6 + [("sparsity(0.9)", round(0.9 * n))] * 6


def test_the_first_seed_tells_the_story_and_films_end_where_the_stages_are(results: dict[str, Any]) -> None:
    assert results["seeds"] == [0, 1]
    assert {stage["seed"] for stage in results["stages"]} == {0}
    stages = {stage["id"]: stage for stage in results["stages"]}
    for stage, frames in results["films"].items():
        assert frames[0]["step"] == 0
        assert frames[-1]["accuracy"] == stages[stage]["accuracy"]["validation"]["value"]
        for name, grid in frames[-1]["layers"].items():
            assert grid["n_zero"] == stages[stage]["layers"][name]["n_zero"]
            assert grid["n_zero"] + sum(grid["positive"]) + sum(grid["negative"]) == stages[stage]["layers"][name]["n"]


def test_all_claims_are_answered(results: dict[str, Any]) -> None:
    assert len(results["claims"]) == 12
    assert {claim["verdict"] for claim in results["claims"]} <= {"holds", "does not hold", "not decided by this run"}
    assert all(claim["number"] and claim["detail"] for claim in results["claims"])


def test_metrics_hold_a_line_of_every_look_of_every_cell(tiny: Path) -> None:
    lines = [json.loads(line) for line in (tiny / "run" / "metrics.jsonl").read_text().splitlines()]
    cells = {p.name for p in (tiny / "run" / "cells").iterdir()}
    assert {line["cell"] for line in lines} == cells
    per_cell = sorted(p.read_text() for p in (tiny / "run" / "cells").glob("*/metrics.jsonl"))
    assert sorted(json.loads(line)["cell"] for text in per_cell for line in text.splitlines()) == sorted(
        line["cell"] for line in lines
    )


def test_the_same_command_again_trains_nothing_and_changes_no_result(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "run", tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "cells").rglob("*")}
    tiny_run.finish(tmp_path, tiny_run.UNDRAWN, "--jobs", "1", "--json")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "cells").rglob("*")} == before
    for name in ("results.json", "recipe.yaml", "exploration.yaml", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tiny / "run" / name).read_bytes()


def assert_same_run(where: Path, reference: Path) -> None:
    """All weights, metrics, films, sweeps and results to the byte, but for the seconds that were measured."""
    assert tiny_run.durable_files(where) == tiny_run.durable_files(reference)
    assert tiny_run.unmeasured(where) == tiny_run.unmeasured(reference)
    for name in ("recipe.yaml", "exploration.yaml", "metrics.jsonl"):
        assert (where / "run" / name).read_bytes() == (reference / "run" / name).read_bytes()


def test_a_run_killed_three_times_ends_as_if_it_never_was(tiny: Path, tmp_path: Path) -> None:
    chance = random.Random(os.urandom(4))
    for low, high in ((0, 5), (6, 12), (13, 21)):
        n_done, n_begun = chance.randint(low, high), chance.randint(0, 1)
        process = tiny_run.start(tmp_path, tiny_run.UNDRAWN, "--jobs", "1")
        is_time = lambda n=n_done, more=n_begun: (  # noqa: E731
            tiny_run.n_results(tmp_path) >= n and tiny_run.n_begun(tmp_path) >= n + more
        )
        code, _ = tiny_run.stop_when(process, is_time, signal.SIGKILL)
        assert code == -signal.SIGKILL, f"killed at {n_done} results"
        assert not (tmp_path / "run" / "results.json").exists()
    tiny_run.finish(tmp_path, tiny_run.UNDRAWN, "--jobs", "1")
    assert_same_run(tmp_path, tiny)


def test_signals_end_with_their_codes_and_the_run_goes_on(tiny: Path, tmp_path: Path) -> None:
    for number, expected, n in ((signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 8)):
        process = tiny_run.start(tmp_path, tiny_run.UNDRAWN, "--jobs", "1")
        code, err = tiny_run.stop_when(process, lambda n=n: tiny_run.is_under_way(tmp_path, n), number)
        assert code == expected, err
        assert "Traceback" not in err
        if number == signal.SIGINT:
            assert err.strip().splitlines()[-1] == "secateurs: Interrupted. Run the same command again to go on."
    tiny_run.finish(tmp_path, tiny_run.UNDRAWN, "--jobs", "1")
    assert_same_run(tmp_path, tiny)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_two_processes_killed_at_many_moments_end_as_if_they_never_were(
    number: int, tiny: Path, tmp_path: Path
) -> None:
    chance = random.Random(os.urandom(4))
    codes = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}
    for n in sorted(chance.sample(range(22), 8)):
        process = tiny_run.start(tmp_path, tiny_run.UNDRAWN, "--jobs", "2")
        code, err = tiny_run.stop_when(process, lambda n=n: tiny_run.is_under_way(tmp_path, n), number)
        assert code == codes[number], err
        assert "Traceback" not in err
    tiny_run.finish(tmp_path, tiny_run.UNDRAWN, "--jobs", "1")
    assert_same_run(tmp_path, tiny)


def test_one_seed_is_enough_for_a_page_and_decides_nothing_that_varies_by_seed(tmp_path: Path) -> None:
    one = tiny_run.EXPLORATION.replace("[0, 1]", "[5]").replace("[0.5, 0.9]", "[0.5]")
    tiny_run.finish(tmp_path, tiny_run.NO_PICTURES, "--jobs", "1", exploration=one)
    found = tiny_run.results(tmp_path)
    assert found["seeds"] == [5]
    assert found["dense"]["n_seeds"] == 1
    assert {claim["id"]: claim["verdict"] for claim in found["claims"]}["in-loop-wins"] == "not decided by this run"
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000


def test_a_directory_that_another_run_is_writing_is_exit_5(secateurs: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny_run.EXPLORATION)
    with locked(tmp_path / "run", Exploration.from_yaml(tiny_run.EXPLORATION).to_yaml()):
        said = secateurs("explore", "--experiment", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "run"))
    assert said.code == 5
    assert "Another run is writing" in said.err
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "exploration.yaml"]
