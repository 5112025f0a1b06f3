"""What changed between two checkpoints: every count against plain numpy, for every dtype and every odd content."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from secateurs.checkpoint import difference
from secateurs.checkpoint.difference import Difference, TensorDifference, diff
from secateurs.errors import InputError
from secateurs.exact.kinds import KINDS

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@pytest.fixture
def between(tmp_path: Path):
    """diff of two mappings {name: tensor}, through files."""

    def call(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Difference:
        save_file({name: tensor.clone() for name, tensor in a.items()}, tmp_path / "a.safetensors")
        save_file({name: tensor.clone() for name, tensor in b.items()}, tmp_path / "b.safetensors")
        return diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors")

    return call


def expected(a: Tensor, b: Tensor) -> dict[str, object]:
    """The counts and norms of one pair, the slow way."""
    is_alike = a.dtype == b.dtype
    as_int = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    x, y = a.double().numpy().ravel(), b.double().numpy().ravel()
    if is_alike:
        differ = (a.view(as_int[a.element_size()]) != b.view(as_int[b.element_size()])).numpy().ravel()
    else:
        differ = ((x != y) | (np.signbit(x) != np.signbit(y))) & ~(np.isnan(x) & np.isnan(y))
    both = np.isfinite(x) & np.isfinite(y)
    change = np.where(both, y, 0.0) - np.where(both, x, 0.0)
    return {
        "n": a.numel(),
        "n_zero_a": int((x == 0).sum()),
        "n_zero_b": int((y == 0).sum()),
        "n_gained": int(((x != 0) & (y == 0)).sum()),
        "n_lost": int(((x == 0) & (y != 0)).sum()),
        "n_kept_changed": int(((x != 0) & (y != 0) & differ).sum()),
        "n_resigned": int(((x == 0) & (y == 0) & differ).sum()),
        "n_nonfinite_a": int((~np.isfinite(x)).sum()),
        "n_nonfinite_b": int((~np.isfinite(y)).sum()),
        "norm_a": float(np.linalg.norm(x[both])),
        "norm_change": float(np.linalg.norm(change)),
        "max_change": float(np.abs(change).max(initial=0.0)),
    }


def assert_counted(found: TensorDifference, a: Tensor, b: Tensor) -> None:
    for name, value in expected(a, b).items():
        assert asdict(found)[name] == pytest.approx(value, rel=1e-12, abs=0.0), name


def mess(n: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers full of ties, zeros of both signs, denormals, NaN and infinities."""
    make = torch.Generator().manual_seed(seed)
    numbers = torch.randn(n, generator=make, dtype=torch.float64).mul(4).round().div(4)
    odd = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-7, 1.0], dtype=torch.float64)
    where = torch.rand(n, generator=make) < 0.5
    numbers[where] = odd[torch.randint(len(odd), (n,), generator=make)][where]
    return numbers.to(dtype)


