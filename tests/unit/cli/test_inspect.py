"""`secateurs inspect`: tables, JSON, page, picture and exit codes; names out of files are only ever text."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

Call = Callable[..., Any]
HOSTILE = "bad[red]\x1b[31m<script>alert(1)</script>.weight"
RUN = "from secateurs.cli import main; main()"


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A small checkpoint with zeros, an embedding, a vector, a NaN and a hostile name."""
    rng = np.random.default_rng(0)
    w = rng.normal(0, 0.1, (64, 32)).astype(np.float32)
    w[:, ::2] = 0
    w[3] = 0
    broken = rng.normal(size=(4, 4)).astype(np.float32)
    broken[0, 0] = np.nan
    tensors = {
        "fc.weight": w,
        "fc.bias": np.ones(64, np.float32),
        "embed.weight": rng.normal(size=(10, 8)).astype(np.float32),
        "broken.weight": broken,
        "small.weight": np.full((4, 4), 1e-4, np.float32),
        HOSTILE: rng.normal(size=(8, 8)).astype(np.float16),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    return str(tmp_path / "a.safetensors")


def rows_of(out: str, name: str) -> list[list[str]]:
    """The cells of every table row that begins with a name."""
    return [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if line.startswith(f"{name} ")]


def test_the_tables(path: str, secateurs: Call) -> None:
    said = secateurs("inspect", path, "--tau", "0.05", "--tau", "1sigma")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0].endswith("a.safetensors: 6 tensors, 2,288 elements, 9.0 kB")
    tensors, removals, structure = rows_of(said.out, "fc.weight")
    assert tensors[1:3] == ["64×32", "F32"]
    assert tensors[-1] == "50.8 %"
    w = np.asarray(_load(path)["fc.weight"])
    assert removals[1:] == [
        f"{w.size:,}",
        *(f"{np.mean(np.abs(w) <= tau):.1%}".replace("%", " %") for tau in (0.05, w.std())),
    ]
    assert structure[1:] == ["50.8 %", "1", "16", "1.6 %", "holds", "holds"]
    assert "a  not prunable by default: embedding, class token or position table (1)" in said.out
    assert rows_of(said.out, "broken.weight")[1][2:] == ["refused", "refused"]
    assert "NOT FINITE  'broken.weight' holds 1 NaN and 0 infinite of 16 weights." in said.out
    assert "Layer collapse  τ = 0.05 leaves nothing of 1 of 4 prunable tensors: small.weight." in said.out
    assert rows_of(said.out, "without embeddings")[0][1:3] == ["5", "2,208"]


