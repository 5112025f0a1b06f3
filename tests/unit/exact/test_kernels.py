"""Kernels: each loop over bits against one line of plain numpy, over all widths, odd sizes and hostile rows."""

import numpy as np
import pytest

from secateurs.exact import kernels
from secateurs.exact.kinds import KINDS, signed

KIND_OF_WIDTH = {kind.item_size: kind for kind in KINDS.values()}
each_width = pytest.mark.parametrize("kind", KIND_OF_WIDTH.values(), ids=lambda kind: f"{kind.item_size}-byte")
SIZES = [0, 1, 2, 63, 64, 65, 127, 128, 4095, 4096, 4097, 9001]
COLUMNS = [1, 2, 12, 13, 63, 64, 65, 4097]
RNG = np.random.default_rng(0)


def bits(kind, n, keys=None):
    """n stored patterns with random signs; their keys are drawn from `keys`, or from all finite ones."""
    drawn = RNG.integers(0, kind.n_finite, n, dtype=np.uint64) if keys is None else RNG.choice(keys, n)
    return with_signs(kind, drawn)


def with_signs(kind, keys):
    keys = np.asarray(keys).astype(kind.storage)
    return keys | RNG.integers(0, 2, keys.size).astype(kind.storage) << kind.storage.type(kind.sign)


