"""Cutting: every dtype, layout and content is pruned exactly, as one sort of all sizes says, or refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import header_file

import secateurs as sc
from secateurs.checkpoint.cutting import Cutter
from secateurs.checkpoint.dtypes import DTYPES
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.plan import make_plan
from secateurs.checkpoint.preview import preview
from secateurs.checkpoint.safetensors_file import read_header
from secateurs.checkpoint.streamed import prune_checkpoint
from secateurs.errors import InputError, RecipeError

Raw = tuple[str, tuple[int, ...], bytes]
TORCH = {
    "F64": (torch.float64, torch.int64),
    "F32": (torch.float32, torch.int32),
    "F16": (torch.float16, torch.int16),
    "BF16": (torch.bfloat16, torch.int16),
    "F8_E5M2": (torch.float8_e5m2, torch.uint8),
    "F8_E4M3": (torch.float8_e4m3fn, torch.uint8),
}
OTHERS = [dtype for dtype in DTYPES if dtype not in TORCH]
SHAPES = {"linear": (16, 24), "conv": (4, 8, 3, 4), "one row": (1, 384), "one column": (384, 1)}
CONTENTS = ["normal", "ties", "minus", "denormal", "equal", "zeros", "largest"]


def raw_file(path: Path, tensors: dict[str, Raw], pad: int = 0) -> Path:
    """A safetensors file of these bytes, whose header is `pad` bytes longer, so that nothing need be aligned."""
    header: dict[str, Any] = {}
    start = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + len(data)]}
        start += len(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(header_file(text, b"".join(data for _, _, data in tensors.values())))
    return path


def as_bytes(dtype: str, values: torch.Tensor) -> bytes:
    """Numbers as a dtype stores them, rounded by torch."""
    kind, bits = TORCH[dtype]
    return values.to(kind).view(bits).numpy().tobytes()


def content(dtype: str, how: str, n: int) -> bytes:
    """n numbers of a floating dtype."""
    normal = torch.randn(n, dtype=torch.float64)
    info = torch.finfo(TORCH[dtype][0])
    if how == "ties":
        normal = (normal * 2).round() / 2
    elif how == "minus":
        normal = torch.where(torch.rand(n) < 0.6, torch.tensor(-0.0, dtype=torch.float64), -normal.abs())
    elif how == "denormal":
        normal = (normal * 2).round() * info.smallest_normal / 4
    elif how == "equal":
        normal = torch.full((n,), -0.5, dtype=torch.float64)
    elif how == "zeros":
        normal = torch.zeros(n, dtype=torch.float64) * normal
    elif how == "largest":
        normal = torch.where(normal.abs() > 1, info.max, normal.clamp(-1, 1) * info.max)
    return as_bytes(dtype, normal)


def sizes_of(dtype: str, data: bytes) -> np.ndarray:
    """|w| in float64, by torch."""
    kind, bits = TORCH[dtype]
    return torch.frombuffer(bytearray(data), dtype=bits).view(kind).to(torch.float64).abs().numpy()


def sorted_out(dtype: str, data: bytes, n_pruned: int) -> bytes:
    """The clear way: one stable sort, among equals the earlier lives."""
    n_item = DTYPES[dtype] // 8
    keep = np.zeros(len(data) // n_item, bool)
    keep[(-sizes_of(dtype, data)).argsort(kind="stable")[: keep.size - n_pruned]] = True
    items = np.frombuffer(data, np.uint8).reshape(-1, n_item)
    return np.where(keep[:, None], items, 0).astype(np.uint8).tobytes()


def bytes_of(path: Path) -> dict[str, bytes]:
    """The bytes of every tensor of a file."""
    data, entries = path.read_bytes(), read_header(path).entries
    return {entry.name: data[entry.start : entry.start + entry.n_bytes] for entry in entries}


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("how", CONTENTS)
@pytest.mark.parametrize("dtype", TORCH)
def test_every_floating_dtype_is_cut_as_a_sort_would(dtype: str, how: str, layout: str, tmp_path: Path) -> None:
    data = content(dtype, how, 384)
    source = raw_file(tmp_path / "model.safetensors", {"b": ("U8", (3,), b"abc"), "w": (dtype, SHAPES[layout], data)})
    found = prune_checkpoint(source, sc.Recipe(budget="sparsity(0.37)"), tmp_path / "out")
    written = bytes_of(tmp_path / "out" / "model.safetensors")
    assert written == {"b": b"abc", "w": sorted_out(dtype, data, round(0.37 * 384))}
    line = found["layers"][1]
    assert line["n_pruned"] == round(0.37 * 384)
    assert line["n_zero_before"] == int((sizes_of(dtype, data) == 0).sum())
    assert line["n_zero"] == int((sizes_of(dtype, written["w"]) == 0).sum())


@pytest.mark.parametrize("pad", [1, 2, 4])
@pytest.mark.parametrize("pool", ["model", "layer", "row", "4"])
@pytest.mark.parametrize("dtype", TORCH)
def test_it_does_not_matter_where_in_the_file_the_bytes_lie(dtype: str, pool: str, pad: int, tmp_path: Path) -> None:
    data = content(dtype, "normal", 384)
    recipe = sc.Recipe(budget="sparsity(0.5)", pool=pool)
    written = []
    for place in (0, pad):
        source = raw_file(tmp_path / str(place) / "model.safetensors", {"w": (dtype, (16, 24), data)}, place)
        with open_checkpoint(source) as checkpoint:
            plan = make_plan(checkpoint, recipe)
            cutter = Cutter(checkpoint, plan)
            cutter.prepare()
            (each,) = plan.cut
            written.append(b"".join(bits.tobytes() for bits, _, _ in cutter.pruned(each, cutter.knife(each))))
    assert written[0] == written[1]


@pytest.mark.parametrize("dtype", OTHERS)
def test_every_other_dtype_is_carried_over_and_refused_by_name(dtype: str, tmp_path: Path) -> None:
    data = bytes(range(8 * 4 * DTYPES[dtype] // 8))
    weights = as_bytes("F32", torch.arange(16.0))
    source = raw_file(tmp_path / "model.safetensors", {"odd": (dtype, (8, 4), data), "w": ("F32", (4, 4), weights)})
    found = prune_checkpoint(source, sc.Recipe(budget="sparsity(0.5)", only=["*"]), tmp_path / "out")
    assert bytes_of(tmp_path / "out" / "model.safetensors") == {"odd": data, "w": sorted_out("F32", weights, 8)}
    assert found["layers"][0]["status"] == "skipped"
    assert dtype in found["layers"][0]["reason"]
    with pytest.raises(RecipeError, match=f"'odd', which cannot be pruned: .*{dtype}"):
        prune_checkpoint(source, sc.Recipe(budget="sparsity(0.5)", only=["odd"]), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    "words", [{}, {"pool": "layer"}, {"pool": "row"}, {"pool": 4}, {"unit": "row"}, {"score": "lamp"}]
)
@pytest.mark.parametrize("s", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")], ids=str)
@pytest.mark.parametrize("dtype", ["F64", "BF16"])
@pytest.mark.filterwarnings("ignore::secateurs.errors.CollapseWarning")
def test_what_is_not_finite_is_refused_by_name(
    dtype: str, value: float, s: float, words: dict[str, Any], tmp_path: Path
) -> None:
    values = torch.randn(64, dtype=torch.float64)
    values[[5, 40]] = value
    weights = {"a": (dtype, (8, 8), content(dtype, "normal", 64)), "w": (dtype, (8, 8), as_bytes(dtype, values))}
    source = raw_file(tmp_path / "model.safetensors", weights)
    recipe = sc.Recipe(budget=f"sparsity({s})", **words)
    with open_checkpoint(source) as checkpoint, pytest.raises(InputError, match=r"'w' holds 2 weights of 64 that are"):
        preview(checkpoint, recipe)
    prune_what_is_left = sc.Recipe(budget=f"sparsity({s})", skip=["w"], **words)
    with open_checkpoint(source) as checkpoint:
        assert preview(checkpoint, prune_what_is_left).layers[0]["n_pruned"] == round(s * 64)


def test_not_a_number_of_the_smallest_dtype_is_refused_too(tmp_path: Path) -> None:
    source = raw_file(tmp_path / "model.safetensors", {"w": ("F8_E4M3", (4, 4), bytes([0x7F, *range(14), 0xFF]))})
    with pytest.raises(InputError, match="'w' holds 2 weights of 16"):
        prune_checkpoint(source, sc.Recipe(budget="sparsity(0.5)"), tmp_path / "out")


@pytest.mark.parametrize("recipe", ["model", "layer", "row", "4", "block(2, 2)", "lamp", "random", "threshold"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0, 3, 3), (2, 4, 0)], ids=str)
def test_an_empty_tensor_stays_empty(shape: tuple[int, ...], recipe: str, tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "block(2, 2)": {"unit": "block(2, 2)"},
        "lamp": {"score": "lamp"},
        "random": {"score": "random"},
        "threshold": {"budget": "threshold(1.0sigma)"},
    }.get(recipe, {"pool": recipe})
    weights = {"a.empty": ("F32", shape, b""), "w": ("F32", (4, 4), as_bytes("F32", torch.randn(16)))}
    source = raw_file(tmp_path / "model.safetensors", weights)
    found = prune_checkpoint(source, sc.Recipe(**{"budget": "sparsity(0.5)", **words}), tmp_path / "out")
    assert found["layers"][0]["n_pruned"] == 0
    assert found["layers"][1]["n_pruned"] == 8 or recipe == "threshold"
    assert bytes_of(tmp_path / "out" / "model.safetensors")["a.empty"] == b""


@pytest.mark.parametrize("unit", ["element", "row", "column"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0)], ids=str)
def test_an_empty_tensor_that_is_stored_turned_stays_empty(shape: tuple[int, int], unit: str, tmp_path: Path) -> None:
    name = "h.0.attn.c_attn.weight"
    weights = {name: ("F32", shape, b""), "w": ("F32", (4, 4), as_bytes("F32", torch.randn(16)))}
    raw_file(tmp_path / "in" / "model.safetensors", weights)
    (tmp_path / "in" / "config.json").write_text('{"model_type": "gpt2"}')
    found = prune_checkpoint(tmp_path / "in", sc.Recipe(budget="sparsity(0.5)", unit=unit), tmp_path / "out")
    assert [(line["is_turned"], line["n_pruned"]) for line in found["layers"]] == [(True, 0), (False, 8)]


@pytest.mark.filterwarnings("ignore::secateurs.errors.CollapseWarning")
def test_numbers_without_dimensions_and_vectors_are_left(tmp_path: Path) -> None:
    weights = {"scalar": ("F32", (), b"abcd"), "vector": ("F32", (2,), b"abcdefgh"), "w": ("F32", (1, 2), b"abcdefgh")}
    source = raw_file(tmp_path / "model.safetensors", weights)
    found = prune_checkpoint(source, sc.Recipe(budget="sparsity(1.0)", only=["*"]), tmp_path / "out")
    assert [line["status"] for line in found["layers"]] == ["skipped", "skipped", "pruned"]
    written = bytes_of(tmp_path / "out" / "model.safetensors")
    assert written == {"scalar": b"abcd", "vector": b"abcdefgh", "w": bytes(8)}


BEYOND = 2**31 + 4096


@pytest.fixture(scope="module")
def beyond(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tensor of more than 2**31 weights, almost all of them holes of a sparse file."""
    path = tmp_path_factory.mktemp("beyond") / "model.safetensors"
    header = {"w": {"dtype": "F8_E5M2", "shape": [BEYOND // 4096, 4096], "data_offsets": [0, BEYOND]}}
    start = header_file(header)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + BEYOND)
        for at in (0, 2**31 - 1, 2**31, BEYOND - 1):
            file.seek(len(start) + at)
            file.write(b"\x3c")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("n_kept", "kept"), [(3, [0, 2**31 - 1, 2**31]), (5, [0, 1, 2**31 - 1, 2**31, BEYOND - 1])])
def test_more_weights_than_32_bits_count(n_kept: int, kept: list[int], beyond: Path) -> None:
    """Ties beyond 2**31 go, and zeros among which the earlier live are counted in 64 bits."""
    with open_checkpoint(beyond) as checkpoint:
        plan = make_plan(checkpoint, sc.Recipe(budget=f"top({n_kept})"))
        cutter = Cutter(checkpoint, plan)
        cutter.prepare()
        (each,) = plan.cut
        knife = cutter.knife(each)
        assert knife.n_pruned == BEYOND - n_kept
        found, start = [], 0
        for bits, _, _ in cutter.pruned(each, knife):
            found += [start + int(i) for i in np.flatnonzero(bits)]
            start += bits.size
    assert start == BEYOND
    assert found == [place for place in kept if place != 1]  # a zero that lives is a zero
