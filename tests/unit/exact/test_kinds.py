"""Kinds: every bit pattern means the number that torch says, and a key is found for any number."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateurs.exact.kinds import KINDS, signed

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
}
LARGEST = {"F64": 1.7976931348623157e308, "F32": 3.4028234663852886e38, "F16": 65504, "BF16": 255 * 2.0**120}
LARGEST |= {"F8_E5M2": 57344, "F8_E4M3": 448}
SMALLEST = {"F64": 2.0**-1074, "F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}
SMALLEST |= {"F8_E5M2": 2.0**-16, "F8_E4M3": 2.0**-9}

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
each_size = st.sampled_from(list(KINDS.values()))


def patterns(kind):
    """All bit patterns of a small kind; of a large one the corners and many in between."""
    if kind.item_size <= 2:
        return np.arange(256**kind.item_size, dtype=kind.storage)
    edges = [0, 1, 2, 1 << kind.n_mantissa, (1 << kind.n_mantissa) - 1, kind.n_finite - 1, kind.n_finite, kind.mask]
    random = np.random.default_rng(0).integers(0, 1 << kind.sign, 50_000, dtype=np.uint64)
    keys = np.unique(np.concatenate([np.array(edges, np.uint64), random]))
    return np.concatenate([keys, keys | np.uint64(1 << kind.sign)]).astype(kind.storage)


def finite_keys(kind):
    keys = patterns(kind)
    return keys[keys < kind.n_finite]


def of_torch(kind, stored):
    return torch.from_numpy(stored.copy()).view(TORCH[kind.name]).to(torch.float64).numpy()


def as_torch(kind, number):
    """A number >= 0 as torch rounds it to the kind, back in float64."""
    return float(torch.tensor([number], dtype=torch.float64).to(TORCH[kind.name]).to(torch.float64)[0])


def past(number):
    """The next number of float32: torch rounds to float32 first, so nothing finer tells it from `number`."""
    return float(np.nextafter(np.float32(number), np.float32(math.inf)))


def short_of(number):
    return float(np.nextafter(np.float32(number), np.float32(0)))


def test_the_tests_know_every_kind():
    assert KINDS.keys() == TORCH.keys() == LARGEST.keys() == SMALLEST.keys()


@each_kind
def test_the_fields_of_a_kind_agree(kind):
    assert kind.name == next(name for name, value in KINDS.items() if value is kind)
    assert kind.storage.itemsize == kind.item_size == TORCH[kind.name].itemsize
    assert kind.mask == 2 ** (8 * kind.item_size - 1) - 1 == 2**kind.sign - 1
    assert int(kind.key(kind.mask)) == kind.mask == np.iinfo(type(kind.key(0))).max
    assert int(kind.key(-1)) == -1


@each_kind
def test_values_are_those_of_torch_to_the_sign_of_zero(kind):
    stored = patterns(kind)
    values, expected = kind.values(stored), of_torch(kind, stored)
    assert values.dtype == np.float64
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(values), is_nan)
    np.testing.assert_array_equal(values[~is_nan].view(np.int64), expected[~is_nan].view(np.int64))


@each_kind
def test_keys_from_n_finite_on_are_infinite_or_nan_and_no_others(kind):
    stored = patterns(kind)
    keys = stored & kind.storage.type(kind.mask)
    np.testing.assert_array_equal(np.isfinite(kind.values(stored)), keys < kind.n_finite)
    assert kind.value(kind.n_finite - 1) == LARGEST[kind.name]
    assert kind.value(1) == SMALLEST[kind.name]


@each_kind
def test_the_order_of_keys_is_the_order_of_sizes(kind):
    keys = np.sort(finite_keys(kind))
    assert (np.diff(kind.values(keys)) > 0).all()
    assert (signed(keys) == np.sort(signed(keys))).all()
    assert signed(keys).dtype.itemsize == kind.item_size


@each_kind
def test_signed_is_the_same_memory(kind):
    stored = np.zeros(3, kind.storage)
    signed(stored)[1] = -1
    assert stored[1] == 2 ** (8 * kind.item_size) - 1


@each_kind
def test_values_of_a_read_only_or_unaligned_or_empty_array(kind):
    stored = patterns(kind)[:5]
    raw = np.frombuffer(b"!" + stored.tobytes(), np.uint8)[1:].view(kind.storage)
    np.testing.assert_array_equal(kind.values(raw), kind.values(stored))
    assert kind.values(stored[:0]).shape == (0,)


@each_kind
def test_a_number_of_the_kind_has_its_own_key(kind):
    for key in finite_keys(kind)[:: 1 if kind.item_size == 1 else 97].tolist():
        value = kind.value(key)
        assert kind.key_from(value) == kind.key_upto(value) == key
        assert kind.rounded(value) == value


@each_kind
def test_a_number_between_two_has_the_keys_around_it(kind):
    for key in finite_keys(kind)[:: 1 if kind.item_size == 1 else 97].tolist():
        if key + 1 == kind.n_finite or kind.name == "F64":
            continue
        low, high = kind.value(key), kind.value(key + 1)
        for value in (np.nextafter(low, math.inf), low / 2 + high / 2, np.nextafter(high, 0)):
            assert (kind.key_upto(value), kind.key_from(value)) == (key, key + 1)


@each_kind
def test_numbers_outside_have_the_keys_outside(kind):
    largest = kind.value(kind.n_finite - 1)
    for value in (largest * (1 + 2**-52), 2 * largest, math.inf):
        assert kind.key_from(value) == kind.n_finite
        assert kind.key_upto(value) == kind.n_finite - 1
    tiny = SMALLEST[kind.name] / 1024
    assert kind.key_from(tiny) == (1 if tiny else 0)
    assert kind.key_upto(tiny) == kind.key_upto(0.0) == kind.key_from(0.0) == 0
    assert kind.key_upto(-SMALLEST["F64"]) == kind.key_upto(-1.0) == kind.key_upto(-math.inf) == -1


@given(each_size, st.floats(0, allow_nan=False))
def test_the_keys_around_any_number(kind, value):
    first, last = kind.key_from(value), kind.key_upto(value)
    assert first - last in (0, 1)
    assert first == kind.n_finite or kind.value(first) >= value
    assert kind.value(last) <= value
    assert first == 0 or kind.value(first - 1) < value
    assert last == kind.n_finite - 1 or kind.value(last + 1) > value


def assert_rounds_as_torch(kind, tau):
    mine, theirs = kind.rounded(tau), as_torch(kind, tau)
    if kind.name == "F8_E4M3" and mine == math.inf:  # it has no infinity: torch stays at the largest, or gives NaN
        assert theirs == LARGEST[kind.name] or math.isnan(theirs), tau
    else:
        assert mine == theirs, tau


@each_kind
def test_rounded_between_any_two_neighbours_is_to_nearest_even(kind):
    keys = finite_keys(kind)[:: 1 if kind.item_size == 1 else 61 if kind.item_size == 2 else 997]
    for key in keys[keys < kind.n_finite - 1].tolist():
        low, high = kind.value(key), kind.value(key + 1)
        middle = low / 2 + high / 2  # exact, but for float64
        assert_rounds_as_torch(kind, middle)
        if low < middle < high:
            assert kind.rounded(middle) == (low if key % 2 == 0 else high)
            if kind.item_size <= 2:
                assert (kind.rounded(short_of(middle)), kind.rounded(past(middle))) == (low, high)
            for tau in (float(np.nextafter(middle, 0)), float(np.nextafter(middle, math.inf))):
                assert_rounds_as_torch(kind, tau)


@each_kind
def test_rounded_at_the_end_overflows_half_a_step_past_the_largest(kind):
    largest, before = kind.value(kind.n_finite - 1), kind.value(kind.n_finite - 2)
    if kind.name == "F64":
        assert kind.rounded(largest) == largest
        return
    half = largest + (largest - before) / 2
    for tau in (largest, float(np.nextafter(half, 0)), half, float(np.nextafter(half, math.inf)), 2 * largest, 1e308):
        assert_rounds_as_torch(kind, tau)
    if kind.name == "F8_E4M3":
        assert [kind.rounded(tau) for tau in (449, 463, 464, 465, 1e4)] == [448, 448, 448, math.inf, math.inf]
    else:
        assert kind.rounded(half) == math.inf
        if kind.item_size <= 2:
            assert (kind.rounded(short_of(half)), kind.rounded(past(half))) == (largest, math.inf)


@each_kind
def test_rounded_below_the_smallest_is_nought_up_to_its_half(kind):
    smallest = kind.value(1)
    for tau in (0.0, 5e-324, smallest / 2, float(np.nextafter(smallest / 2, 1)), smallest * 0.75, smallest * 1.5):
        assert_rounds_as_torch(kind, tau)
    assert kind.rounded(smallest / 2) == 0


@given(each_size, st.floats(0, 1e308) | st.floats(0, 1e5) | st.floats(0, 1))
def test_rounded_is_what_torch_rounds_to(kind, tau):
    assert_rounds_as_torch(kind, tau)


@each_kind
def test_rounded_compares_as_torch_compares_a_weight_with_a_number(kind):
    if kind.item_size == 1:
        pytest.skip("torch compares no float8")
    stored = finite_keys(kind)[::11]
    weight = torch.from_numpy(stored.copy()).view(TORCH[kind.name])
    for tau in (0.0, 0.1, 0.02, 1e-3, 1 / 3, 3.14159, 1e-8):
        np.testing.assert_array_equal((weight.abs() > tau).numpy(), kind.values(stored) > kind.rounded(tau))


def test_rounded_goes_through_float32_as_torch_does():
    """A tau just above the middle of 1 and 1 + 2^-7 is the middle in float32, and then even."""
    tau = 1 + 2**-8 + 2**-40
    assert KINDS["BF16"].rounded(tau) == 1
    assert (torch.tensor([1 + 2**-7], dtype=torch.bfloat16) > tau).item()


def test_the_number_of_a_signalling_nan_is_nan_without_a_warning():
    for kind in KINDS.values():
        assert np.isnan(kind.values(np.array([kind.mask], kind.storage))).all()
    assert np.isnan(KINDS["F32"].values(np.array([0x7F800001], np.uint32))).all()
    assert np.isnan(KINDS["BF16"].values(np.array([0x7F81], np.uint16))).all()