@pytest.mark.parametrize("name_b", FLOATS)
@pytest.mark.parametrize("name_a", FLOATS)
def test_every_count_in_every_pair_of_dtypes(name_a, name_b, between):
    assert {*FLOATS} == {*KINDS}
    a, b = mess(700, FLOATS[name_a], 0).view(70, 10), mess(700, FLOATS[name_b], 1).view(70, 10)
    b[::2] = a[::2].to(b.dtype)
    found = between({"w": a}, {"w": b}).tensors
    assert len(found) == 1
    assert (found[0].dtype_a, found[0].dtype_b) == (name_a, name_b)
    assert_counted(found[0], a, b)


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    chunk=st.sampled_from([1, 7, 16, 1 << 18]),
    block=st.sampled_from([1, 3, 16]),
)
def test_pieces_of_any_size_give_the_same(sizes, seeds, chunk, block, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("pieces")
    a = {f"w{i}": mess(n, torch.float32, seeds[0] + i) for i, n in enumerate(sizes)}
    b = {f"w{i}": mess(n, torch.float32, seeds[1] + i) for i, n in enumerate(sizes)}
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(difference, "CHUNK", chunk)
        patch.setattr(difference, "BLOCK", block)
        found = diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert len(found.tensors) == len(sizes)
    for tensor in found.tensors:
        assert_counted(tensor, a[tensor.name], b[tensor.name])


def test_more_than_one_chunk(between):
    a = torch.randn(3 * difference.CHUNK + 17)
    b = a.clone()
    b[a.abs() < 0.5] = 0.0
    b[-1] += 1.0
    (found,) = between({"w": a}, {"w": b}).tensors
    assert_counted(found, a, b)
    assert found.masks == "B in A"


def test_two_runs_give_the_same_bits(between):
    a, b = {"w": torch.randn(1 << 20)}, {"w": torch.randn(1 << 20)}
    assert between(a, b).values() == between(a, b).values()


ONE = torch.tensor([[1.0, 2.0, 0.0, 4.0]])


@pytest.mark.parametrize(
    ("b", "verdict", "masks"),
    [
        ([1.0, 2.0, 0.0, 4.0], "A and B are the same: 1 tensor, 4 numbers, bit for bit.", "equal"),
        ([0.0, 2.0, 0.0, 0.0], "B is A with 2 weights zeroed; nothing else changed.", "B in A"),
        ([1.0, 2.0, 3.0, 4.0], "B is A with 1 zero come back; nothing else changed.", "A in B"),
        ([1.0, 2.0, 0.0, 5.0], "B is A with 1 kept weight changed; nothing else changed.", "equal"),
        ([0.0, 2.0, 3.0, 4.0], "B is A with 1 weight zeroed; 1 zero come back; nothing else changed.", "neither"),
        ([1.0, 2.0, -0.0, 4.0], "B is A with the sign of 1 zero changed; nothing else changed.", "equal"),
    ],
)
def test_the_verdict_is_one_sentence(b, verdict, masks, between):
    found = between({"w": ONE}, {"w": torch.tensor([b])})
    assert found.verdict == verdict
    assert found.masks == found.tensors[0].masks == masks
    assert found.is_same == (verdict.startswith("A and B"))


def test_what_cannot_be_compared_is_named(between):
    a = {"gone": ONE, "shape": ONE, "kind": ONE, "whole": torch.arange(4), "cast": ONE, "same": ONE}
    b = {
        "new": ONE,
        "shape": ONE.T.contiguous(),
        "kind": ONE.int(),
        "whole": torch.tensor([0, 1, 2, 7]),
        "cast": ONE.bfloat16(),
        "same": ONE,
    }
    found = between(a, b)
    by_name = {tensor.name: tensor for tensor in found.tensors}
    assert {name: tensor.status for name, tensor in by_name.items()} == {
        "gone": "only in A",
        "new": "only in B",
        "shape": "another shape",
        "kind": "another dtype",
        "whole": "changed",
        "cast": "same",
        "same": "same",
    }
    assert (by_name["shape"].shape_a, by_name["shape"].shape_b) == ((1, 4), (4, 1))
    assert by_name["whole"].n_kept_changed == 1
    assert by_name["whole"].masks == ""
    assert not found.is_same
    assert found.verdict == (
        "B is A with 1 tensor of no floating dtype changed; 1 tensor stored in another dtype; "
        "1 tensor of another shape, not compared; 1 tensor of another dtype, not compared; "
        "1 tensor only in A; 1 tensor only in B; nothing else changed."
    )


def test_nothing_in_common(between):
    found = between({"a": ONE}, {"b": ONE, "c": ONE})
    assert found.verdict == "A (1 tensor) and B (2 tensors) have nothing to compare."
    assert not found.is_same


def test_another_nan_is_a_change(between):
    a = torch.tensor([0x7FC00000, 0x7FC00000], dtype=torch.int32).view(torch.float32)
    b = torch.tensor([0x7FC00000, 0x7F800001], dtype=torch.int32).view(torch.float32)
    (found,) = between({"w": a}, {"w": b}).tensors
    assert (found.status, found.n_kept_changed, found.n_nonfinite_a, found.norm_change) == ("changed", 1, 2, 0.0)


def test_numbers_whose_squares_are_too_large(between):
    a = torch.full((3,), 1e300, dtype=torch.float64)
    found = between({"w": a}, {"w": -a})
    assert found.tensors[0].max_change == 2e300
    assert found.tensors[0].norm_change == math.inf
    assert found.values()["tensors"][0]["norm_change"] is None
    json.dumps(found.values(), allow_nan=False)


def test_empty_and_scalar_tensors(between):
    a = {"empty": torch.zeros(0, 3), "scalar": torch.tensor(1.5)}
    assert between(a, a).is_same
    found = between(a, {**a, "scalar": torch.tensor(0.0)})
    assert found.verdict == "B is A with 1 weight zeroed; nothing else changed."


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def test_tied_names_meet_whichever_of_them_is_stored(tmp_path):
    network = Tied()
    weight = network.embed.weight.detach().clone()
    save_file({"head.weight": weight}, tmp_path / "one.safetensors")
    save_file({"embed.weight": weight, "head.weight": weight + 1}, tmp_path / "two.safetensors")
    assert diff(network, tmp_path / "one.safetensors").is_same
    assert diff(tmp_path / "one.safetensors", network).is_same
    found = diff(network, tmp_path / "two.safetensors").tensors
    assert [(tensor.name, tensor.status) for tensor in found] == [("embed.weight", "same"), ("head.weight", "changed")]
    found = diff(tmp_path / "two.safetensors", network).tensors
    assert [(tensor.name, tensor.status) for tensor in found] == [("embed.weight", "same"), ("head.weight", "changed")]


def test_a_pt_file_and_a_safetensors_file(tmp_path):
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    assert diff(tmp_path / "model.pt", tmp_path / "model.safetensors").is_same


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="There is no file or directory"):
        diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_torch_is_not_imported(tmp_path):
    save_file({"w": ONE}, tmp_path / "a.safetensors")
    code = (
        "import sys\nfrom secateurs.checkpoint.difference import diff\n"
        f"assert diff({str(tmp_path)!r}, {str(tmp_path)!r}).is_same\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
