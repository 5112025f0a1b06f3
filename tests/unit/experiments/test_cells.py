"""A cell is named by what it is, run once, after the one it starts from, and never again."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import Tensor, nn

from secateurs.data import DataSpec
from secateurs.errors import InputError, RecipeError
from secateurs.experiments import cells
from secateurs.experiments import perform as work
from secateurs.experiments.cells import Cell, latest, run, with_needs
from secateurs.experiments.perform import perform
from secateurs.layers import named_parameters
from secateurs.masks import Masks
from secateurs.models import ModelSpec
from secateurs.quantizing import quantize
from secateurs.recipe import Recipe, with_words
from secateurs.train.distillation import Distillation, answers_of
from secateurs.train.training import Training

Make = Callable[..., Cell]
PRUNED = Recipe(budget="sparsity(0.7)", schedule="cubic(0.1, 0.6)")
UNTRAINED = Training(epochs=0.0)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells really run, in order (in this process, so with n_jobs=1)."""
    found: list[Cell] = []
    real = work._perform

    def watched(cell: Cell, directory: Path, here: Path) -> None:
        found.append(cell)
        real(cell, directory, here)

    monkeypatch.setattr(work, "_perform", watched)
    return found


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_the_name_of_a_cell_is_the_same_in_another_process(cell: Make) -> None:
    one = cell(recipe=PRUNED, start=cell())
    code = (
        "import json, sys; from secateurs.experiments.cells import Cell;"
        "print(Cell(**json.loads(sys.stdin.read())).hash)"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, input=json.dumps(one.values()), capture_output=True, text=True, check=True).stdout
    assert printed.strip() == one.hash
    assert one.directory(Path("run")) == Path("run/cells") / one.hash
    assert Cell.from_yaml(one.to_yaml()) == one


def test_every_field_changes_the_name_and_equal_cells_are_one_key(cell: Make) -> None:
    changes: dict[str, object] = {
        "model": ModelSpec.parse("lenet-300-100"),
        "data": DataSpec(),
        "data_hash": "0" * 64,
        "training": Training(epochs=2.0),
        "recipe": PRUNED,
        "seed": 1,
        "start": cell(),
        "weights": "0" * 64,
        "is_trimmed": True,
        "shrink": (Recipe(score="l2", unit="row", pool="layer", budget="sparsity(0.5)"),),
        "masks": cell(),
        "is_shuffled": True,
        "teacher": cell(),
        "recover": ("repair",),
        "skip": ("head.weight",),
        "only": ("*",),
        "n_looks": 5,
        "is_story": True,
        "is_tested": False,
    }
    assert set(changes) == set(Cell.model_fields)
    # What a field cannot do without.
    with_it: dict[str, dict[str, object]] = {
        "masks": {"recipe": PRUNED},
        "is_shuffled": {"recipe": PRUNED, "masks": cell()},
        "teacher": {"training": Training(distill=Distillation())},
        "recover": {"recipe": PRUNED, "training": UNTRAINED},
    }
    found = [cell(), *(cell(**{key: value}, **with_it.get(key, {})) for key, value in changes.items())]
    found += [cell(start=cell(seed=1)), cell(start=cell(start=cell()))]
    assert len({one.hash for one in found}) == len(found)
    assert len({*found, *found, cell()}) == len(found)


