"""A comparison: every strategy reaches its sparsity within one budget, and the results are what the cells found."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from secateurs.data import DataSpec, load_data
from secateurs.errors import RecipeError
from secateurs.experiments.cells import Cell, keep_weights, stored_weights
from secateurs.experiments.comparison import Comparison, ComparisonRun, _cost, epochs_of
from secateurs.experiments.exploration import Experiment
from secateurs.experiments.strategies import FROM_FIRST_WEIGHTS, STRATEGIES, at_sparsity
from secateurs.experiments.work import Work
from secateurs.measure.operations import uses
from secateurs.models import ModelSpec, build, save_model
from secateurs.recipe import Recipe
from secateurs.see.curves import COMPARISON, FAMILIES, family_lines
from secateurs.see.style import PRINT
from secateurs.train.training import Training

DATA = DataSpec(limit_train=60, limit_validation=20, limit_test=40)
TRAINING = Training(learning_rate=2e-3, epochs=2.0, batch_size=20)
TAUGHT = Training(**{**TRAINING.values(), "distill": {"hardness": 0.9}})


def comparison(**fields: Any) -> Comparison:
    experiment = Experiment(
        model=ModelSpec.parse("lenet-300-100"),
        data=DATA,
        training=TRAINING,
        recipe=Recipe(score="lamp", budget="sparsity(0.5)", schedule="cubic(0.1, 0.7)"),
        seeds=(0, 1),
    )
    fine_tune = Training(**{**TRAINING.values(), "epochs": 1.0})
    words = {"experiment": experiment, "fine_tune": fine_tune, "sparsities": (0.9,), "n_rounds": 2}
    return Comparison(**{**words, **fields})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ComparisonRun:
    """Every strategy on a few digits, run to the end."""
    asked, data = comparison(), load_data(DATA)
    out = tmp_path_factory.mktemp("comparison")
    found = ComparisonRun(asked, out, "secateurs compare", data, build(asked.experiment.model, data.shape, 0))
    found.check()
    found.run(Work(found.cells(), out, len(data.y_train), n_jobs=1))
    return found


@pytest.fixture(scope="module")
def results(run: ComparisonRun) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.out / "results.json").read_text())
    return found


def weights(run: ComparisonRun, cell: Cell) -> dict[str, np.ndarray[Any, Any]]:
    return load_file(cell.directory(run.out) / "model.safetensors")


def test_every_strategy_is_drawn_and_explained() -> None:
    assert list(COMPARISON) == list(STRATEGIES)
    assert all(strategy.__doc__ for strategy in STRATEGIES.values())
    for family in FAMILIES.values():
        lines = family_lines(family, PRINT)
        assert list(lines) == list(family)
        assert len({(line.color, line.shape, line.dash) for line in lines.values()}) == len(family)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_budget_is_the_same_for_all(name: str, run: ComparisonRun) -> None:
    whole = epochs_of(run.dense()[0])
    assert whole == 3.0
    times = 2 if name == "scratch-b" else 1
    assert {epochs_of(cell) for each, _, cells in run.points() if each == name for cell in cells} == {times * whole}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_asked_sparsity_is_reached_exactly(name: str, run: ComparisonRun) -> None:
    for each, s, cells in run.points():
        for cell in cells if each == name else []:
            found = weights(run, cell)
            n, n_zero = 0, 0
            for layer in ("fc1.weight", "fc2.weight", "fc3.weight"):
                n, n_zero = n + found[layer].size, n_zero + int((found[layer] == 0).sum())
            if name == "in-loop":
                assert n_zero > 0, "a threshold reaches what it reaches"
            else:
                assert n_zero == round(s * n)


def cell_of(run: ComparisonRun, name: str, s: float = 0.9) -> Cell:
    return next(cells[0] for each, at, cells in run.points() if (each, at) == (name, s))


def test_strategies_are_what_they_are_called(run: ComparisonRun) -> None:
    dense, once = weights(run, run.dense()[0]), weights(run, cell_of(run, "one-shot"))
    assert all(np.all((once[name] == 0) | (once[name] == dense[name])) for name in dense)
    repaired = weights(run, cell_of(run, "repaired"))
    layers = [name for name in dense if dense[name].ndim > 1]
    assert all(np.array_equal(once[name] == 0, repaired[name] == 0) for name in layers)
    assert any(not np.array_equal(once[name], repaired[name]) for name in layers)
    by_scratch, by_random = weights(run, cell_of(run, "scratch-e")), weights(run, cell_of(run, "random"))
    assert all(np.array_equal(once[name] == 0, by_scratch[name] == 0) for name in layers)
    assert all((once[name] == 0).sum() == (by_random[name] == 0).sum() for name in layers)
    trained = cell_of(run, "fine-tuned").start
    assert trained is not None
    mended, refined = cell_of(run, "repaired-tuned").start, weights(run, cell_of(run, "repaired-tuned"))
    assert mended is not None
    assert (mended.start, mended.recover) == (trained, ("repair", "batch_norm"))
    before = weights(run, mended)
    assert all(np.array_equal(before[name] == 0, refined[name] == 0) for name in layers)
    assert any(not np.array_equal(before[name], refined[name]) for name in layers)
    tuned, rewound = cell_of(run, "rate-rewound"), cell_of(run, "weight-rewound")
    assert tuned.start == rewound.masks == trained
    assert rewound.start is not None
    assert rewound.start.training.rate_to == tuned.training.rate_from == 0.5
    rounds = cell_of(run, "iterative")
    assert rounds.start is not None
    assert str(rounds.start.recipe).split()[3] == f"sparsity({1 - math.sqrt(0.1):.12f})"
    assert rounds.start.start == trained


def test_the_results_say_what_the_cells_found(run: ComparisonRun, results: dict[str, Any]) -> None:
    base = [json.loads((cell.directory(run.out) / "result.json").read_text())["test"]["value"] for cell in run.dense()]
    assert [value["accuracy"] for value in results["dense"]["values"]] == base
    assert len(results["points"]) == len(STRATEGIES)
    for point, (name, s, cells) in zip(results["points"], run.points(), strict=True):
        tests = [json.loads((cell.directory(run.out) / "result.json").read_text())["test"]["value"] for cell in cells]
        assert (point["strategy"], point["asked"]) == (name, s)
        assert [value["accuracy"] for value in point["values"]] == tests
        assert point["mean"] == pytest.approx(sum(tests) / 2)
        gaps = [a - b for a, b in zip(tests, base, strict=True)]
        assert point["minus_dense"]["mean"] == pytest.approx(sum(gaps) / 2)
        n_kept = sum(
            int(np.count_nonzero(found)) for cell in cells for found in weights(run, cell).values() if found.ndim > 1
        )
        assert point["multiply_adds"] == n_kept / 2, "every weight of a plain layer is used once"
        assert 2 * n_kept / 2 < point["packed_bytes"] < results["dense"]["packed_bytes"]
    assert results["latency"]["n"] == 60
    assert (run.out / "comparison.svg").read_text().count("random masks") >= 1
    costs = {point["strategy"]: (point["epochs"], point["mask_epochs"]) for point in results["points"]}
    assert {name for name, (_, others) in costs.items() if others} == {"random", "scratch-e", "scratch-b"}
    assert costs["scratch-b"] == (6.0, 3.0)


def test_the_stages_are_the_weights_of_the_first_seed_at_the_largest_sparsity(
    run: ComparisonRun, results: dict[str, Any]
) -> None:
    cells = {
        "trained": run.dense()[0],
        "in-loop": cell_of(run, "in-loop"),
        "one-shot": cell_of(run, "one-shot"),
    }
    assert [stage["id"] for stage in results["stages"]] == ["initialised", *cells]
    assert results["stages"][0]["layers"]["fc1.weight"]["n_zero"] == 0
    for stage in results["stages"][1:]:
        found = weights(run, cells[stage["id"]])
        for name, layer in stage["layers"].items():
            assert (layer["n"], layer["n_zero"]) == (found[name].size, int((found[name] == 0).sum()))
    assert results["stages"][2]["layers"]["fc1.weight"]["tau"] > 0


def test_the_page_shows_every_number_in_every_view(run: ComparisonRun, results: dict[str, Any]) -> None:
    page = (run.out / "report.html").read_text("utf-8")
    assert "{{" not in page
    assert "<script" not in page
    assert "http:" not in page.replace("http://www.w3.org", "")
    for view in ("kept", "packed_bytes", "multiply_adds"):
        assert f'id="by-{view}"' in page
        assert page.count(f'<div class="view {view}">') == 1
    assert page.count("<svg") == 3 * len(FAMILIES) + 1 + 2 * 4
    clips = re.findall(r'<clipPath id="([^"]*)"', page)
    assert len(clips) == len(set(clips))
    for point in results["points"]:
        assert f"{100 * point['mean']:.2f}" in page
        assert f"{point['packed_bytes']:,.0f}" in page
    assert results["headline"] in page


def test_a_comparison_of_one_strategy_and_seed_has_a_page_too(tmp_path: Path) -> None:
    asked = comparison(strategies=("gradual",))
    asked = Comparison(**{**asked.values(), "experiment": {**asked.experiment.values(), "seeds": (0,)}})
    data = load_data(DATA)
    alone = ComparisonRun(asked, tmp_path, "", data, build(asked.experiment.model, data.shape, 0))
    results = alone.run(Work(alone.cells(), tmp_path, len(data.y_train), n_jobs=1))
    assert [stage["id"] for stage in results["stages"]] == ["initialised", "trained", "in-loop"]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<svg") == 3 + 1 + 2 * 3


def test_the_same_again_runs_nothing_and_says_the_same(run: ComparisonRun, results: dict[str, Any]) -> None:
    times = {path: path.stat().st_mtime_ns for path in run.out.glob("cells/*/*")}
    work = Work(run.cells(), run.out, len(run.data.y_train), n_jobs=1)
    assert run.run(work) == results
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert work.progress().n_steps_done == work.n_steps


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strategies": ("one-shoot",)}, "Did you mean 'one-shot'"),
        ({"strategies": ()}, "strategies must be named, each once"),
        ({"strategies": ("random", "random")}, "strategies must be named, each once"),
        ({"sparsities": ()}, "sparsities must lie between 0 and 1"),
        ({"sparsities": (0.5, 1.0)}, "sparsities must lie between 0 and 1"),
        ({"sparsities": (0.5, 0.5)}, "sparsities must be named, each once"),
        ({"n_rounds": 0}, "n_rounds must be at least 1"),
        ({"fine_tune": Training(epochs=0.0)}, "fine_tune needs epochs, at most the 2 of the training"),
        ({"fine_tune": Training(epochs=3.0)}, "fine_tune needs epochs, at most the 2 of the training"),
        ({"fine_tune": TAUGHT}, "What distils needs a network that teaches"),
        ({"start_sha256": "0", "strategies": ("scratch-e",)}, "'scratch-e' repeats a training from its first weights"),
        ({"start_sha256": "0", "strategies": ("random",), "fine_tune": Training(epochs=0.0)}, "fine_tune needs epochs"),
    ],
)
def test_what_cannot_be_compared_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        comparison(**fields)


def test_sparsities_that_a_pattern_cannot_have_are_refused() -> None:
    """Bug: of 4 neighbours 0.9 took all, and 0.7 came to 0.75."""
    experiment = comparison().experiment.model_copy(update={"recipe": Recipe.parse("2:4")})
    with pytest.raises(
        RecipeError, match=r"Of 4 neighbours 0\.7, 0\.9 cannot go\. Sparsities that can be are 0\.25, 0\.5, 0"
    ):
        comparison(experiment=experiment, sparsities=(0.5, 0.7, 0.9))
    assert comparison(experiment=experiment, sparsities=(0.5, 0.75)).sparsities == (0.5, 0.75)


def test_a_pattern_of_blocks_has_the_sparsities_of_its_blocks() -> None:
    """Bug: of two blocks of two in four neighbours 0.25 was to go, and came to nothing or half."""
    recipe = Recipe(unit="block(1, 2)", pool=4, budget="top(1)")
    experiment = comparison().experiment.model_copy(update={"recipe": recipe})
    with pytest.raises(RecipeError, match=r"Of 2 neighbours 0\.25 cannot go\. Sparsities that can be are 0\.5\."):
        comparison(experiment=experiment, sparsities=(0.25, 0.5))
    assert comparison(experiment=experiment, sparsities=(0.5,)).sparsities == (0.5,)


def test_what_a_network_costs_is_counted_anew_after_an_upgrade(tmp_path: Path) -> None:
    """Bug: bytes that another version packed were shown for ever."""
    data = load_data(DATA)
    spec = ModelSpec.parse("lenet-300-100")
    network = build(spec, data.shape, 0)
    save_model(network, spec, data.shape, tmp_path)
    (tmp_path / "cost.json").write_text('{"packed_bytes": 1.0, "multiply_adds": 1.0}')
    cell: Any = SimpleNamespace(directory=lambda _: tmp_path, load=lambda _: network)
    asked: Any = SimpleNamespace(out=tmp_path)
    found = _cost(asked, cell, uses(network, data.x_train[:1]))
    assert found["packed_bytes"] > 100_000
    assert _cost(asked, cell, {}) == found


def test_budgets_of_single_layers_are_refused_and_erk_stays_erk() -> None:
    """Bug: both were compared as one sparsity for all layers, without a word."""
    experiment = comparison().experiment
    by_layer = Recipe(pool="layer", budget={"fc1*": "sparsity(0.9)", "*": "sparsity(0.5)"})
    with pytest.raises(RecipeError, match=r"names one for each layer\. Give sparsity"):
        comparison(experiment=experiment.model_copy(update={"recipe": by_layer}))
    by_erk = Recipe(pool="layer", budget="erk(0.9)", skip=("x",))
    assert at_sparsity(by_erk, 0.7) == Recipe(pool="layer", budget="erk(0.7)", skip=("x",))
    assert at_sparsity(Recipe(budget="sparsity(0.9)"), 0.7) == Recipe(budget="sparsity(0.7)")


def test_a_comparison_survives_yaml() -> None:
    assert Comparison.from_yaml(comparison().to_yaml()) == comparison()


@pytest.fixture(scope="module")
def from_given(run: ComparisonRun, tmp_path_factory: pytest.TempPathFactory) -> ComparisonRun:
    """Every strategy that a network with its training behind it can take; that network teaches."""
    network = run.dense()[0].load(run.out)
    name, content = stored_weights(network)
    possible = tuple(each for each in STRATEGIES if each not in FROM_FIRST_WEIGHTS)
    asked = comparison(strategies=possible, start_sha256=name, fine_tune=TAUGHT)
    out = tmp_path_factory.mktemp("given")
    keep_weights(name, content, out)
    found = ComparisonRun(asked, out, "secateurs compare", run.data, network)
    found.check()
    found.run(Work(found.cells(), out, len(run.data.y_train), n_jobs=1))
    return found


def test_a_given_network_is_compared_from_its_own_weights(run: ComparisonRun, from_given: ComparisonRun) -> None:
    results = json.loads((from_given.out / "results.json").read_text())
    dense = json.loads((run.out / "results.json").read_text())["dense"]["values"][0]["accuracy"]
    assert results["given"]["value"] == dense
    assert {point["epochs"] for point in results["points"]} == {results["dense"]["epochs"]} == {2.0}
    assert from_given.given is not None
    for _, _, cells in from_given.points():
        for cell in cells:
            first = cell
            while first.start is not None:
                first = first.start
            assert first.weights == from_given.comparison.start_sha256
            assert (cell.teacher == from_given.given) == (cell.training.epochs > 0)
    theirs = weights(from_given, from_given.given)
    assert all(np.array_equal(theirs[name], mine) for name, mine in weights(run, run.dense()[0]).items())
    cut = cell_of(from_given, "fine-tuned")
    assert cut.start == Cell(**{**from_given.given.values(), "seed": cut.seed})
    assert [stage["id"] for stage in results["stages"]] == ["trained", "in-loop", "one-shot"]
    page = (from_given.out / "report.html").read_text("utf-8")
    assert "Dense, as given" in page
    assert "were trained on for 2 epochs from the network that was given" in page


def test_a_fine_tuning_as_long_as_the_training_rewinds_to_the_first_weights(tmp_path: Path) -> None:
    asked, data = comparison(fine_tune=TRAINING), load_data(DATA)
    run = ComparisonRun(asked, tmp_path, "", data, build(asked.experiment.model, data.shape, 0))
    start = cell_of(run, "weight-rewound").start
    assert start is not None
    assert start.training.epochs == 0.0
    assert epochs_of(cell_of(run, "weight-rewound")) == epochs_of(run.dense()[0])
