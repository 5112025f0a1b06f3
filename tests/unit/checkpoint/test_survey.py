"""Survey: every number equals an independent recount with numpy, whoever counts and in however many threads."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import write_f32

from secateurs.checkpoint import survey, survey_counts
from secateurs.checkpoint.survey import inspect
from secateurs.checkpoint.survey_counts import GROUPS, How, count, count_grid, find_structure, tau_key
from secateurs.checkpoint.taus import Tau
from secateurs.checkpoint.tensors import Checkpoint, Entry
from secateurs.errors import InputError, RecipeError
from secateurs.exact.kinds import KINDS, Kind

SOME = (1, 7, 300, 16_384, 16_391, 70_001)  # below, at and beyond a chunk, and beyond what is sorted
KERNELS = How(has_kernels=True, n_parts=1), How(has_kernels=True, n_parts=3)


class Made(Checkpoint):
    """A checkpoint in memory: {name: (dtype, shape, stored)}."""

    def __init__(self, tensors: dict[str, tuple[str, tuple[int, ...], np.ndarray]], **about: Any) -> None:
        self.path, self.source, self.notes = None, "module", ()
        self.arrays = {name: stored for name, (_, _, stored) in tensors.items()}
        self.entries = tuple(Entry(name, dtype, shape, **about) for name, (dtype, shape, _) in tensors.items())

    def stored(self, entry: Entry) -> np.ndarray:
        return self.arrays[entry.name]


def made(weight: np.ndarray, **about: Any) -> Made:
    """One float32 weight."""
    return Made({"fc.weight": ("F32", weight.shape, weight.astype(np.float32).ravel().view(np.uint32))}, **about)


def contents(kind: Kind, n: int) -> Iterator[tuple[str, np.ndarray]]:
    """Stored patterns of one kind: everything that has gone wrong in someone's counts."""
    rng = np.random.default_rng(n)
    bits = rng.integers(0, 1 << 8 * kind.item_size, n, np.uint64, endpoint=False) if kind.item_size < 8 else None
    bits = (bits if bits is not None else rng.integers(0, (1 << 64) - 1, n, np.uint64)).astype(kind.storage)
    zero, mask = kind.storage.type(0), kind.storage.type(kind.mask)
    finite = np.where((bits & mask) < kind.n_finite, bits, zero)
    yield "anything", bits
    yield "finite", finite
    yield "bell", _nearest(kind, rng.normal(0, 0.05, n))
    yield "zeros", np.where(rng.random(n) < 0.7, zero, finite)
    yield "minus zero", np.full(n, kind.mask + 1, kind.storage)
    yield "ties", rng.choice(finite[:3], n)
    yield "denormal", rng.integers(0, 5, n).astype(kind.storage)
    yield "NaN", np.full(n, kind.mask, kind.storage)
    yield "one value", np.full(n, kind.key_from(0.1), kind.storage)


def _nearest(kind: Kind, values: np.ndarray) -> np.ndarray:
    """A stored pattern next to each value, of the right sign."""
    keys = [kind.key_from(abs(value)) | (kind.mask + 1 if value < 0 else 0) for value in values[:100].tolist()]
    return np.resize(np.array(keys, kind.storage), len(values))