def test_a_cell_writes_what_it_found_and_what_it_made(cell: Make, tmp_path: Path) -> None:
    one = cell(recipe=PRUNED, is_story=True, n_looks=3)
    result = run([one], tmp_path, perform, n_jobs=1)[one]
    here = one.directory(tmp_path)
    weights_and_masks = ("model.safetensors", "config.json", "masks.safetensors")
    names = (".lock", *weights_and_masks, "metrics.jsonl", "film.json", "sweep.json")
    assert {p.name for p in here.iterdir()} == {*names, "result.json"}
    weights = load_file(here / "model.safetensors")
    n = sum(weights[name].size for name in result["layers"])
    zeros = sum(int(np.count_nonzero(weights[name] == 0)) for name in result["layers"])
    assert (result["n_prunable"], result["n_zero"]) == (n, zeros) == (n, round(0.7 * n))
    assert Masks.load(here / "masks.safetensors").n_kept == n - zeros
    lines = [json.loads(line) for line in (here / "metrics.jsonl").read_text().splitlines()]
    *looks, last = lines
    assert [line["step"] for line in looks] == [0, 1, 2, 3]  # 40 examples by 16
    assert {line["cell"] for line in lines} == {one.hash}
    assert looks[-1]["sparsity"] == pytest.approx(zeros / n)
    assert (last["test"], last["validation"]) == (result["test"], result["validation"])
    assert looks[-1]["accuracy"] == result["validation"]["value"]
    assert len(json.loads((here / "film.json").read_text())) == len(looks)
    module = one.load(tmp_path)
    assert all(np.array_equal(value.numpy(), weights[name]) for name, value in module.state_dict().items())


def test_a_sweep_is_what_numpy_counts_and_leaves_the_network_alone(cell: Make, tmp_path: Path) -> None:
    one = cell(training=UNTRAINED, is_story=True)
    result = run([one], tmp_path, perform, n_jobs=1)[one]
    weights = load_file(one.directory(tmp_path) / "model.safetensors")
    assert result["n_zero"] == 0
    sweep = json.loads((one.directory(tmp_path) / "sweep.json").read_text())
    for point in sweep["sigma"] + sweep["absolute"]:
        cut = 0
        for name in result["layers"]:
            weight = weights[name].astype(np.float64)
            tau = point["tau"] * (weight.std() if point in sweep["sigma"] else 1.0)
            cut += int((np.abs(weight) <= tau).sum())
        assert point["sparsity"] == pytest.approx(cut / result["n_prunable"], abs=1e-12)
        assert point["n"] == 20
    assert sweep["sigma"][0]["accuracy"] == result["validation"]["value"], "tau 0 cuts nothing"


def test_cells_run_after_the_one_they_start_from_and_only_once(cell: Make, tmp_path: Path, ran: list[Cell]) -> None:
    start = cell()
    once = cell(training=UNTRAINED, recipe=Recipe(budget="sparsity(0.5)"), start=start)
    tuned = cell(training=Training(epochs=0.5, batch_size=16), recipe=PRUNED, start=once)
    heard: list[Cell] = []
    results = run([tuned, once, tuned], tmp_path, perform, n_jobs=1, listen=heard.append)
    assert ran == heard == [start, once, tuned]
    assert set(results) == {start, once, tuned}
    before = files(tmp_path)
    assert run([tuned, once], tmp_path, perform, n_jobs=1, listen=heard.append) == results
    assert ran == [start, once, tuned], "nothing is run again"
    assert set(heard[3:]) == {start, once, tuned}, "and whoever listens hears of all"
    assert files(tmp_path) == before
    a, b = (load_file(one.directory(tmp_path) / "model.safetensors") for one in (start, once))
    assert all(np.all((b[name] == 0) | (b[name] == a[name])) for name in a), "pruned once: cut, never changed"


def test_a_cell_without_a_result_is_run_again_to_the_same_bytes(cell: Make, tmp_path: Path, ran: list[Cell]) -> None:
    start, after = cell(), cell(recipe=PRUNED, start=cell())
    run([after], tmp_path, perform, n_jobs=1)
    before = files(tmp_path)
    here = start.directory(tmp_path)
    (here / "result.json").unlink()
    (here / "model.safetensors").write_bytes(b"half")
    (here / "metrics.jsonl").write_text('{"step"')
    run([after], tmp_path, perform, n_jobs=1)
    assert ran == [start, after, start]
    assert files(tmp_path) == before


class Killed(BaseException):
    """The process is gone."""


LONG = {"epochs": 2.0, "batch_size": 16}  # six steps


