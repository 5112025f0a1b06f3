"""A published encoder at the command line: trained, trained on, packed, pruned, shrunk, measured and compared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secateurs.data import DataSpec
from secateurs.errors import RecipeError
from secateurs.experiments.exploration import Experiment
from secateurs.models import load_model
from secateurs.recipe import Recipe
from secateurs.structure.files import load_shrunk
from secateurs.train.training import Training

Call = Callable[..., Any]
RECIPE = "magnitude element layer sparsity(0.5) cubic"


@pytest.fixture(autouse=True)
def as_many_threads_afterwards() -> Any:
    n = torch.get_num_threads()
    yield
    torch.set_num_threads(n)


def test_the_way_of_one_network(secateurs: Call, tiny_encoder: Path, tiny_texts: Path, tmp_path: Path) -> None:
    def ask(*arguments: str) -> Any:
        said = secateurs(*arguments)
        assert said.code == 0, said.err
        return said.out

    model, texts = f"pretrained(directory={tiny_encoder})", str(tiny_texts)
    short = ("--data", texts, "--looks", "1", "--threads", "1", "--json")
    out, again = tmp_path / "run", tmp_path / "again"
    first = json.loads(ask("train", "--model", model, *short, "--epochs", "1", "--recipe", RECIPE, "-o", str(out)))
    n = 2 * (4 * 16 * 16 + 2 * 16 * 32) + 3 * 16
    assert (first["n_zero"], first["n_prunable"]) == (n // 2, n)
    assert first["run"]["model"]["args"]["weights"].startswith("sha256:")
    assert first["run"]["data"]["tokenizer"] == str(tiny_encoder)
    saved = str(out / "model")
    # What is trained on brings its own tokenizer.
    start = ("--start", saved, "--teacher", saved)
    second = json.loads(ask("train", *start, *short, "--epochs", "0.5", "-o", str(again)))
    assert second["run"]["data"]["tokenizer"] == saved
    assert second["before"] == {"validation": first["validation"], "test": first["test"]}
    assert (again / "model" / "tokenizer.json").exists()

    packed = tmp_path / "small.packed.safetensors"
    told = json.loads(ask("pack", saved, "-o", str(packed), "--data", texts, "--json"))
    assert told["accuracy"]["drop"]["value"] == 0.0
    ask("prune", saved, "-o", str(tmp_path / "pruned"), "--sparsity", "0.8")
    assert load_model(tmp_path / "pruned")[1] == load_model(saved)[1]
    ask("shrink", saved, "-o", str(tmp_path / "shrunk"), "--sparsity", "0.5")
    assert load_shrunk(tmp_path / "shrunk")(torch.tensor([[2, 5, 3]])).shape == (1, 3)


def test_a_compressed_one_reads_texts_and_needs_the_published_directory_no_more(
    secateurs: Call, tiny_encoder: Path, tiny_texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("altair", reason="needs the extra explore")
    published, out, texts = tmp_path / "published", tmp_path / "run", ("--data", str(tiny_texts))
    shutil.copytree(tiny_encoder, published)
    model = f"pretrained(directory={published})"
    assert secateurs("train", "--model", model, *texts, "--epochs", "1", "-o", str(tmp_path / "dense")).code == 0
    shutil.rmtree(published)
    asked = ("--max-drop", "90%", "--epochs", "0.9", "--jobs", "1", "--out", str(out))
    said = secateurs("compress", str(tmp_path / "dense" / "model"), *texts, *asked)
    assert said.code == 0, said.err
    assert "What no other beats in both bytes and accuracy: validation examples, n = 12" in said.out
    results = json.loads((out / "results.json").read_text())
    assert results["seconds"]["tokens"] in (5, 6)
    told = json.loads(secateurs("run", str(out), "--text", "where is my card", "--json").out)
    assert told["answers"][0]["answer"] in {"0", "1", "2"}
    told = json.loads(secateurs("run", str(out), *texts, "--json").out)
    assert told["accuracy"]["value"] == results["test"]["n_correct"] / 18
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(out)
    exec(code, {})
    assert results["is_stock"] == (results["chosen"]["candidate"]["student"] == 0.0)
    if results["is_stock"]:
        transformers = pytest.importorskip("transformers")
        assert transformers.AutoModel.from_pretrained(out / "stock").config.hidden_size == 16


def test_ways_are_compared(secateurs: Call, tiny_encoder: Path, tiny_texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("altair", reason="needs the extra explore")
    said = secateurs(
        *("compare", "--model", f"pretrained(directory={tiny_encoder})", "--data", str(tiny_texts), "--jobs", "1"),
        *("--recipe", RECIPE, "--epochs", "1", "--seeds", "1", "--sparsities", "0.5", "--out", str(tmp_path / "run")),
        *("--strategies", "one-shot,in-loop", "--json"),
    )
    assert said.code == 0, said.err
    points = json.loads(said.out)["points"]
    assert [point["strategy"] for point in points] == ["one-shot", "in-loop"]


def test_an_experiment_names_the_tokenizer(tiny_encoder: Path, tiny_texts: Path) -> None:
    with pytest.raises(RecipeError, match=r"ids of its own tokenizer: give data\.tokenizer"):
        Experiment(
            model=f"pretrained(directory={tiny_encoder})",
            data=DataSpec(source=str(tiny_texts)),
            training=Training(),
            recipe=Recipe.parse(RECIPE),
        )
