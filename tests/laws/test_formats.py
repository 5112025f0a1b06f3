"""Laws of the formats: what is kept comes back bit for bit, what is not is +0.0, whatever dtype, shape and density."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secateurs.errors import InputError, PatternError, RecipeError
from secateurs.exact.kinds import KINDS
from secateurs.formats import bitmask, blocks, codebook, index, kernels, nm
from secateurs.formats.bits import Bits, bits_of, tensor_of
from secateurs.formats.codebook import codes_of, fit, gradient_of
from secateurs.formats.table import FORMATS
from secateurs.formats.values import Values

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9) | st.sampled_from(
    [(3, 70), (1, 200), (40, 8)]
)
ANY_KIND = st.sampled_from(list(KINDS.values()))
LOSSY = ["int8", "int4", "int8/3", "int4/5", "codebook:2", "codebook:5", "codebook:8"]


@st.composite
def patterns(draw, kinds=ANY_KIND, shapes=SHAPES):
    """(a weight of any bits at all, NaNs with payloads and -0.0 among them; a keep of its shape)."""
    kind, shape = draw(kinds), draw(shapes)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    top = draw(st.sampled_from([1, kind.n_finite, 1 << (kind.sign + 1)]))
    n = int(np.prod(shape))
    stored = generator.integers(0, top, n, dtype=kind.storage)
    stored[generator.random(n) < 0.1] = 1 << kind.sign  # -0.0
    keep = generator.random(shape) < draw(st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]))
    return tensor_of(Bits(kind, shape, stored)), torch.from_numpy(np.asarray(keep))


def kept_only(weight, keep):
    """The bits of weight, 0 where it is not kept."""
    return np.where(keep.numpy().reshape(-1), bits_of(weight).stored, 0)


def pack_as(name, weight, keep, values="exact"):
    """Packed in any format; n:m takes what it can hold."""
    return FORMATS[name].pack(weight, keep, values)


ANY_PATTERN = [name for name in FORMATS if name != "nm"]


@pytest.mark.parametrize("name", ANY_PATTERN)
@given(patterns())
def test_kept_weights_come_back_bit_for_bit(name, given_):
    weight, keep = given_
    packed = pack_as(name, weight, keep)
    found = FORMATS[name].unpack(packed)
    assert (found.shape, found.dtype) == (weight.shape, weight.dtype)
    assert np.array_equal(bits_of(found).stored, kept_only(weight, keep))
    arrays = (packed.kept, packed.scales, packed.codebook, *packed.places.values())
    assert FORMATS[name].nbytes(packed) == packed.nbytes == sum(len(each.tobytes()) for each in arrays)


@pytest.mark.parametrize("name", ANY_PATTERN)
@given(patterns())
def test_without_keep_all_but_plus_zero_is_kept(name, given_):
    weight, keep = given_
    found = FORMATS[name].unpack(FORMATS[name].pack(torch.where(keep, weight.view(weight.dtype), weight)))
    assert np.array_equal(bits_of(found).stored, bits_of(weight).stored)


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
@given(st.data())
def test_nm_comes_back_bit_for_bit(kind, data):
    m = data.draw(st.integers(1, 16))
    n = data.draw(st.integers(1, m))
    groups = data.draw(st.integers(0, 40))
    weight, _ = data.draw(patterns(st.just(kind), st.just((2, groups * m))))
    generator = np.random.default_rng(data.draw(st.integers(0, 9)))
    keep = torch.from_numpy(generator.random((2, groups, m)).argsort(axis=2) < n).reshape(2, groups * m)
    packed = nm.pack(weight, keep, n=n, m=m)
    assert np.array_equal(bits_of(nm.unpack(packed)).stored, kept_only(weight, keep))


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 4), (4, 4), (3, 2), (16, 64)])
@given(patterns())
def test_blocks_of_any_size(h, w, given_):
    weight, keep = given_
    packed = blocks.pack(weight, keep, h=h, w=w)
    assert np.array_equal(bits_of(blocks.unpack(packed)).stored, kept_only(weight, keep))


@pytest.mark.parametrize("values", LOSSY)
@pytest.mark.parametrize("name", ANY_PATTERN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@given(st.data())
def test_lossy_values_stay_within_their_error(name, dtype, values, data):
    shape = data.draw(SHAPES)
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    scale = data.draw(st.sampled_from([1e-3, 1.0, 100.0]))
    weight = torch.from_numpy(np.asarray(generator.normal(size=shape) * scale)).to(dtype)
    keep = torch.from_numpy(np.asarray(generator.random(shape) < 0.4))
    packed = FORMATS[name].pack(weight, keep, values)
    found = FORMATS[name].unpack(packed)
    assert (found.shape, found.dtype) == (weight.shape, weight.dtype)
    assert not bits_of(found).stored[~keep.numpy().reshape(-1)].any()
    exact = torch.where(keep, weight, torch.zeros_like(weight)).double()
    if not exact.numel():
        return
    how = Values.parse(values)
    rounding = exact.abs().max() * torch.finfo(dtype).eps
    if how.name == "int":
        # Half a step, and a step is at most 1/128 larger than the largest of the row divided by the largest code.
        rows = exact.reshape(bits_of(weight).grid)
        half = rows.abs().amax(dim=1, keepdim=True) / (2 ** (how.n_bits - 1) - 1) / 2 * (1 + 1 / 128)
        assert bool(((found.double().reshape(rows.shape) - rows).abs() <= half + rounding).all())
    else:
        numbers = torch.from_numpy(KINDS[bits_of(weight).kind.name].values(packed.codebook))
        nearest = (exact.reshape(-1, 1) - numbers).abs().amin(dim=1).reshape(exact.shape)
        assert bool(((found.double() - exact).abs() <= torch.where(keep, nearest, 0.0)).all())
        assert len(np.unique(bits_of(found).stored)) <= 2**how.n_bits + 1


@given(st.integers(1, 32), st.integers(0, 70), st.integers(0, 99))
def test_numbers_of_any_width_come_back(width, n, seed):
    numbers = np.random.default_rng(seed).integers(0, 1 << width, n, dtype=np.uint32)
    packed, found = np.zeros(-(-n * width // 8), np.uint8), np.empty(n, np.uint32)
    kernels.narrow(numbers, width, packed)
    kernels.widen(packed, width, found)
    assert np.array_equal(found, numbers)


def test_index_crosses_long_gaps():
    weight = torch.zeros(400_000)
    for place in (0, 65_534, 65_535, 131_070, 131_071, 399_999):
        weight[place] = place + 1.0
    packed = index.pack(weight)
    assert packed.places["gaps"].tolist() == [1, 65534, 1, 65535, 1, 0, 0, 0, 0, 399_999 - 131_071 - 4 * 65535]
    assert torch.equal(index.unpack(packed), weight)


def test_bitmask_by_hand():
    weight = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]])
    packed = bitmask.pack(weight)
    assert packed.places["mask"].tolist() == [0b010, 0b101]
    assert packed.kept.view(np.float32).tolist() == [1.0, 2.0, 3.0]
    assert packed.nbytes == 2 + 12


def test_two_of_four_by_hand():
    """Choices of 2 of 4 in order: 0011, 0101, 0110, 1001, 1010, 1100."""
    packed = nm.pack(torch.tensor([[1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0]]))
    assert packed.places["groups"].tolist() == [0 | 5 << 3]
    large = nm.pack(torch.ones(64, 64), torch.tensor([True, False, True, False]).repeat(64, 16))
    assert large.places["groups"].nbytes == 64 * 16 * 3 / 8


def test_a_codebook_of_few_numbers_is_exact():
    weight = torch.tensor([[-2.0, 0.0, 5.0, 5.0], [0.0, -2.0, 1.0, 7.0]])
    for name in ANY_PATTERN:
        assert torch.equal(FORMATS[name].unpack(FORMATS[name].pack(weight, None, "codebook:3")), weight)


@pytest.mark.parametrize("n_weights", [0, 1, 300, codebook.N_BINS + 9])
@given(st.integers(1, 16), st.integers(0, 2**32))
def test_a_codebook_of_the_numbers_that_are_there_is_exact(n_weights, n_different, seed):
    generator = np.random.default_rng(seed)
    numbers = (generator.standard_normal(n_different) ** 5).astype(np.float32).astype(np.float64)
    weights = generator.choice(numbers, n_weights)
    found = fit(weights, 16)
    assert found.shape == (16,)
    assert (np.diff(found) >= 0).all()
    assert np.array_equal(found[codes_of(weights, found)], weights)


@given(hnp.arrays(np.float64, st.integers(1, 300), elements=st.floats(-10, 10)), st.integers(1, 32))
def test_k_means_is_no_worse_than_even_steps(weights, n):
    def error(numbers):
        return float(((weights - numbers[codes_of(weights, numbers)]) ** 2).sum())

    found = fit(weights, n)
    assert found.shape == (n,)
    assert (np.diff(found) >= 0).all()
    assert error(found) <= error(np.linspace(weights.min(), weights.max(), n)) * (1 + 1e-9) + 1e-12


def test_training_the_shared_numbers_lowers_the_loss():
    generator = np.random.default_rng(0)
    weights, target = generator.normal(size=(20, 30)), generator.normal(size=(20, 30))
    numbers = fit(weights.reshape(-1), 8)
    codes = codes_of(weights, numbers)
    losses = []
    for _ in range(50):
        gradient = numbers[codes] - target
        losses.append(float((gradient**2).sum()))
        numbers = numbers - 0.005 * gradient_of(codes, gradient, 8)
    means = [target[codes == code].mean() if (codes == code).any() else 0 for code in range(8)]
    best = sum(float(((target[codes == code] - means[code]) ** 2).sum()) for code in range(8))
    assert losses[-1] < losses[0]
    assert losses[-1] == pytest.approx(best, rel=0.05)


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: nm.pack(torch.ones(2, 8)), PatternError, "keep exactly 2"),
        (lambda: nm.pack(torch.ones(2, 6)), PatternError, "divisible by 4"),
        (lambda: nm.pack(torch.ones(2, 6), n=5, m=3), PatternError, "got 5:3"),
        (lambda: blocks.pack(torch.ones(2, 6), h=0), PatternError, "got 0 x 4"),
        (lambda: bitmask.pack(torch.ones(2, 6, dtype=torch.int32)), InputError, "int32"),
        (lambda: bitmask.pack(torch.ones(2), torch.ones(3, dtype=torch.bool)), InputError, "True = keep"),
        (lambda: bitmask.pack(torch.ones(2), torch.ones(2)), InputError, "float32"),
        (lambda: bitmask.pack(torch.tensor([1.0, float("nan")]), None, "int8"), InputError, "1 NaN"),
        (lambda: bitmask.pack(torch.tensor([1e300], dtype=torch.float64), None, "int8"), InputError, "bfloat16"),
        (lambda: bitmask.pack(torch.ones(2), None, "int3"), RecipeError, "got 'int3'"),
        (lambda: bitmask.pack(torch.ones(2).to(torch.float8_e5m2), None, "int4"), InputError, "8 bits already"),
    ],
)
def test_what_cannot_be_packed_is_said(act, error, words):
    with pytest.raises(error, match=words):
        bitmask.unpack(act())
