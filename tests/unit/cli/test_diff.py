"""`secateurs diff`: table, sentence, JSON and exit codes; names out of files are only ever text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

Call = Callable[..., Any]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """A, and B in which three weights are zeroed."""
    w = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    zeroed = np.where(w > 3, w, 0)
    save_file({"fc.weight": w, "fc.bias": np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    save_file({"fc.weight": zeroed, "fc.bias": np.ones(3, np.float32)}, tmp_path / "b.safetensors")
    return str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")


def test_a_table_and_a_sentence(pair: tuple[str, str], secateurs: Call) -> None:
    said = secateurs("diff", *pair)
    assert (said.code, said.err) == (0, "")
    assert "fc.bias" not in said.out
    (row,) = [line for line in said.out.splitlines() if "fc.weight" in line]
    cells = ["fc.weight", "3×4", "F32", "0", "3", "3", "0", "0", "3.742", "0.147", "3", "B", "in", "A"]
    assert row.split() == cells
    assert "The same in both: 1 of 2 tensors; --all shows them." in said.out
    assert "Zeros: 0 in A, 3 in B; 3 gained, 0 lost." in said.out
    assert "Masks: B is nested in A, every zero of A is zero in B." in said.out
    assert said.out.rstrip().splitlines()[-1] == "B is A with 3 weights zeroed; nothing else changed."


def test_all_shows_all(pair: tuple[str, str], secateurs: Call) -> None:
    said = secateurs("diff", *pair, "--all")
    assert "fc.bias" in said.out
    assert "--all" not in said.out


def test_the_same_twice(pair: tuple[str, str], secateurs: Call) -> None:
    said = secateurs("diff", pair[0], pair[0], "--exit-code")
    assert said.code == 0
    assert "A and B are the same: 2 tensors, 15 numbers, bit for bit." in said.out


def test_json(pair: tuple[str, str], secateurs: Call) -> None:
    said = secateurs("diff", *pair, "--json")
    assert said.code == 0
    values = json.loads(said.out)
    assert values["format"] == "secateurs.difference/1"
    assert values["verdict"] == "B is A with 3 weights zeroed; nothing else changed."
    assert values["totals"]["n_gained"] == 3
    assert [tensor["status"] for tensor in sorted(values["tensors"], key=lambda each: each["name"])] == [
        "same",
        "changed",
    ]


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_the_exit_code_on_request(option: list[str], pair: tuple[str, str], secateurs: Call) -> None:
    assert secateurs("diff", *pair, *option).code == 0
    assert secateurs("diff", *pair, *option, "--exit-code").code == 1


def test_names_are_only_text(tmp_path: Path, secateurs: Call) -> None:
    name = "\x1b[2J[red]a[/]:smile:\u202e\n\\"
    save_file({name: np.ones(2, np.float32)}, tmp_path / "a.safetensors")
    save_file({name: np.zeros(2, np.float32)}, tmp_path / "b.safetensors")
    said = secateurs("diff", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"))
    assert said.code == 0
    assert "\\x1b[2J[red]a[/]:smile:\\u202e\\n\\ " in said.out
    assert all(letter.isprintable() or letter == "\n" for letter in said.out)


def test_odd_numbers_are_said(tmp_path: Path, secateurs: Call) -> None:
    a = {"w": np.array([np.nan, 1.0], np.float32), "whole": np.arange(3), "gone": np.ones((2, 2), np.float32)}
    b = {"w": np.array([np.inf, -0.0], np.float32), "whole": np.arange(1, 4), "more": np.float16(2) * np.ones(1)}
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    said = secateurs("diff", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"))
    assert "NaN or infinite numbers in A: 1, which the norms leave out." in said.out
    assert "NaN or infinite numbers in B: 1," in said.out
    assert "only in A" in said.out
    assert "only in B" in said.out
    assert "1 tensor of no floating dtype changed" in said.out


def test_bad_input_is_exit_3(pair: tuple[str, str], tmp_path: Path, secateurs: Call) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 30)
    for arguments in ([pair[0], "nowhere.safetensors"], [str(tmp_path / "bad.safetensors"), pair[1]]):
        said = secateurs("diff", *arguments)
        assert said.code == 3
        assert said.out == ""
        assert said.err.startswith("secateurs: ")
    assert secateurs("diff", pair[0]).code == 2
