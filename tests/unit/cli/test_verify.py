"""`secateurs verify`: good, damaged (3), no manifest, newer manifest; as text and as JSON."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from secateurs.checkpoint.manifest import FORMAT, checksum
from secateurs.checkpoint.manifest import NAME as MANIFEST

Call = Callable[..., Any]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """One pruned layer and its manifest."""
    place = tmp_path / "out"
    place.mkdir()
    save_file({"w": np.array([[0.0, 2.0, 0.0, 3.0]], np.float32)}, place / "model.safetensors")
    data = (place / "model.safetensors").read_bytes()
    counts = {"n": 4, "n_pruned": 2, "n_zero_before": 0, "n_zero": 2}
    layer = {"name": "w", "dtype": "F32", "shape": [1, 4], "aliases": [], "status": "pruned", "reason": "", **counts}
    manifest = {
        "format": FORMAT,
        "version": "0.1.0",
        "recipe": {"unit": "element", "pool": "4", "budget": "top(2)"},
        "files": {"model.safetensors": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
        "layers": [layer],
    }
    (place / MANIFEST).write_text(json.dumps({**manifest, "checksum": checksum(manifest)}))
    return place


def test_good(output: Path, secateurs: Call) -> None:
    said = secateurs("verify", str(output))
    assert (said.code, said.err) == (0, "")
    size = (output / "model.safetensors").stat().st_size
    assert said.out == (
        f"Good: 1 file of {size:,} bytes, each with its SHA-256; 2 of 4 weights are zero in 1 tensor, as the manifest "
        "says; n:m holds in every group of 1 tensor.\n"
    )


def test_a_pattern_that_holds(output: Path, secateurs: Call) -> None:
    said = secateurs("verify", str(output), "--pattern", "2:4")
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith("2:4 holds in 1 of 1 tensor that it fits, 1 groups.\n")
    values = json.loads(secateurs("verify", str(output), "--pattern", "2:4", "--json").out)["pattern"]
    assert values["holds"]
    assert values["tensors"] == [{"name": "w", "shape": [1, 4], "n_groups": 1, "n_held": 1, "n_dead": 0, "reason": ""}]


def test_a_pattern_that_does_not_hold_is_exit_1(output: Path, secateurs: Call) -> None:
    said = secateurs("verify", str(output), "--pattern", "1:4")
    assert (said.code, said.err) == (1, "")
    assert "w: 1:4 holds in 0 of 1 groups.\n1:4 holds in 0 of 1 tensor that it fits, 1 groups.\n" in said.out
    said = secateurs("verify", str(output), "--pattern", "4:8")
    assert said.code == 1
    assert "w: 4:8 does not fit, 4 inputs, which groups of 8 do not divide." in said.out


def test_what_is_no_pattern_is_exit_2(output: Path, secateurs: Call) -> None:
    said = secateurs("verify", str(output), "--pattern", "row")
    assert (said.code, said.out) == (2, "")
    assert "A pattern is n:m" in said.err


def test_damaged_is_exit_3_and_names_file_and_layer(output: Path, secateurs: Call) -> None:
    path = output / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + bytes(4))
    said = secateurs("verify", str(output))
    assert said.code == 3
    assert "model.safetensors: was changed: its SHA-256 is" in said.out
    assert "model.safetensors, 'w': has 3 zeros; the manifest says 2" in said.out
    assert "Damaged: 2 problems in 1 file" in said.out
    assert said.err == f"secateurs: '{output}' is damaged in 2 places. Prune again or restore it.\n"
    as_json = secateurs("verify", str(output), "--json")
    assert as_json.code == 3
    assert not json.loads(as_json.out)["is_ok"]
    assert json.loads(as_json.out)["problems"][1]["layer"] == "w"


def test_many_problems_are_not_a_flood(output: Path, secateurs: Call) -> None:
    for i in range(60):
        (output / f"{i}.bin").write_bytes(b"")
    said = secateurs("verify", str(output))
    assert said.code == 3
    assert "... and 10 more; --json says them all." in said.out


def test_without_a_manifest(output: Path, secateurs: Call) -> None:
    (output / MANIFEST).unlink()
    said = secateurs("verify", str(output))
    assert said.code == 0
    assert f"There is no {MANIFEST}: the structure was checked" in said.out
    assert "Readable: 1 file of 16 bytes; 2 of 4 weights are zero in 1 tensor." in said.out


def test_a_newer_manifest_is_refused(output: Path, secateurs: Call) -> None:
    (output / MANIFEST).write_text('{"format": "secateurs.pruned/7", "version": "\\u001b[2J"}')
    said = secateurs("verify", str(output))
    assert said.code == 3
    assert said.out == ""
    assert "has the format 'secateurs.pruned/7', written by version '\\x1b[2J'" in said.err


def test_what_is_not_there_is_exit_3(tmp_path: Path, secateurs: Call) -> None:
    said = secateurs("verify", str(tmp_path / "nothing"))
    assert (said.code, said.out) == (3, "")
    assert "There is no file or directory" in said.err
