"""Laws of the coded bytes: whatever goes in comes back, by whichever coder, and damage is never a crash."""

import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateurs.exact.kinds import KINDS
from secateurs.formats import adaptive, rans
from secateurs.formats.pieces import POSITIONS, Piece, decode, encode
from secateurs.formats.streams import DamageError, Reader, number, plane
from secateurs.formats.values import EXACT, Values, codebook_of

SEEDS = st.integers(0, 2**32)
STORAGES = [np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32), np.dtype(np.uint64)]


@st.composite
def planes(draw):
    """Bytes of few or many values, in runs or drawn one by one."""
    generator = np.random.default_rng(draw(SEEDS))
    n, n_values = draw(st.integers(0, 3000)), draw(st.sampled_from([1, 2, 3, 17, 256]))
    skewed = np.minimum(generator.geometric(draw(st.sampled_from([0.01, 0.5, 0.99])), n) - 1, n_values - 1)
    values = generator.permutation(256)[:n_values].astype(np.uint8)
    return values[skewed]


@st.composite
def masks(draw):
    """(rows, columns) keep: drawn one by one, in blocks, n of m, in kept rows and columns, or dense in places."""
    generator = np.random.default_rng(draw(SEEDS))
    shape = draw(st.integers(1, 70)), draw(st.integers(1, 90))
    density = draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.95, 1.0]))
    what = draw(st.sampled_from(["any", "blocks", "nm", "rows", "uneven"]))
    if what == "blocks":
        h, w = draw(st.sampled_from([(1, 4), (4, 4), (16, 16), (8, 1)]))
        blocks = generator.random((-(-shape[0] // h), -(-shape[1] // w))) < density
        return np.repeat(np.repeat(blocks, h, 0), w, 1)[: shape[0], : shape[1]]
    if what == "nm":
        n, m = draw(st.sampled_from([(2, 4), (1, 4), (4, 8), (3, 16), (1, 2)]))
        return (generator.random((shape[0], -(-shape[1] // m), m)).argsort(axis=2) < n).reshape(shape[0], -1)
    if what == "rows":
        return (generator.random((shape[0], 1)) < 0.5) & (generator.random((1, shape[1])) < 0.5)
    if what == "uneven":
        return generator.random(shape) < density * generator.random((shape[0], 1)) * generator.random((1, shape[1]))
    return generator.random(shape) < density


@given(st.lists(st.integers(0, 2**62)))
def test_numbers_come_back(numbers):
    data = b"".join(map(number, numbers))
    reader = Reader(np.frombuffer(data, np.uint8))
    assert [reader.number(2**62) for _ in numbers] == numbers
    reader.assert_end()


@given(planes(), st.booleans())
def test_planes_come_back_and_are_hardly_larger(found, is_smallest):
    data = plane(found, is_smallest)
    assert len(data) <= found.size + 1
    reader = Reader(np.frombuffer(data, np.uint8))
    assert np.array_equal(reader.plane(found.size), found)
    reader.assert_end()


@given(planes())
def test_each_coder_by_itself(found):
    data = adaptive.encode_bytes(found)
    assert np.array_equal(adaptive.decode_bytes(np.frombuffer(data, np.uint8), found.size), found)
    coded = rans.encode(found)
    if coded is not None:
        assert len(coded) <= found.size
        assert np.array_equal(rans.decode(np.frombuffer(coded, np.uint8), found.size), found)


@given(masks())
def test_masks_come_back(keep):
    data = adaptive.encode_mask(keep.reshape(-1).view(np.uint8), keep.shape[1])
    found = adaptive.decode_mask(np.frombuffer(data, np.uint8), keep.size, keep.shape[1])
    assert np.array_equal(found, keep.reshape(-1))


@given(st.lists(st.integers(0, 10**6), min_size=256, max_size=256).filter(any), st.integers(10, 15))
def test_frequencies_fit(counts, bits):
    found = rans.frequencies(np.array(counts), bits)
    assert found.sum() == 1 << bits
    assert np.array_equal(found > 0, np.array(counts) > 0)


@pytest.mark.parametrize("density", [0.5, 0.3, 0.1, 0.05, 0.02])
def test_coders_reach_the_entropy(density):
    """Within 1.5 % of what independent draws need, tables included."""
    keep = np.random.default_rng(0).random(1 << 20) < density
    bound = -keep.size * (density * math.log2(density) + (1 - density) * math.log2(1 - density)) / 8
    assert len(plane(np.packbits(keep), False)) <= 1.015 * bound
    assert len(adaptive.encode_mask(keep.view(np.uint8), 1024)) <= 1.015 * bound


def test_uneven_masks_go_below_the_bound_of_even_ones():
    generator = np.random.default_rng(0)
    keep = generator.random((300, 784)) < 0.2 * generator.random((300, 1)) * generator.random((1, 784))
    share = keep.mean()
    bound = -keep.size * (share * math.log2(share) + (1 - share) * math.log2(1 - share)) / 8
    assert len(adaptive.encode_mask(keep.reshape(-1).view(np.uint8), 784)) < 0.94 * bound


def test_the_tables_are_the_same_on_every_machine():
    """No entry is so near to half-way that another machine's logarithm could round it elsewhere."""
    logits = [adaptive.STEP * math.log((i + 0.5) / (4095.5 - i)) for i in range(4096)]
    chances = [65536 / (1 + math.exp(-x / adaptive.STEP)) for x in range(-adaptive.WIDE, adaptive.WIDE + 1)]
    assert min(abs(x % 1 - 0.5) for x in logits + chances) > 1e-6


def coded_and_back(piece, stored, codebook):
    coded = encode(piece, stored, codebook)
    out = np.full(stored.size, 77, stored.dtype)
    decode(piece, np.frombuffer(coded.data, np.uint8), codebook, out)
    assert len(coded.data) == coded.n_positions + coded.n_scales + coded.n_values
    return coded, out


@pytest.mark.parametrize("kind", [*KINDS.values(), None], ids=str)
@given(masks(), SEEDS, st.booleans(), st.booleans())
def test_exact_pieces_come_back_bit_for_bit(kind, keep, seed, is_smallest, has_minus):
    generator = np.random.default_rng(seed)
    storage = STORAGES[seed % 4] if kind is None else kind.storage
    stored = generator.integers(1, 2 ** (8 * storage.itemsize), keep.shape, dtype=storage)
    stored[~keep] = 0
    if has_minus and kind is not None:
        stored[~keep & (generator.random(keep.shape) < 0.5)] = 1 << kind.sign
    piece = Piece(storage, kind, *keep.shape, EXACT, is_smallest=is_smallest)
    assert np.array_equal(coded_and_back(piece, stored.reshape(-1), stored[:0, 0])[1], stored.reshape(-1))


@pytest.mark.parametrize("kind", ["F32", "BF16", "F16", "F64"])
@pytest.mark.parametrize("values", ["int8", "int4", "int8/7", "codebook:3", "codebook:8"])
@given(masks(), SEEDS)
def test_lossy_pieces_are_as_their_values_say(kind, values, keep, seed):
    kind, how = KINDS[kind], Values.parse(values)
    numbers = np.random.default_rng(seed).normal(size=keep.shape) * keep
    stored = numbers.astype(np.float32).view(np.uint32) >> 16 if kind.name == "BF16" else None
    native = {"F32": np.float32, "F16": np.float16, "F64": np.float64}
    bits = stored.astype(np.uint16) if stored is not None else numbers.astype(native[kind.name]).view(kind.storage)
    bits = bits.reshape(-1)
    codebook = codebook_of(how, kind, bits) if how.name == "codebook" else bits[:0]
    out = coded_and_back(Piece(kind.storage, kind, *keep.shape, how), bits, codebook)[1]
    before, after = kind.values(bits), kind.values(out)
    assert not out[~keep.reshape(-1)].any()
    errors, rounding = np.abs(after - before), 2.0**-kind.n_mantissa * np.abs(before).max(initial=0)
    if how.name == "int":
        # Half a step, and a step is at most 1/128 larger than the largest of the row divided by the largest code.
        step = np.abs(before.reshape(keep.shape)).max(axis=1, initial=0) / (2 ** (how.n_bits - 1) - 1) * (1 + 1 / 128)
        assert (errors.reshape(keep.shape) <= step[:, None] / 2 + rounding).all()
    else:
        nearest = np.abs(before[:, None] - kind.values(codebook)).min(axis=1)
        assert (errors <= np.where(before == 0, 0, nearest)).all()
    again = coded_and_back(Piece(kind.storage, kind, *keep.shape, how), out, codebook)[1]
    if how.name == "codebook":
        assert np.array_equal(again, out)


@pytest.mark.parametrize("kind", ["F32", "BF16", "F16", "F64"])
@given(masks(), SEEDS, st.integers(2, 8), st.booleans())
def test_a_codebook_of_so_few_weights_brings_every_bit_back(kind, keep, seed, n_bits, are_neighbours):
    """The shared weights of a network that was trained with a codebook; neighbours differ in their last bit."""
    kind, generator = KINDS[kind], np.random.default_rng(seed)
    first, n = int(generator.integers(1, kind.n_finite - 2**n_bits)), 2**n_bits
    keys = first + np.arange(n) if are_neighbours else generator.integers(1, kind.n_finite, n)
    signs = generator.integers(0, 2, n).astype(kind.storage) << kind.storage.type(kind.sign)
    few = keys.astype(kind.storage) | signs
    bits = np.where(keep, generator.choice(few, keep.shape), kind.storage.type(0)).reshape(-1)
    how = Values.parse(f"codebook:{n_bits}")
    out = coded_and_back(Piece(kind.storage, kind, *keep.shape, how), bits, codebook_of(how, kind, bits))[1]
    assert np.array_equal(out, bits)


def test_every_kind_of_positions_is_chosen_where_it_is_smallest():
    generator = np.random.default_rng(0)

    def chosen(keep, **more):
        stored = np.where(keep, generator.integers(1, 2**31, keep.shape, dtype=np.uint32), np.uint32(0))
        piece = Piece(np.dtype(np.uint32), KINDS["F32"], *keep.shape, EXACT, **more)
        coded, out = coded_and_back(piece, stored.reshape(-1), stored[:0, 0])
        assert np.array_equal(out, stored.reshape(-1))
        return coded.positions

    groups = generator.random((64, 16, 4, 9)).argsort(axis=2) < 2
    found = {
        "all": chosen(np.ones((5, 7), bool)),
        "bitmask": chosen(generator.random((300, 300)) < 0.3),
        "index": chosen(generator.random((300, 300)) < 0.001),
        "nm": chosen(groups.reshape(64, -1), n_kernel=9),
        "blocks": chosen(np.kron(generator.random((20, 20)) < 0.3, np.ones((16, 16), bool))),
        "rows": chosen((generator.random((300, 1)) < 0.5) & (generator.random((1, 300)) < 0.5)),
        "model": chosen(generator.random((300, 300)) < 0.6 * generator.random((300, 1)), is_smallest=True),
    }
    assert found == {name: name for name in POSITIONS}


@given(masks(), SEEDS, st.booleans())
def test_damaged_pieces_are_refused_or_decode_to_something(keep, seed, is_smallest):
    """Behind the checksums there is still no crash, and no write beyond the piece."""
    generator = np.random.default_rng(seed)
    stored = np.where(keep, generator.integers(1, 2**32, keep.shape, dtype=np.uint32), np.uint32(0)).reshape(-1)
    piece = Piece(np.dtype(np.uint32), KINDS["F32"], *keep.shape, EXACT, is_smallest=is_smallest)
    data = np.frombuffer(encode(piece, stored, stored[:0]).data, np.uint8).copy()
    room = np.full(stored.size + 64, 12345, np.uint32)
    for _ in range(10):
        damaged = data.copy()
        for _ in range(int(generator.integers(1, 4))):
            damaged[generator.integers(min(data.size, 40) if generator.random() < 0.5 else data.size)] ^= 1 << int(
                generator.integers(8)
            )
        if generator.random() < 0.2:
            damaged = damaged[: int(generator.integers(damaged.size + 1))]
        with suppress(DamageError):
            decode(piece, damaged, stored[:0], room[32:-32])
        assert (room[:32] == 12345).all()
        assert (room[-32:] == 12345).all()