def values_of(kind: Kind, stored: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # signalling NaN
        return kind.values(stored)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("n", SOME)
def test_counts_equal_a_recount_whoever_counts(kind: Kind, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_counts, "SORTED", 0)
    for what, stored in contents(kind, n):
        w = values_of(kind, stored)
        finite = w[np.isfinite(w)]
        sizes = np.sort(np.abs(finite))
        taus = [0.0, 1e-3, 0.1, 0.4, 1e30, float(sizes[sizes.size // 2]) if sizes.size else 0.3]
        keys = [tau_key(kind, tau) for tau in taus]
        ranks = sorted({0, sizes.size // 3, sizes.size - 1}) if sizes.size else []
        said = []
        for how in (How(), *KERNELS):
            found = count(stored, kind, how)
            counted = (found.n, found.n_zero, found.n_nan, found.n_inf)
            assert counted == (n, (w == 0).sum(), np.isnan(w).sum(), np.isinf(w).sum()), what
            at_most, at_rank = found.sizes.look(keys, ranks)
            assert [at_most[key] for key in keys] == [
                (sizes <= (kind.rounded(tau) if kind.item_size > 1 else tau)).sum() for tau in taus
            ], what
            assert [kind.value(at_rank[rank]) for rank in ranks] == [sizes[rank] for rank in ranks], what
            said.append((found.mean, found.sigma, found.low, found.high))
        mean, sigma, low, high = said[0]
        np.testing.assert_equal(said, [said[0]] * 3)  # to the last bit
        if not finite.size:
            assert said[0] == (None,) * 4
            continue
        assert (low, high) == (finite.min(), finite.max())
        with np.errstate(over="ignore", invalid="ignore"):
            expected = finite.mean(), finite.std()
        if np.isfinite(expected[1]):
            assert sigma == pytest.approx(expected[1], rel=1e-9, abs=1e-12 * abs(expected[0])), what
            assert mean == pytest.approx(expected[0], rel=1e-9, abs=1e-9 * expected[1]), what


def test_sigma_is_right_far_from_zero() -> None:
    w = np.random.default_rng(0).normal(1e8, 1.0, 100_000)
    exact = math.sqrt(math.fsum((w - math.fsum(w) / w.size) ** 2) / w.size)
    for how in (How(), *KERNELS):
        assert count(w.view(np.uint64), KINDS["F64"], how).sigma == pytest.approx(exact, rel=1e-9)


def test_equal_weights_have_no_spread() -> None:
    for n in (3, 70_001):
        found = count(np.full(n, 0.1, np.float32).view(np.uint32), KINDS["F32"], KERNELS[0])
        assert (found.sigma, found.mean) == (0.0, float(np.float32(0.1)))


@pytest.mark.parametrize("name", ["F64", "F32", "F16", "BF16", "F8_E5M2"])
def test_tau_is_rounded_as_torch_rounds_it(name: str) -> None:
    """`w.abs() > tau` of torch keeps what a count of larger keys keeps, at every tau near two neighbours."""
    import torch

    kind = KINDS[name]
    dtype = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E5M2": "float8_e5m2"}[name]
    for key in (0, 1, 2, kind.key_from(0.1), kind.key_from(1.0), kind.n_finite - 2):
        low, high = kind.value(key), kind.value(key + 1)
        w = torch.tensor([low, high], dtype=torch.float64).to(getattr(torch, dtype))
        for tau in (low, high, (low + high) / 2, low + (high - low) * 0.49, low + (high - low) * 0.51):
            # Numbers of one byte, which torch does not compare, are compared with tau itself.
            rounded = torch.tensor(tau, dtype=torch.float64).to(w.dtype if kind.item_size > 1 else torch.float64)
            removed = int((~(w.double().abs() > rounded.double())).sum())
            assert ((key <= tau_key(kind, tau)) + (key + 1 <= tau_key(kind, tau))) == removed


def test_an_overflowing_tau_removes_every_finite_weight() -> None:
    assert tau_key(KINDS["F16"], 1e9) == KINDS["F16"].n_finite - 1
    assert tau_key(KINDS["F8_E4M3"], 1e9) == KINDS["F8_E4M3"].n_finite - 1


SHAPES = [(1, 1), (3, 5), (5, 8), (16, 12), (6, 8, 3, 3), (7, 4, 2), (1, 64), (64, 1), (300, 256), (40, 24, 3, 3)]


@pytest.mark.parametrize(("shape", "is_turned"), [*product(SHAPES, (False, True))])
def test_structure_equals_a_recount(shape: tuple[int, ...], is_turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_counts, "SORTED", 0)
    rng = np.random.default_rng(len(shape))
    for share in (0.0, 0.3, 0.7, 0.95, 1.0):
        stored = np.where(rng.random(shape) < share, rng.choice([0.0, -0.0], shape), rng.normal(size=shape) + 3)
        stored = stored.astype(np.float32)
        stored[rng.random(shape[0]) < 0.3] = 0
        stored[:, rng.random(shape[1]) < 0.3] = 0
        w = (stored.swapaxes(0, 1) if is_turned else stored) != 0
        w = w.reshape(*w.shape[:2], -1)
        rows, columns = w.shape[:2]
        held = []
        for few, m in ((1, 4), (2, 4), (4, 8)):
            if columns % m:
                held.append(None)
                continue
            groups = w.reshape(rows, columns // m, m, -1).sum(axis=2)
            held.append((groups <= few).sum() / groups.size)
        bits = stored.ravel().view(np.uint32)
        for how in (How(), *KERNELS):
            found = find_structure(bits, KINDS["F32"], shape, is_turned, int((stored == 0).sum()), how)
            assert (found.n_rows, found.n_columns) == (rows, columns)
            assert found.dead_rows == (~w.any(axis=(1, 2))).sum()
            assert found.dead_columns == (~w.any(axis=(0, 2))).sum()
            assert list(found.held) == held


@pytest.mark.parametrize("name", KINDS)
def test_structure_of_every_kind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_counts, "SORTED", 0)
    kind = KINDS[name]
    one, minus_zero = kind.key_from(1.0), kind.mask + 1
    stored = np.array([[one, 0, 0, minus_zero], [one, one, 0, 0], [0, 0, 0, 0]], kind.storage).ravel()
    for how in (How(), *KERNELS):
        found = find_structure(stored, kind, (3, 4), False, 9, how)
        assert (found.dead_rows, found.dead_columns, found.held) == (1, 2, (2 / 3, 1.0, None))


@pytest.mark.parametrize("name", KINDS)
def test_grids_equal_those_of_the_charts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from secateurs.see import stats

    monkeypatch.setattr(survey_counts, "SORTED", 0)
    kind = KINDS[name]
    for what, stored in contents(kind, 700):
        w = kind.values(stored) if what not in ("anything", "NaN") else np.array([np.nan])
        if not np.isfinite(w).all() or np.abs(w).max() > 1e100:
            continue
        for step in (0.05, 0.1, float(np.abs(w).max()) / 7 or 1.0):
            expected = stats.grid(w, step)
            n_bins = len(expected["positive"])
            for how in (How(), *KERNELS):
                negative, positive = count_grid(stored, kind, step, n_bins, how)
                assert (negative.tolist(), positive.tolist()) == (expected["negative"], expected["positive"]), what


def test_a_checkpoint_by_hand(tmp_path: Path) -> None:
    w = np.array([[0.0, 1.0, -2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    path = write_f32(
        tmp_path / "a.safetensors", {"fc.weight": w, "fc.bias": np.ones(2), "embed.weight": np.zeros((2, 2))}
    )
    found = inspect(path, taus=[1, "1sigma", "0.001", 5])
    weight, bias, table = found.tensors
    assert (weight.name, weight.shape, weight.dtype, weight.n, weight.n_bytes) == ("fc.weight", (2, 4), "F32", 8, 32)
    assert (weight.reason, bias.reason) == ("", "one dimension (bias, norm or scalar)")
    assert table.reason == "embedding, class token or position table"
    assert (weight.n_zero, weight.low, weight.high, weight.largest) == (6, -2.0, 1.0, 2.0)
    assert weight.sigma == pytest.approx(w.std())
    assert weight.quantiles == {1: 0.0, 5: 0.0, 25: 0.0, 50: 0.0, 75: 0.0, 95: 2.0, 99: 2.0}
    assert (weight.dead_rows, weight.dead_columns) == (1, 2)
    assert weight.held == {"1:4": 0.5, "2:4": 1.0, "4:8": None}
    assert [(removal.tau, removal.n_removed, removal.n_zero) for removal in weight.removals] == [
        ("1", 7, 6),
        ("1sigma", 6, 6),
        ("0.001", 6, 6),
        ("5", 8, 6),
    ]
    assert weight.removals[1].value == float(np.float32(w.std()))
    assert weight.removals[0].in_sigma == pytest.approx(1 / w.std())
    assert (bias.dead_rows, bias.held) == (None, None)
    assert found.emptied == {"5": ("fc.weight",)}
    total = found.totals
    assert [(each.n_tensors, each.n, each.n_zero) for each in total.values()] == [(3, 14, 10), (2, 10, 6), (1, 8, 6)]
    assert (total["prunable"].sparsity, total["prunable"].removed["1"]) == (6 / 8, 7)


def test_a_quantile_is_the_smallest_size_that_enough_weights_do_not_exceed() -> None:
    w = np.random.default_rng(0).permutation(np.arange(1, 202))[None]
    quantiles = inspect(made(w)).tensors[0].quantiles
    assert quantiles is not None
    for percent, size in quantiles.items():
        assert (w <= size).mean() >= percent / 100 > (w < size).mean()


def test_what_is_not_finite_is_counted_and_has_no_removals() -> None:
    w = np.array([[1.0, np.nan], [np.inf, -3.0]])
    (found,) = inspect(made(w)).tensors
    assert (found.n_nan, found.n_inf, found.is_finite, found.removals) == (1, 1, False, ())
    assert (found.mean, found.sigma, found.low, found.high) == (-1.0, 2.0, -3.0, 1.0)
    assert found.quantiles is not None
    assert found.quantiles[99] == 3.0
    assert inspect(made(w)).totals["prunable"].n_in_order == 0


def test_squares_that_overflow_leave_sigma_unknown() -> None:
    w = np.array([[1e300, -1e300]])
    (found,) = inspect(Made({"fc.weight": ("F64", (1, 2), w.ravel().view(np.uint64))})).tensors
    assert (found.sigma, found.removals, found.high) == (None, (), 1e300)
    json.dumps(inspect(made(w / 1e300)).values(), allow_nan=False)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (5,)], ids=str)
def test_any_shape_is_surveyed(shape: tuple[int, ...]) -> None:
    (found,) = inspect(made(np.ones(shape))).tensors
    assert (found.n, found.n_zero) == (math.prod(shape), 0)
    assert found.sigma == (0.0 if found.n else None)
    assert [removal.n_removed for removal in found.removals] == [0] * len(survey.TAUS)
    if len(shape) == 2:
        assert (found.dead_rows, found.dead_columns, found.held) == (*shape, dict.fromkeys(GROUPS))


def test_other_dtypes_have_shape_and_zeros_alone() -> None:
    stored = {
        "i": ("I64", (3,), np.array([0, 5, 0], np.uint64)),
        "b": ("BOOL", (2, 2), np.array([0, 1, 1, 1], np.uint8)),
        "c": ("C64", (2,), np.array([0x80000000_00000000, 1], np.uint64)),
        "half": ("C32", (3,), np.array([0x80008000, 0x00018000, 0], np.uint32)),
        "packed": ("F4", (4,), np.array([0, 1], np.uint8)),
        "scale": ("F8_E8M0", (2,), np.array([0, 1], np.uint8)),
    }
    found = {tensor.name: tensor for tensor in inspect(Made(stored)).tensors}
    assert {name: tensor.n_zero for name, tensor in found.items()} == {
        "i": 2,
        "b": 1,
        "c": 1,
        "half": 2,
        "packed": None,
        "scale": None,
    }
    assert all(tensor.reason and tensor.sigma is None and not tensor.removals for tensor in found.values())
    assert inspect(Made(stored)).totals["all"].sparsity is None


def test_a_turned_weight_has_its_rows_and_columns_turned() -> None:
    w = np.ones((8, 3))  # stored (in, out)
    w[[0, 1, 4, 5]] = 0
    w[:, 2] = 0
    (found,) = inspect(made(w, is_turned=True)).tensors
    assert (found.shape, found.n_rows, found.n_columns, found.dead_rows, found.dead_columns) == ((8, 3), 3, 8, 1, 4)
    assert found.held == {"1:4": 1 / 3, "2:4": 1.0, "4:8": 1.0}


def test_tied_names_are_one_tensor() -> None:
    checkpoint = made(np.ones((2, 2)), aliases=("lm_head.weight", "embed.weight"))
    (found,) = inspect(checkpoint).tensors
    assert found.aliases == ("lm_head.weight", "embed.weight")
    assert found.reason == "embedding, class token or position table (tied)"
    assert inspect(checkpoint, only=["lm_head*"]).tensors == (found,)


def test_threads_and_kernels_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(0).normal(0, 0.02, (300, 301))
    w[np.abs(w) < 0.01] = 0
    checkpoint = Made(
        {
            f"{k}.weight": (name, w.shape, w.astype(np.float64).ravel().view(np.uint64))
            if name == "F64"
            else (name, w.shape, w.astype(np.float32).ravel().view(np.uint32))
            for k, name in enumerate(("F32", "F64", "F32"))
        }
    )
    expected = inspect(checkpoint).values()
    monkeypatch.setattr(survey, "WITHOUT_KERNELS", 0)
    for large, threads in product((1, 1 << 21), ("1", "2", "3")):
        monkeypatch.setattr(survey, "LARGE", large)
        monkeypatch.setenv("SECATEURS_THREADS", threads)
        assert inspect(checkpoint).values() == expected
    monkeypatch.setattr(survey, "LARGE", 1)
    monkeypatch.setattr(survey_counts, "_MOST_IN_A_PART", 1000)  # as of a tensor of more than 2**31 weights
    assert inspect(checkpoint).values() == expected


def test_weights_that_are_not_aligned_are_read() -> None:
    w = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    odd = np.frombuffer(b"x" + w.tobytes(), np.uint8)[1:].view(np.uint32)
    assert not odd.flags.aligned
    found = [count(bits, KINDS["F32"], how) for bits in (odd, w.ravel().view(np.uint32)) for how in (How(), *KERNELS)]
    assert len({(each.mean, each.sigma, each.low, each.high) for each in found}) == 1


def test_names_are_chosen_by_patterns() -> None:
    stored = np.ones(4, np.float32).view(np.uint32)
    checkpoint = Made(dict.fromkeys(("a.weight", "a.bias", "b.weight"), ("F32", (2, 2), stored)))
    found = inspect(checkpoint, only=["a.*"], skip=["*.bias"])
    assert ([tensor.name for tensor in found.tensors], found.n_left_out) == (["a.weight"], 2)
    with pytest.raises(RecipeError, match=r"No tensor is called 'a.wieght'. Did you mean 'a.weight'"):
        inspect(checkpoint, only=["a.wieght"])


def test_the_values_are_json() -> None:
    values = json.loads(json.dumps(inspect(made(np.eye(4))).values(), allow_nan=False))
    assert values["format"] == "secateurs.inspect/1"
    assert values["tensors"][0]["quantiles"]["99"] == 1.0
    assert values["tensors"][0]["held"]["1:4"] == 1.0
    assert values["totals"]["prunable"]["sparsity"] == 0.75


@pytest.mark.parametrize(
    ("text", "said"), [("0.5", "0.5"), ("0.50sigma", "0.5sigma"), (" 2 σ", "2sigma"), (1, "1"), ("1e-3", "0.001")]
)
def test_taus_are_read(text: str, said: str) -> None:
    assert str(Tau.parse(text)) == said
    assert Tau.parse(said) == Tau.parse(text)


@pytest.mark.parametrize("text", ["", "sigma", "-1", "nan", "inf", "infsigma", "1 2", "0.1percent"])
def test_what_is_no_tau_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="A tau is a number"):
        Tau.parse(text)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        inspect(tmp_path / "nothing.safetensors")


def test_neither_torch_nor_the_kernels_are_loaded_for_a_small_file(tmp_path: Path) -> None:
    write_f32(tmp_path / "a.safetensors", {"w": np.ones((3, 3))})
    code = (
        "import sys; from secateurs.checkpoint.survey import inspect; inspect(sys.argv[1]);"
        "print([name for name in ('torch', 'numba', 'pydantic', 'altair') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.safetensors")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