@pytest.mark.parametrize(
    "fields",
    [
        {"training": Training(**LONG)},
        {"training": Training(**LONG, revive="dense"), "recipe": PRUNED},
        {"training": Training(**LONG, revive="forget"), "recipe": Recipe(budget="threshold(1.2sigma)")},
        {"training": Training(**LONG, quantize="int4"), "recipe": PRUNED},
        {"training": Training(**LONG), "recipe": PRUNED, "is_shuffled": True},
        {"training": Training(**LONG), "recipe": PRUNED, "is_story": True},
    ],
    ids=["dense", "regrown", "in-loop", "int4", "masks", "story"],
)
def test_a_killed_cell_goes_on_from_its_last_look_to_the_same_bytes(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    one = cell(n_looks=6, **fields, **({"masks": cell()} if fields.get("is_shuffled") else {}))
    run([one], tmp_path / "once", perform, n_jobs=1)
    real, steps = work.train, []

    def dying(*arguments: Any, **more: Any) -> Iterator[Any]:
        for look in real(*arguments, **more):
            steps.append(look.step)
            yield look
            if look.step == 4:
                raise Killed

    run(one.needs, tmp_path / "killed", perform, n_jobs=1)
    monkeypatch.setattr(work, "train", dying)
    with pytest.raises(Killed):
        run([one], tmp_path / "killed", perform, n_jobs=1)
    here = one.directory(tmp_path / "killed")
    (here / ".model.safetensors.x.tmp").write_bytes(b"half")
    assert len(list(here.glob("*.state"))) == (0 if one.is_story else 1)
    monkeypatch.setattr(work, "train", lambda *a, **k: (steps.append(look.step) or look for look in real(*a, **k)))
    run([one], tmp_path / "killed", perform, n_jobs=1)
    again = [0, 1, 2, 3, 4, 5, 6] if one.is_story else [4, 5, 6]  # the state is that of the look before the kill
    assert steps == [0, 1, 2, 3, 4, *again]
    assert files(tmp_path / "killed") == files(tmp_path / "once")


def test_a_state_of_another_machine_or_version_is_not_gone_on_from(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    mine = work._state_file(here)
    assert mine == work._state_file(here)
    monkeypatch.setattr(work, "environment", lambda: {**cells.environment(), "cores": 99})
    assert mine == work._state_file(here)
    monkeypatch.setattr(work, "environment", lambda: {**cells.environment(), "torch": "9.9.9"})
    assert mine != work._state_file(here)


def test_processes_make_the_same_bytes_as_one(cell: Make, tmp_path: Path) -> None:
    wanted = [cell(recipe=PRUNED, start=cell(seed=seed), seed=seed) for seed in (0, 1)]
    alone = run(wanted, tmp_path / "one", perform, n_jobs=1)
    together = run(wanted, tmp_path / "two", perform, n_jobs=2)
    assert alone == together
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_result_from_another_machine_or_version_is_not_taken(
    cell: Make, tmp_path: Path, ran: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = cell(training=UNTRAINED)
    run([one], tmp_path, perform, n_jobs=1)
    elsewhere = {**cells.environment(), "torch": "9.9.9"}
    monkeypatch.setattr(cells, "environment", lambda: elsewhere)
    monkeypatch.setattr(work, "environment", lambda: elsewhere)
    assert one.result(tmp_path) is None
    assert run([one], tmp_path, perform, n_jobs=1)[one]["environment"]["torch"] == "9.9.9"
    assert ran == [one, one]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"environment": ',
        b"\xff\xfe",
        b"[]",
        b"{}",
    ],
)
def test_a_damaged_result_is_one_input_error_that_names_it(cell: Make, tmp_path: Path, content: bytes) -> None:
    one = cell(training=UNTRAINED)
    run([one], tmp_path, perform, n_jobs=1)
    (one.directory(tmp_path) / "result.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"{one.hash}/result\.json is damaged .* Delete it") as told:
        run([one], tmp_path, perform, n_jobs=1)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_weights_of_a_complete_cell_are_one_input_error(cell: Make, tmp_path: Path, damage: str) -> None:
    one = cell(training=UNTRAINED)
    run([one], tmp_path, perform, n_jobs=1)
    path = one.directory(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7]) if damage == "cut" else path.unlink()
    with pytest.raises(InputError, match=one.hash):
        one.load(tmp_path)


def test_data_that_changed_under_the_same_name_are_not_used(cell: Make, tmp_path: Path) -> None:
    one = cell(data_hash="0" * 64)
    with pytest.raises(InputError, match="The data of 'digits' changed under way"):
        run([one], tmp_path, perform, n_jobs=1)
    assert one.result(tmp_path) is None


def test_a_diverged_cell_is_told_and_leaves_no_result(cell: Make, tmp_path: Path) -> None:
    wild = cell(training=Training(optimizer="sgd", learning_rate=1e30, warmup=0.0, epochs=2.0, batch_size=16))
    with pytest.raises(RecipeError, match="diverged"):
        run([wild], tmp_path, perform, n_jobs=1)
    assert wild.result(tmp_path) is None


def test_steps_count_starts_once_and_the_latest_line_is_read_while_it_is_written(cell: Make, tmp_path: Path) -> None:
    start = cell()
    followers: list[Any] = [cell(start=start, seed=seed) for seed in (0, 1)]
    assert with_needs(followers) == [start, *followers]
    here = start.directory(tmp_path)
    here.mkdir(parents=True)
    assert list(latest([start, *followers], tmp_path)) == []
    (here / "metrics.jsonl").write_text('{"step": 1}\n')
    assert list(latest([start, *followers], tmp_path)) == [(start, {"step": 1})]
    (here / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    assert list(latest([start], tmp_path)) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"masks": True}, "masks are chosen by a recipe"),
        ({"is_shuffled": True, "recipe": PRUNED}, "give masks"),
        ({"teacher": True}, r"teacher and training\.distill go together"),
        ({"training": Training(distill=Distillation())}, r"teacher and training\.distill go together"),
        ({"recover": ("repair",), "recipe": PRUNED}, "a training of 0 epochs"),
        ({"recover": ("repair",), "training": UNTRAINED}, "give a recipe"),
    ],
)
def test_fields_that_need_each_other(cell: Make, fields: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        cell(**{key: cell() if key in ("masks", "teacher") else value for key, value in fields.items()})


def kept(directory: Path, one: Cell) -> dict[str, np.ndarray[Any, Any]]:
    return {name: keep.numpy() for name, keep in Masks.load(one.directory(directory) / "masks.safetensors").items()}


def test_masks_of_another_cell_are_held_on_the_first_weights(cell: Make, tmp_path: Path) -> None:
    half, most = (Recipe(budget=f"sparsity({s})", pool="layer") for s in (0.5, 0.75))
    first = cell(training=UNTRAINED)
    ticket = cell(start=first, masks=cell(), recipe=half)
    deeper = cell(start=first, masks=ticket, recipe=most)
    laid = cell(training=UNTRAINED, start=first, masks=ticket, recipe=most)
    results = run([deeper, laid], tmp_path, perform, n_jobs=1)
    trained, end = (load_file(one.directory(tmp_path) / "model.safetensors") for one in (cell(), ticket))
    for name, keep in kept(tmp_path, ticket).items():
        assert keep.sum() == keep.size - round(0.5 * keep.size)
        size = np.abs(trained[name])
        assert size[keep].min() >= size[~keep].max(), "the largest at the end of the other cell"
        assert np.all(end[name][~keep] == 0)
    nested = [kept(tmp_path, one) for one in (ticket, deeper)]
    assert all(np.all(nested[0][name] | ~nested[1][name]) for name in nested[0])
    assert results[laid]["n_zero"] == results[deeper]["n_zero"]
    a, b = (load_file(one.directory(tmp_path) / "model.safetensors") for one in (first, laid))
    assert all(np.array_equal(b[name], a[name] * keep) for name, keep in kept(tmp_path, laid).items())


@pytest.mark.parametrize("unit", ["element", "row"])
def test_shuffled_masks_keep_as_many_of_each_layer_elsewhere(cell: Make, tmp_path: Path, unit: str) -> None:
    recipe = Recipe(budget="sparsity(0.6)", unit=unit)
    whole = cell(training=UNTRAINED, masks=cell(), recipe=recipe)
    shuffled = cell(training=UNTRAINED, masks=cell(), recipe=recipe, is_shuffled=True)
    run([whole, shuffled], tmp_path, perform, n_jobs=1)
    one, other = kept(tmp_path, whole), kept(tmp_path, shuffled)
    assert {name: keep.sum() for name, keep in one.items()} == {name: keep.sum() for name, keep in other.items()}
    assert any(not np.array_equal(one[name], other[name]) for name in one)
    if unit == "row":
        assert all(set(keep.reshape(len(keep), -1).mean(axis=1)) <= {0.0, 1.0} for keep in other.values())


@pytest.mark.parametrize("values", ["int8", "int4/4", "codebook:2"])
def test_weights_take_their_values_in_training_and_after_a_cut_without(cell: Make, tmp_path: Path, values: str) -> None:
    recipe = with_words(PRUNED, schedule="one_shot(end=0.0)")
    trained = cell(recipe=recipe, training=Training(epochs=1.0, batch_size=16, quantize=values))
    cut = cell(recipe=recipe, start=cell(), training=Training(epochs=0.0, quantize=values), recover=("repair",))
    later = cell(start=cut, training=Training(epochs=1.0, batch_size=16, quantize=values))
    results = run([trained, cut, later], tmp_path, perform, n_jobs=1)
    for one in (trained, cut, later):
        module = one.load(tmp_path)
        assert all(line.largest_error == 0.0 for line in quantize(module, values))
        zeros = sum(int((named_parameters(module)[name] == 0).sum()) for name in results[one]["layers"])
        assert results[one]["n_zero"] == zeros >= round(0.7 * results[one]["n_prunable"])
    before, after = (one.load(tmp_path).state_dict() for one in (cut, later))
    assert all(bool((after[name][before[name] == 0] == 0).all()) for name in results[later]["layers"])


def test_a_teacher_is_needed_first_and_heard(cell: Make, tmp_path: Path) -> None:
    training = Training(epochs=1.0, batch_size=16, distill=Distillation())
    taught = cell(training=training, teacher=cell())
    run([taught], tmp_path, perform, n_jobs=1)
    a, b = (load_file(one.directory(tmp_path) / "model.safetensors") for one in (cell(), taught))
    assert any(not np.array_equal(a[name], b[name]) for name in a)


def test_a_teacher_answers_once_for_all_that_learn_from_it(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[nn.Module] = []

    def answering(teacher: nn.Module, x: Tensor) -> Tensor:
        asked.append(teacher)
        return answers_of(teacher, x)

    monkeypatch.setattr(work, "answers_of", answering)
    trainings = [Training(epochs=epochs, batch_size=16, distill=Distillation()) for epochs in (0.5, 1.0)]
    learning = [cell(training=training, teacher=cell()) for training in trainings]
    run(learning, tmp_path, perform, n_jobs=1)
    assert len(asked) == 1
    # Other weights of the teacher have other answers.
    (cell().directory(tmp_path) / "result.json").unlink()
    run([cell()], tmp_path, perform, n_jobs=1)
    (learning[0].directory(tmp_path) / "result.json").unlink()
    run(learning[:1], tmp_path, perform, n_jobs=1)
    assert len(asked) == 2
    (kept,) = cell().directory(tmp_path).glob("answers-*.safetensors")
    kept.write_bytes(b"damaged")
    (learning[0].directory(tmp_path) / "result.json").unlink()
    with pytest.raises(InputError, match=r"is damaged.*Delete it, and the teacher answers again"):
        run(learning[:1], tmp_path, perform, n_jobs=1)
