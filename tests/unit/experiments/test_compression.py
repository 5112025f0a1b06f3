"""A compression from end to end on a few digits: what it chooses, writes, and says; the numbers are found again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import secateurs as sc
from secateurs.data import DataSpec, load_data
from secateurs.errors import InputError, RecipeError
from secateurs.experiments.candidates import VALUES, Candidate
from secateurs.experiments.cells import keep_weights, stored_weights
from secateurs.experiments.choosing import Goal, Tried
from secateurs.experiments.compressed import CompressionRun
from secateurs.experiments.compression import Compression, Ground
from secateurs.experiments.pacing import pace_of
from secateurs.experiments.presets import data_for
from secateurs.experiments.probes import Probe, probe, probe_all
from secateurs.experiments.search import Search
from secateurs.measure.accuracy import accuracy, correct
from secateurs.models import ModelSpec, build, load_model, trim_vocabulary
from secateurs.train.training import Training

MANY = 10**12  # examples: then the drop is what was measured
DATA = DataSpec(limit_train=200, limit_validation=60, limit_test=80)
TRAINING = Training(learning_rate=2e-3, epochs=4.0, batch_size=20)
SPEC = ModelSpec.parse("cls-transformer(dim=16, depth=1)")


def ground_of(**fields: Any) -> Ground:
    asked = Compression(model=SPEC, data=DATA, training=TRAINING, recovery=TRAINING, **{"epochs": 4.5, **fields})
    data = load_data(DATA)
    return Ground(asked, data, build(SPEC, data.shape, 0))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CompressionRun:
    """With a goal that a network of a few epochs can meet."""
    found = CompressionRun(ground_of(max_drop=0.2), tmp_path_factory.mktemp("compression"), "secateurs compress", 1)
    found.run()
    return found


@pytest.fixture(scope="module")
def results(run: CompressionRun) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.out / "results.json").read_text())
    return found


def test_what_was_chosen_meets_the_goal_on_validation_examples(results: dict[str, Any]) -> None:
    chosen = results["chosen"]
    assert chosen["is_met_on_validation"]
    assert chosen["drop"] < chosen["surely"] <= 0.2
    good = [each for each in results["tried"] if each["surely"] <= 0.2]
    least = min(each["size_bytes"] for each in good)
    assert chosen["size_bytes"] <= 1.01 * least
    assert chosen["drop"] == min(each["drop"] for each in good if each["size_bytes"] <= 1.01 * least)


def test_the_packed_file_has_the_bytes_and_the_accuracy_that_are_said(
    run: CompressionRun, results: dict[str, Any]
) -> None:
    packed = run.out / "packed" / "weights.packed.safetensors"
    assert packed.stat().st_size == results["chosen"]["size_bytes"]
    network = sc.load_network(run.out)
    found = accuracy(network, run.ground.data.x_test, run.ground.data.y_test)
    assert found.n_correct == results["test"]["n_correct"]
    dense = run.ground.dense.load(run.out)
    before, after = (correct(each, run.ground.data.x_test, run.ground.data.y_test) for each in (dense, network))
    assert results["test"]["n_lost"] == int((before & ~after).sum())
    assert results["test"]["n_gained"] == int((~before & after).sum())


def test_model_and_packed_are_the_same_network(run: CompressionRun) -> None:
    x = run.ground.data.x_test[:8]
    with torch.inference_mode():
        assert torch.equal(sc.load_network(run.out / "model")(x), sc.load_network(run.out / "packed")(x))


def test_quantization_brings_no_zero_back(run: CompressionRun, results: dict[str, Any]) -> None:
    rows = {row["id"]: row for row in results["steps"]}
    for name in ("after", "with"):
        if name in rows:
            assert rows[name]["n_zero"] >= rows["taught"]["n_zero"]
    assert rows["taught"]["n_zero"] > 0


def test_the_front_is_beaten_by_nothing(results: dict[str, Any]) -> None:
    tried = results["tried"]
    for each in tried:
        beats = [o for o in tried if o["size_bytes"] < each["size_bytes"] and o["drop"] <= each["drop"]]
        if each["is_front"]:
            assert not beats
        assert (each["latency_s"] is not None) == each["is_front"]
        assert each["low"] < each["drop"] < each["high"]


def test_what_is_beyond_hope_is_not_rounded_in_every_way(run: CompressionRun, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "run")
    chains, cell = run.search.chains, run.ground.dense
    stored = tuple((name, chains.stored(name)) for name in VALUES)
    (cell.directory(tmp_path / "run") / "probes-val.json").unlink()
    for most, n in ((-0.1, 1), (-0.1, 1), (0.0, len(VALUES))):  # a second time as the first
        assert len(probe(Probe(cell, cell, stored, most=most), tmp_path / "run")) == n


def test_several_processes_share_what_is_measured_of_one_network(run: CompressionRun, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "run")
    chains, cell = run.search.chains, run.ground.dense
    asked = Probe(cell, cell, tuple((name, chains.stored(name)) for name in VALUES))
    kept = cell.directory(tmp_path / "run") / "probes-val.json"
    kept.unlink()
    (found,) = probe_all([asked], tmp_path / "run", 2)
    assert list(found) == [*VALUES]
    assert found == probe(asked, run.out) == json.loads(kept.read_text())["measured"]


def test_a_cell_that_several_candidates_share_is_counted_once(run: CompressionRun) -> None:
    progress = run.search.progress()
    assert progress.n_cells_done == progress.n_cells == len(list((run.out / "cells").iterdir()))
    n_steps = [json.loads(path.read_text())["n_steps"] for path in (run.out / "cells").glob("*/result.json")]
    assert progress.n_steps_done == sum(n_steps)


def test_everything_that_is_promised_lies_there(run: CompressionRun) -> None:
    names = {path.name for path in run.out.iterdir()}
    assert {"model", "packed", "README.md", "report.html", "pareto.png", "results.json", "metrics.jsonl"} <= names
    card = (run.out / "README.md").read_text()
    assert "what was asked for (at most 20.00 points lost) is" in card
    assert 'sc.load_network("packed")' in card
    page = (run.out / "report.html").read_text()
    assert "{{" not in page
    assert "The golden trio: what each step gave" in page


def test_the_code_on_the_card_runs(run: CompressionRun, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (run.out / "README.md").read_text()
    monkeypatch.chdir(run.out)
    found: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], found)
    with torch.inference_mode():
        right = run.network(run.search.run().chosen)(found["x"]).argmax(dim=1)
    assert torch.equal(found["answers"], right)
    assert "`secateurs run DIR --data digits`" in card


def test_no_candidate_answers_a_test_example(run: CompressionRun, results: dict[str, Any]) -> None:
    files = (run.out / "cells").glob("*/metrics.jsonl")
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert any("validation" in line for line in lines)
    assert not any("test" in line for line in lines)
    answered = {path.parent.name for path in (run.out / "cells").glob("*/probes-test.json")}
    assert len(answered) <= len(results["steps"]) < len(list((run.out / "cells").iterdir()))


def test_the_same_command_again_trains_nothing_and_finds_the_same(
    run: CompressionRun, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **fields: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("secateurs.experiments.perform.train", refuse)
    again = CompressionRun(run.ground, run.out, run.command, 1).run()
    assert {**again, "duration_s": 0} == {**results, "duration_s": 0}


def test_what_another_machine_measured_is_measured_again(run: CompressionRun, results: dict[str, Any]) -> None:
    """Bug: cells were made anew there, and the figures of the old ones were kept."""
    for path in (run.out / "cells").glob("*/probes-*.json"):
        found = json.loads(path.read_text())
        found["environment"]["cpu"] = "another"
        for each in found["measured"].values():
            each["n_correct"] = 0
        path.write_text(json.dumps(found))
    again = CompressionRun(run.ground, run.out, run.command, 1).run()
    assert {**again, "duration_s": 0} == {**results, "duration_s": 0}


def test_one_step_is_the_chosen_one(results: dict[str, Any]) -> None:
    chosen = [row for row in results["steps"] if row["is_chosen"]]
    assert [row["size_bytes"] for row in chosen] == [results["chosen"]["size_bytes"]]
    assert chosen[0]["n_correct"] == results["test"]["n_correct"]


def test_a_goal_out_of_reach_is_told_and_the_closest_is_there(tmp_path: Path) -> None:
    found = CompressionRun(ground_of(max_drop=0.0, size_bytes=100.0, epochs=0.9), tmp_path, "secateurs compress", 1)
    results = found.run()
    assert not results["is_met"]
    assert not results["gates"]["size_bytes"]["is_met"]
    assert "NOT met" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "packed" / "weights.packed.safetensors").exists()
    assert found.search.ground.asked.goal == Goal(0.0, 100.0)


def test_where_nothing_is_cut_the_dense_network_learns_with_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = "secateurs.experiments.search"
    monkeypatch.setattr(Ground, "shapes", lambda self: ([Candidate(0.0, 0.5)], []))
    monkeypatch.setattr(f"{search}.aimed", lambda *_: [Candidate(0.0, 0.0, "codebook:2")])
    monkeypatch.setattr(f"{search}.worth_tuning", lambda tried, *_: tried[-1].candidate)
    monkeypatch.setattr(f"{search}.best", lambda tried, _: next((each for each in tried if each.is_tuned), None))
    run = CompressionRun(ground_of(max_drop=0.5, epochs=0.9), tmp_path, "secateurs compress", 1)
    results = run.run()
    assert results["chosen"]["candidate"] == {"student": 0.0, "sparsity": 0.0, "values": "codebook:2", "pattern": ""}
    assert [row["id"] for row in results["steps"]] == ["dense", "longer", "rounded", "with"]
    assert [stage["title"] for stage in results["stages"]] == ["Dense", "Stored"]
    assert "trained with its values for" in (tmp_path / "README.md").read_text()
    # What is not changed is not measured again.
    assert [each["epochs"] for each in results["tried"] if not each["is_tuned"]].count(0.0) == len(VALUES)


def test_where_rounding_alone_meets_the_goal_and_nothing_smaller_does_it_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ground, "shapes", lambda self: ([], []))
    run = CompressionRun(ground_of(max_drop=0.5), tmp_path, "secateurs compress", 1)
    results = run.run()
    assert results["is_met"]
    assert results["chosen"]["epochs"] == 0.0
    assert {each["candidate"]["values"] for each in results["tried"]} == {*VALUES}
    assert [row["id"] for row in results["steps"]] == ["dense", "after"]
    assert "nothing was trained after the dense network" in (tmp_path / "README.md").read_text()
    with torch.inference_mode():
        x = run.ground.data.x_test[:8]
        stored = sc.load_network(tmp_path / "packed")(x)
        rounded = run.ground.dense.load(tmp_path).eval()
        sc.quantize(rounded, run.search.chains.stored(results["chosen"]["candidate"]["values"]))
        assert torch.equal(stored, rounded(x))


def test_the_whole_network_learns_with_values_that_would_make_it_the_smallest(tmp_path: Path) -> None:
    def learning(drop: float, size: int, **goal: float) -> Candidate | None:
        whole = [("exact", 900, 0.0), ("int8", 250, 0.0), ("codebook:3", size, drop)]
        tried = [Tried(Candidate(0.0, 0.0, v), 0.0, False, n, MANY, int(d * MANY), 0) for v, n, d in whole]
        tried.append(Tried(Candidate(0.0, 0.5, "int8"), 0.5, False, 150, MANY, int(0.002 * MANY), 0))
        ground = ground_of(max_drop=0.005, **goal)
        of_epoch = ground.asked.training.steps_per_epoch(len(ground.data.y_train))
        return Search(ground, tmp_path, 1)._learning(tried, 1000 / of_epoch)  # after so many steps 0.4 is left

    assert learning(0.015, 100) == Candidate(0.0, 0.0)  # 0.4 of it is 0.006, of 0.0075
    assert learning(0.020, 100) is None
    assert learning(0.015, 160) is None  # half of the weights gone and int8 are 150 bytes
    assert learning(0.015, 100, size_bytes=120.0) is None


def test_the_clock_decides_once_how_many_candidates_there_is_time_for(tmp_path: Path) -> None:
    search = Search(ground_of(epochs=None, max_time_s=100.0), tmp_path, 1)
    (tmp_path / "clock.json").write_text('{"seconds": 50.0}')
    search = Search(search.ground, tmp_path, 1)
    search._pace = pace_of(search.ground.asked, 5, 200, 0.001, 1)
    assert search._fitting(1, 4, 10.0) == 4  # 60 s are left of 110
    assert search._fitting(2, 4, 25.0) == 2
    (tmp_path / "clock.json").write_text('{"seconds": 500.0}')
    again = Search(search.ground, tmp_path, 3)  # other cores do not change what was planned
    again._pace = search._pace
    assert [again._fitting(rung, 4, 25.0) for rung in (1, 2, 3)] == [4, 2, 0]


def test_the_first_rung_ends_where_it_would_take_all_of_the_time(tmp_path: Path) -> None:
    def turns(seconds: float, max_time_s: float) -> list[int]:
        search = Search(ground_of(epochs=None, max_time_s=max_time_s), tmp_path, 1)
        search.clock._before = seconds
        search._pace = pace_of(search.ground.asked, 3, 200, 0.001, 1)
        three = [Candidate(0.0, s) for s in (0.9, 0.5, 0.8)]
        found = list(search._in_turn(three, []))
        left = search._left_out(three, [Tried(each, 1.0, False, 9, MANY, 0, 0) for some in found for each in some])
        assert left == ([] if len(found) == 3 else ["Not tried, as there was no time: 90 % zeros; 80 % zeros."])
        return [round(100 * some[0].sparsity) for some in found]

    assert turns(50.0, 100.0) == [50]
    assert turns(5.0, 100.0) == [50]  # as it was decided
    (tmp_path / "clock_decided.json").unlink()
    assert turns(5.0, 100.0) == [50, 80, 90]


def test_a_given_network_is_where_it_begins(run: CompressionRun, tmp_path: Path) -> None:
    there = run.ground.dense.directory(run.out)
    name, content = stored_weights(load_model(there)[0])
    keep_weights(name, content, tmp_path)
    ground = ground_of(start_sha256=name)
    Search(ground, tmp_path, 1).perform([ground.dense])
    mine, given = ground.dense.load(tmp_path), load_model(there)[0]
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), given.parameters(), strict=True))
    assert ground.dense.training.epochs == 0


def test_a_trimmed_network_is_where_it_begins_too(tiny_texts: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    spec = ModelSpec.parse(f"pretrained(directory={tiny_encoder})")
    data_spec = data_for(spec, source=str(tiny_texts))
    data = load_data(data_spec)
    assert data.unknown is not None
    trimmed = trim_vocabulary(build(spec, data.shape, 0), data.x_train, data.unknown)
    name, content = stored_weights(trimmed)
    keep_weights(name, content, tmp_path)
    asked = Compression(model=spec, data=data_spec, training=TRAINING, recovery=TRAINING, start_sha256=name)
    begun = Ground(asked, data, trimmed).dense.begin(tmp_path)
    assert {k: tuple(v.shape) for k, v in begun.state_dict().items()} == {
        k: tuple(v.shape) for k, v in trimmed.state_dict().items()
    }
    with torch.inference_mode():
        assert torch.equal(begun.eval()(data.x_test), trimmed.eval()(data.x_test))
    (tmp_path / "weights" / f"{name}.safetensors").write_bytes(content[:100])
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        Ground(asked, data, trimmed).dense.begin(tmp_path)


@pytest.mark.slow
def test_a_trimmed_vocabulary_is_a_step_of_its_own(tiny_texts: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    spec = ModelSpec.parse(f"pretrained(directory={tiny_encoder})")
    data_spec = data_for(spec, source=str(tiny_texts))
    asked = Compression(
        model=spec, data=data_spec, training=TRAINING, recovery=TRAINING, is_trimmed=True, epochs=1.0, max_drop=0.9
    )
    data = load_data(data_spec)
    run = CompressionRun(Ground(asked, data, build(spec, data.shape, 0)), tmp_path, "secateurs compress", 1)
    run.ground.check()
    rows = {row["id"]: row for row in run.run()["steps"]}
    assert rows["trimmed"]["size_bytes"] < rows["dense"]["size_bytes"]
    assert rows["trimmed"]["size_bytes"] > rows["once"]["size_bytes"]
    network = sc.load_network(tmp_path)
    assert accuracy(network, data.x_test, data.y_test).n_correct == run.run()["test"]["n_correct"]


def test_what_so_few_examples_cannot_show_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"On 60 validation examples not even an unchanged network .* 1 points.*1\.6"):
        ground_of(max_drop=0.01).check()
    ground_of(max_drop=0.02).check()


def test_only_texts_have_a_vocabulary() -> None:
    with pytest.raises(RecipeError, match="where the data are texts; these are images"):
        ground_of(is_trimmed=True, max_drop=0.1).check()