def _load(path: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    loaded: dict[str, np.ndarray] = load_file(path)
    return loaded


def test_names_are_text(path: str, secateurs: Call) -> None:
    out = secateurs("inspect", path).out
    assert "\x1b" not in out
    assert r"bad[red]\x1b[31m<script>alert(1)</script>.weight" in out


def test_a_pipe_gets_whole_lines(path: str, secateurs: Call) -> None:
    lines = secateurs("inspect", path).out.splitlines()
    assert not [line for line in lines if "…" in line]
    assert len(rows_of("\n".join(lines), "small.weight")) == 3


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_window_shortens_names_but_never_numbers(path: str, width: int, tmp_path: Path) -> None:
    name = "encoder.layers.11.attention.self_attention.output.projection.weight"
    save_file({name: np.random.default_rng(0).normal(size=(640, 512)).astype(np.float32)}, tmp_path / "b.safetensors")
    code = (
        "import os, pty, sys\n"
        "os.environ['COLUMNS'] = sys.argv.pop(1)\n"
        f"pty.spawn([sys.executable, '-c', {RUN!r}, 'inspect', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(width), str(tmp_path / "b.safetensors")],
        capture_output=True,
        text=True,
        env={**os.environ, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
    )
    out = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stdout)
    lines = [line for line in out.splitlines() if line.startswith("encoder")]
    assert len(lines) == 2, out
    assert all(line.count("…") <= 1 and "weight" in line for line in lines)
    assert "640×512" in lines[0]
    if width >= 100:
        assert max(map(len, out.splitlines())) <= width


def test_json_has_every_number(path: str, secateurs: Call) -> None:
    found = json.loads(secateurs("inspect", path, "--json", "--tau", "0.05").out)
    assert found["format"] == "secateurs.inspect/1"
    tensors = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert len(tensors) == 6
    weight, w = tensors["fc.weight"], _load(path)["fc.weight"]
    assert (weight["n_zero"], weight["dead_rows"], weight["held"]["2:4"]) == ((w == 0).sum(), 1, 1.0)
    assert weight["sigma"] == pytest.approx(w.astype(np.float64).std())
    assert weight["removals"][0]["n_removed"] == (np.abs(w) <= np.float32(0.05)).sum()
    assert (tensors["broken.weight"]["n_nan"], tensors["broken.weight"]["removals"]) == (1, [])
    assert found["emptied"] == {"0.05": ["small.weight"]}


def test_rows_are_chosen_and_sorted(path: str, secateurs: Call) -> None:
    def names(*options: str) -> list[str]:
        return [each["name"] for each in json.loads(secateurs("inspect", path, "--json", *options).out)["tensors"]]

    assert names("--only", "*.weight", "--skip", "b*", "--sort", "name") == [
        "embed.weight",
        "fc.weight",
        "small.weight",
    ]
    assert names("--sort", "size")[0] == "fc.weight"
    assert names("--sort", "zeros")[0] == "fc.weight"
    assert names("--threads", "1", "--sort", "sigma")[0] in ("broken.weight", "embed.weight", HOSTILE)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """--threads speaks through the environment of its process, which here is the tests'."""
    monkeypatch.setenv("SECATEURS_THREADS", "2")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing.safetensors"], 3, "There is no file or directory"),
        (["PATH", "--tau", "much"], 2, "A tau is a number"),
        (["PATH", "--only", "fc.wieght"], 2, "Did you mean 'fc.weight'"),
        (["PATH", "--sort", "colour"], 2, "colour"),
        (["PATH", "--html", "no/such/page.html"], 4, "there is no directory no/such"),
        (["PATH", "--png", "."], 4, "it is a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors(path: str, secateurs: Call, arguments: list[str], code: int, said: str) -> None:
    found = secateurs("inspect", *(path if word == "PATH" else word for word in arguments))
    assert (found.code, found.out) == (code, "")
    assert said in found.err


def test_the_source_and_a_file_written_already_are_never_overwritten(
    path: str, secateurs: Call, tmp_path: Path
) -> None:
    before = Path(path).read_bytes()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "link.html").symlink_to(path)
    for source, out in ((path, path), (path, "link.html"), (str(tmp_path), path), (str(tmp_path), "config.json")):
        for option in ("--html", "--png"):
            found = secateurs("inspect", source, option, str(tmp_path / out))
            assert (found.code, "is the source itself" in found.err) == (4, True)
    found = secateurs("inspect", path, "--html", str(tmp_path / "p"), "--png", str(tmp_path / "." / "p"))
    assert (found.code, "--html and --png both name" in found.err) == (4, True)
    assert Path(path).read_bytes() == before


def test_a_missing_extra_is_told_before_the_work(path: str, secateurs: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    page = Path(path).with_suffix(".html")
    found = secateurs("inspect", path, "--html", str(page))
    assert found.code == 2
    assert "pip install 'secateurs[explore]'" in found.err
    assert not page.exists()


def test_page_and_picture_are_written_without_torch(path: str) -> None:
    page, picture = Path(path).with_suffix(".html"), Path(path).with_suffix(".png")
    code = f"import sys\ntry:\n    {RUN}\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", path, "--html", str(page), "--png", str(picture)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert f"Written: {page}" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "<script" not in page.read_text()


def test_the_help_says_what_is_shown(secateurs: Call) -> None:
    said = secateurs("inspect", "--help")
    assert said.code == 0
    for word in ("--tau", "--only", "--skip", "--sort", "--html", "--png", "--threads", "--json", "0.5sigma"):
        assert word in said.out