def contents(kind, n):
    """Arrays of n patterns: anything, a few numbers, one number, zeros of both signs, ascending, a hostile spread."""
    last = kind.n_finite - 1
    yield bits(kind, n)
    yield bits(kind, n, [0, 1, 7, 9, last])
    yield bits(kind, n, [0, 5])
    yield bits(kind, n, [last])
    yield bits(kind, n, [0])
    yield with_signs(kind, np.arange(n, dtype=np.uint64) % np.uint64(kind.n_finite))
    yield with_signs(kind, np.arange(n, dtype=np.uint64)[::-1] % np.uint64(kind.n_finite))
    # Each number twice as far as the one before: where counts point to is wrong every time.
    yield with_signs(kind, np.uint64(1) << (np.arange(n, dtype=np.uint64) % np.uint64(kind.sign - 1)))
    few = bits(kind, n, [0, 1, 2])
    few[:: max(1, n // 3)] = last
    yield few


def keys_of(kind, stored):
    return signed(stored & kind.storage.type(kind.mask))


def pivots(kind, keys):
    """Keys worth asking about: the ends, one past the finite, and some that occur and their neighbours."""
    some = [int(key) for key in keys[:: max(1, keys.size // 3)]]
    near = [key + step for key in some for step in (-1, 0, 1)]
    return sorted({0, 1, kind.n_finite, kind.mask} | {key for key in near if 0 <= key <= kind.mask})


@each_width
def test_collect_counts_below_and_gathers_inside_in_order(kind):
    for n in SIZES:
        for stored in contents(kind, n):
            keys = keys_of(kind, stored)
            asked = pivots(kind, keys)
            for low, high in zip(asked, asked[::-1] + asked, strict=False):
                found = np.empty(n, keys.dtype)
                end = kind.key(kind.n_finite)
                answer = kernels.collect(signed(stored), kind.key(kind.mask), kind.key(low), kind.key(high), end, found)
                inside = keys[(keys >= low) & (keys <= high)]
                if low <= high:
                    assert answer == ((keys < low).sum(), inside.size, (keys < kind.n_finite).all()), (n, low, high)
                    np.testing.assert_array_equal(found[: inside.size], inside)


@each_width
def test_collect_of_everything_of_nothing_and_of_what_is_not_finite(kind):
    stored = bits(kind, 1000, [3, kind.n_finite, kind.mask])
    found = np.empty(1000, keys_of(kind, stored).dtype)
    mask = kind.key(kind.mask)
    assert kernels.collect(signed(stored), mask, kind.key(0), mask, mask, found) == (0, 1000, False)
    np.testing.assert_array_equal(found, keys_of(kind, stored))
    assert kernels.collect(signed(stored), mask, kind.key(0), kind.key(-1), mask, found)[:2] == (0, 0)
    assert kernels.collect(signed(stored), mask, kind.key(4), kind.key(4), mask, found)[1] == 0


@each_width
def test_count_is_how_many_are_below_and_how_many_equal(kind):
    for n in SIZES:
        for stored in contents(kind, n):
            keys = keys_of(kind, stored)
            for key in pivots(kind, keys):
                counts = kernels.count(signed(stored), kind.key(kind.mask), kind.key(key))
                assert counts == ((keys < key).sum(), (keys == key).sum()), (n, key)


@each_width
def test_collect_and_count_take_memory_that_cannot_be_written(kind):
    stored = bits(kind, 200, [1, 5, 9])
    stored.flags.writeable = False
    mask, key = kind.key(kind.mask), kind.key(5)
    keys = keys_of(kind, stored)
    assert kernels.count(signed(stored), mask, key) == ((keys < 5).sum(), (keys == 5).sum())
    assert kernels.collect(signed(stored), mask, key, key, mask, np.empty_like(keys))[1] == (keys == 5).sum()


@each_width
def test_zero_below_leaves_no_smaller_one_and_touches_no_other(kind):
    for n in SIZES:
        for stored in contents(kind, n):
            keys = keys_of(kind, stored)
            for key in pivots(kind, keys):
                zeroed = stored.copy()
                n_equal = kernels.zero_below(signed(zeroed), kind.key(kind.mask), kind.key(key))
                np.testing.assert_array_equal(zeroed, np.where(keys < key, 0, stored))
                assert n_equal == (keys == key).sum()


@each_width
def test_zero_ties_spares_the_first(kind):
    for n in SIZES:
        for stored in contents(kind, n):
            keys = keys_of(kind, stored)
            for key in pivots(kind, keys)[:6]:
                is_tied = keys == key
                for n_spared in {0, 1, int(is_tied.sum()) // 2, int(is_tied.sum()), n + 5}:
                    zeroed = stored.copy()
                    kernels.zero_ties(signed(zeroed), kind.key(kind.mask), kind.key(key), n_spared)
                    is_late = is_tied & (is_tied.cumsum() > n_spared)
                    np.testing.assert_array_equal(zeroed, np.where(is_late, 0, stored))


def largest_of_each(keys, n_keep):
    """(groups, members) -> bool: the n_keep largest of every group; among equals the earlier."""
    order = (-keys.astype(np.int64)).argsort(axis=1, kind="stable")
    keep = np.zeros(keys.shape, bool)
    np.put_along_axis(keep, order[:, :n_keep], True, axis=1)
    return keep


def zero_rows(kind, stored, n_columns, n_keep):
    kernels.zero_rows(signed(stored), kind.key(kind.mask), n_columns, n_keep)


@each_width
@pytest.mark.parametrize("n_columns", COLUMNS)
def test_zero_rows_leaves_the_largest_of_every_row(kind, n_columns):
    # One kind of content after another: what was learned of a row misleads in the next.
    stored = np.concatenate([row for _ in range(2) for row in contents(kind, n_columns)])
    keys = keys_of(kind, stored).reshape(-1, n_columns)
    wanted = {1, 2, 3, n_columns // 4, n_columns // 2, n_columns * 7 // 10, n_columns - 1, n_columns}
    for n_keep in (n for n in wanted if 1 <= n <= n_columns):
        zeroed = stored.copy()
        zero_rows(kind, zeroed, n_columns, n_keep)
        keep = largest_of_each(keys, n_keep).ravel()
        np.testing.assert_array_equal(zeroed, np.where(keep, stored, 0), err_msg=f"{n_keep} of {n_columns}")


@each_width
def test_zero_rows_of_like_rows_then_of_a_row_a_thousand_times_larger(kind):
    sizes = np.abs(RNG.standard_normal((40, 300))) * np.where(np.arange(40) % 13 == 12, 2.0**10, 1)[:, None]
    keys = np.array([kind.key_upto(size) for size in sizes.ravel().tolist()]).reshape(sizes.shape)
    for n_keep in (1, 90, 150, 299):
        zeroed = stored = with_signs(kind, keys.ravel())
        zeroed = stored.copy()
        zero_rows(kind, zeroed, 300, n_keep)
        np.testing.assert_array_equal(zeroed, np.where(largest_of_each(keys, n_keep).ravel(), stored, 0))


@each_width
def test_zero_rows_where_few_stand_at_both_ends_of_all_keys(kind):
    """The counts say nothing of where between the ends the answer stands."""
    last = kind.n_finite - 1
    for n_low in (1, 20, 50, 99):
        keys = np.concatenate([RNG.integers(0, 3, (8, n_low)), last - RNG.integers(0, 3, (8, 100 - n_low))], axis=1)
        keys = RNG.permuted(keys, axis=1)
        stored = with_signs(kind, keys.ravel())
        for n_keep in (1, 99 - n_low, 100 - n_low, 101 - n_low, 99):
            if n_keep >= 1:
                zeroed = stored.copy()
                zero_rows(kind, zeroed, 100, n_keep)
                np.testing.assert_array_equal(zeroed, np.where(largest_of_each(keys, n_keep).ravel(), stored, 0))


def test_zero_rows_of_no_rows():
    stored = np.zeros(0, np.uint32)
    zero_rows(KINDS["F32"], stored, 5, 2)
    assert stored.size == 0


def zero_neighbours(kind, stored, n_kernel, m, n_keep):
    kernels.zero_neighbours(signed(stored), kind.key(kind.mask), n_kernel, m, n_keep)


def assert_neighbours(kind, stored, n_kernel, m, n_keep):
    """Every m consecutive inputs, at every place of the kernel, keep their n_keep largest and nothing else."""
    groups = keys_of(kind, stored).reshape(-1, m, n_kernel).swapaxes(1, 2).reshape(-1, m)
    keep = largest_of_each(groups, n_keep).reshape(-1, n_kernel, m).swapaxes(1, 2).ravel()
    zeroed = stored.copy()
    zero_neighbours(kind, zeroed, n_kernel, m, n_keep)
    np.testing.assert_array_equal(zeroed, np.where(keep, stored, 0), err_msg=f"{n_keep} of {m}, kernel {n_kernel}")


@each_width
@pytest.mark.parametrize("n_kernel", [1, 3, 9])
def test_zero_neighbours_leaves_the_largest_of_every_group(kind, n_kernel):
    for m in range(1, 17):
        group = m * n_kernel
        run = max(1, 2048 // group)  # groups that the kernel ranks at once
        # One group, an odd few, exactly one run, one run and one group more.
        for n_groups in (1, 5, run, run + 1) if m in (2, 4, 16) else (2 * run + 3,):
            for stored in list(contents(kind, n_groups * group))[:: 1 if n_groups == 5 else 2]:
                for n_keep in range(m + 1) if n_groups <= 5 else {0, 1, m // 2, m - 1, m}:
                    assert_neighbours(kind, stored, n_kernel, m, n_keep)


@each_width
def test_zero_groups_is_zero_neighbours_by_whole_lanes(kind):
    for m in (2, 4, 8, 16, 32):
        for n_lanes in (0, 1, 3, 33):
            for stored in contents(kind, 32 * n_lanes):
                for n_keep in {1, m // 2, m - 1}:
                    slow, fast = signed(stored.copy()), signed(stored.copy())
                    mask = kind.key(kind.mask)
                    kernels.zero_neighbours(slow, mask, 1, m, n_keep)
                    kernels.zero_groups(fast, mask, (0,) * m, kind.key(n_keep))
                    np.testing.assert_array_equal(fast, slow, err_msg=f"{n_keep} of {m}")


@each_width
@pytest.mark.parametrize(("m", "n_kernel"), [(32, 1), (127, 1), (128, 1), (100, 49), (7, 4000)])
def test_zero_neighbours_of_large_groups_and_kernels(kind, m, n_kernel):
    for stored in list(contents(kind, 3 * m * n_kernel))[:3]:
        for n_keep in (1, m // 2, m - 1):
            assert_neighbours(kind, stored, n_kernel, m, n_keep)


def test_zero_neighbours_of_nothing():
    stored = np.zeros(0, np.uint16)
    zero_neighbours(KINDS["BF16"], stored, 1, 4, 2)
    assert stored.size == 0


@each_width
@pytest.mark.parametrize("block", [1, 7, 64, 9001])
def test_counts_below_four_pivots_in_blocks_of_any_size(kind, block):
    """A row of 2**31 weights has more than a counter of 32 bits."""
    for stored in contents(kind, 130):
        keys = keys_of(kind, stored)
        asked = np.sort(np.resize(pivots(kind, keys), 4)).astype(keys.dtype)
        found = kernels._n_below(signed(stored), keys.dtype.type(kind.mask), *asked, block)
        assert found == tuple(int((keys < pivot).sum()) for pivot in asked)
