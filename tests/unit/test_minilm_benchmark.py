"""The benchmark of MiniLM, on a network of a few hundred weights and three intents: it runs, resumes and counts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra hf")
pytest.importorskip("pyarrow", reason="needs the extra text")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "minilm_banking77.py"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "is", "my", "card", "top", "up", "failed", "rate"]


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """(MODEL, DATA): a random BERT with its tokenizer, and texts of three intents."""
    import pyarrow
    import pyarrow.parquet
    import transformers

    model, data = tmp_path / "model", tmp_path / "data"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(model)
    (model / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(str(model / "vocab.txt")).save_pretrained(model)
    data.mkdir()
    texts = ["where is my card", "top up failed", "rate is up"]
    for split, n in (("train", 60), ("validation", 12), ("test", 18)):
        table = pyarrow.table({"text": [texts[i % 3] for i in range(n)], "label": [i % 3 for i in range(n)]})
        pyarrow.parquet.write_table(table, data / f"{split}.parquet")
    return model, data


def test_it_prunes_the_encoder_to_the_exact_count_and_is_not_run_twice(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(SCRIPT), *map(str, places), "--seeds", "0"]
    command += ["--work", str(tmp_path / "work"), "--out", str(out)]
    first = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert first.returncode == 0, first.stderr
    results = json.loads(out.read_text())
    n = 4 * 16 * 16 + 2 * 16 * 32
    counts = {arm: (row["n_zero"], row["n_prunable"]) for arm, row in results["arms"].items()}
    assert counts == {
        "dense": (0, 0),
        "taught": (0, 0),
        "pruned-70%": (round(0.7 * n), n),
        "pruned-90%": (round(0.9 * n), n),
        "2:4": (n // 2, n),
    }
    same = results["arms"]["dense"]["minus_dense"]
    assert (same["mean"], same["low"], same["high"]) == (0.0, 0.0, 0.0)
    assert all(row["seeds"] == [0] for row in results["arms"].values())
    assert all(row["test"]["n"] == 18 for row in results["arms"].values())
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (again.returncode, again.stdout) == (0, "")
    assert json.loads(out.read_text()) == results
