"""Laws of the exact engine: what sorting would say, whatever the kinds, the pieces, the threads and the ranks."""

import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.judge import InfeasibleError, judge
from laws.strategies import EIGHTHS, fractions
from secateurs.errors import InputError, RecipeError
from secateurs.exact import choose as choosing
from secateurs.exact import parts as parting
from secateurs.exact import zeroing
from secateurs.exact.choose import choose
from secateurs.exact.kinds import KINDS
from secateurs.exact.lamp import lamp_part
from secateurs.exact.parts import Part
from secateurs.exact.ranks import Ranks
from secateurs.exact.threads import n_threads, spread
from secateurs.scores import lamp

TORCH = {
    "F64": (torch.float64, torch.int64),
    "F32": (torch.float32, torch.int32),
    "F16": (torch.float16, torch.int16),
    "BF16": (torch.bfloat16, torch.int16),
    "F8_E5M2": (torch.float8_e5m2, torch.uint8),
    "F8_E4M3": (torch.float8_e4m3fn, torch.uint8),
}
NAMES = ["head", "b.weight", "a.weight", "layer10", "layer2", "Z"]
SIZES = [0, 1, 2, 7, 64, 65, 257, 1000, 2001]
NORMAL = {
    "piece": 1 << 20,
    "block": 1024,
    "room": 1 << 21,
    "group": 256,
    "sample": 1 << 20,
    "deviations": 5.0,
    "threads": "2",
}
EACH_KIND = st.sampled_from(list(KINDS))


def stored_as(name, values):
    """Numbers -> the bit patterns of a kind, rounded by torch."""
    dtype, bits = TORCH[name]
    stored = torch.tensor(np.asarray(values, np.float64)).to(dtype).view(bits).numpy()
    return stored.view(KINDS[name].storage).copy()


def content(name, how, n, seed):
    """n patterns of a kind, all finite."""
    rng, kind = np.random.default_rng(seed), KINDS[name]
    normal = rng.standard_normal(n)
    if how == "normal":
        return stored_as(name, normal)
    if how == "sparse":
        return stored_as(name, np.where(rng.random(n) < 0.7, normal * 0.0, normal))
    if how == "ties":  # the same numbers in every kind
        return stored_as(name, rng.choice(EIGHTHS, n))
    if how == "rounded":
        return stored_as(name, np.round(normal * 2) / 2)
    if how == "two":
        return stored_as(name, np.where(rng.random(n) < 0.5, 0.25, -1.0))
    if how == "equal":
        return stored_as(name, np.full(n, -0.5))
    if how == "zeros":
        return stored_as(name, np.where(rng.random(n) < 0.5, -0.0, 0.0))
    if how == "ascending":
        return stored_as(name, np.linspace(-1e-3, 3, n))
    if how == "descending":
        return stored_as(name, np.linspace(3, 0, n))
    if how == "misleading":  # the first of every 32 are tiny, and only they are sampled where blocks are small
        return stored_as(name, np.where(np.arange(n) % 32 < 8, normal / 64, normal))
    top = {"denormal": 1 << kind.n_mantissa, "bits": kind.n_finite}[how]
    keys = rng.integers(0, top, n, dtype=np.uint64) | rng.integers(0, 2, n, dtype=np.uint64) << np.uint64(kind.sign)
    return keys.astype(kind.storage)


CONTENTS = ["normal", "sparse", "ties", "rounded", "two", "equal", "zeros"]
CONTENTS += ["ascending", "descending", "misleading", "denormal", "bits"]


@st.composite
def layers(draw, sizes=SIZES, contents=CONTENTS, max_size=5):
    """{name: (kind's name, stored)}, in an order that is not the sorted one."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=max_size, unique=True))
    made = {}
    for name in names:
        kind = draw(EACH_KIND)
        how, n, seed = draw(st.sampled_from(contents)), draw(st.sampled_from(sizes)), draw(st.integers(0, 9))
        made[name] = kind, content(kind, how, n, seed)
    return made


@st.composite
def machines(draw):
    """Sizes so small that every way through the choice is walked."""
    return {
        "piece": draw(st.sampled_from([37, 200, 1000, 1 << 20])),
        "block": draw(st.sampled_from([2, 4, 8, 64, 1024])),
        "room": draw(st.sampled_from([64, 256, 1 << 21])),
        "group": draw(st.sampled_from([2, 4, 8])),
        "sample": draw(st.sampled_from([1, 30, 500, 1 << 20])),
        "deviations": draw(st.sampled_from([0.0, 0.5, 5.0])),
        "threads": draw(st.sampled_from(["1", "2", "3"])),
    }


class Walked:
    """What the choice did: how often it sampled, missed, thinned, read a batch, chose within one part alone."""

    def __init__(self):
        self.n_samples = self.n_scans = self.n_batches = self.n_thinned = 0
        self.n_too_high = self.n_too_low = self.n_alone = 0
        self.bracket = (0.0, np.inf)


@contextmanager
def machine(piece, block, room, group, sample, deviations, threads):
    """The engine with other sizes, and a spy on it."""
    walked = Walked()
    bracket, thinned, scan, again = choosing._bracket, parting._thinned, Part.scan, choosing.choose
    last, n_of_part = {}, Counter()

    def spied_choose(*words):
        walked.n_alone += 1
        return again(*words)

    def spied_bracket(*words):
        walked.n_samples += 1
        return bracket(*words)

    def spied_spread(task, items):
        walked.n_batches += 1
        return spread(task, items)

    def spied_thinned(found, room):
        less = thinned(found, room)
        walked.n_thinned += less is not found
        return less

    def spied_scan(part, low, high, room):
        walked.n_scans += 1
        n_of_part[id(part)] += 1
        assert n_of_part[id(part)] < 50, "the choice does not end"
        before = last.get(id(part))
        walked.n_too_high += before is not None and high < before[0]
        walked.n_too_low += before is not None and low > before[1]
        last[id(part)] = walked.bracket = low, high
        return scan(part, low, high, room)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(parting, PIECE=piece, BLOCK=block, GROUP=group))
        stack.enter_context(
            mock.patch.multiple(choosing, BLOCK=block, DEVIATIONS=deviations, ROOM=room, LEAST_ROOM=room)
        )
        stack.enter_context(mock.patch.object(choosing, "_sparse", lambda n_all: max(1, n_all // sample)))
        stack.enter_context(mock.patch.object(choosing, "_bracket", spied_bracket))
        stack.enter_context(mock.patch.object(choosing, "choose", spied_choose))
        stack.enter_context(mock.patch.object(parting, "_thinned", spied_thinned))
        stack.enter_context(mock.patch.object(parting, "spread", spied_spread))
        stack.enter_context(mock.patch.object(Part, "scan", spied_scan))
        stack.enter_context(mock.patch.dict("os.environ", SECATEURS_THREADS=threads))
        yield walked


def parts_of(made):
    return {name: Part.of(KINDS[kind], stored) for name, (kind, stored) in made.items()}


def sizes_of(made):
    """{name: float64 |w|}"""
    return {name: np.abs(KINDS[kind].values(stored)) for name, (kind, stored) in made.items()}


def kept_by(made, cuts):
    """{name: bool} of cuts, by what a Cut says it means."""
    keep = {}
    for name, (kind, stored) in made.items():
        keys = stored & KINDS[kind].storage.type(KINDS[kind].mask)
        keys = keys.astype(np.int64)  # no key has the sign bit
        is_tied = keys == cuts[name].key
        keep[name] = (keys > cuts[name].key) | (is_tied & (is_tied.cumsum() <= cuts[name].n_ties))
        assert keep[name].sum() == cuts[name].n_kept, name
    return keep


def sorted_out(made, n_pruned, n_first=None):
    """The clear way: each part's best first, then one stable sort of all the others."""
    sizes, keep = sizes_of(made), {}
    for name in sorted(made):
        best = (-sizes[name]).argsort(kind="stable")[: (n_first or {}).get(name, 0)]
        keep[name] = np.isin(np.arange(sizes[name].size), best)
    every, is_held = (np.concatenate([one[name] for name in sorted(made)]) for one in (sizes, keep))
    n_more = every.size - n_pruned - is_held.sum()
    assert n_more >= 0
    alive = is_held.copy()
    alive[np.where(is_held, 1.0, -every).argsort(kind="stable")[:n_more]] = True
    ends = np.cumsum([sizes[name].size for name in sorted(made)])
    return dict(zip(sorted(made), np.split(alive, ends[:-1]), strict=True))


def assert_same(keep, expected):
    assert keep.keys() == expected.keys()
    for name in keep:
        np.testing.assert_array_equal(keep[name], expected[name], err_msg=name)


def n_of(made):
    return sum(stored.size for _, stored in made.values())


def shares(draw, made, most=1.0):
    """How many of each part live first: none, one, some."""
    return {
        name: draw(st.sampled_from([0, 1, stored.size // 8, int(stored.size * most)]))
        for name, (_, stored) in made.items()
    }


@settings(max_examples=80)
@given(layers(), fractions(), machines())
def test_choose_keeps_what_sorting_keeps(made, s, sizes):
    n_pruned = round(s * n_of(made))
    with machine(**sizes):
        keep = kept_by(made, choose(parts_of(made), n_pruned))
    assert sum(alive.sum() for alive in keep.values()) == n_of(made) - n_pruned
    assert_same(keep, sorted_out(made, n_pruned))


@settings(max_examples=60)
@given(layers(), fractions(), machines(), st.data())
def test_choose_keeps_each_parts_best_first(made, s, sizes, data):
    n_first = shares(data.draw, made)
    n_first = {name: min(n, made[name][1].size) for name, n in n_first.items()}
    n_pruned = min(round(s * n_of(made)), n_of(made) - sum(n_first.values()))
    with machine(**sizes):
        keep = kept_by(made, choose(parts_of(made), n_pruned, n_first))
    assert_same(keep, sorted_out(made, n_pruned, n_first))


@given(layers([0, 1, 3, 8, 20], ["ties", "zeros", "two", "bits", "denormal"]), fractions(), st.integers(0, 3))
def test_choose_agrees_with_the_slow_judge(made, s, least):
    scores = {name: sizes.reshape(1, -1) for name, sizes in sizes_of(made).items()}
    n_pruned = round(s * n_of(made))
    try:
        expected = judge(scores, "element", "model", n_kept=lambda n: n - n_pruned, min_keep=least)
    except InfeasibleError:
        return
    keep = kept_by(made, choose(parts_of(made), n_pruned, dict.fromkeys(made, least)))
    assert_same(
        keep,
        {name: alive.ravel() for name, alive in expected.items() if alive.size}
        | {name: np.zeros(0, bool) for name in made if not scores[name].size},
    )


@given(layers(), fractions(), fractions(), machines())
def test_pruning_more_keeps_a_subset(made, s, t, sizes):
    with machine(**sizes):
        less, more = (kept_by(made, choose(parts_of(made), round(x * n_of(made)))) for x in sorted((s, t)))
    assert not any((more[name] & ~less[name]).any() for name in made)


@given(layers(), fractions(), machines(), st.data())
def test_pieces_threads_and_samples_change_nothing(made, s, sizes, data):
    n_first = shares(data.draw, made, 0.25)
    n_pruned = min(round(s * n_of(made)), n_of(made) - sum(n_first.values()))
    with machine(**NORMAL):
        cuts = choose(parts_of(made), n_pruned, n_first)
    with machine(**sizes):
        assert choose(parts_of(made), n_pruned, n_first) == cuts
        backwards = dict(reversed(parts_of(made).items()))
        assert choose(backwards, n_pruned, n_first) == cuts


@given(layers(), fractions())
def test_signs_and_the_source_do_not_matter(made, s):
    """Read-only, unaligned and negated: the same cuts, and nothing is written."""
    n_pruned = round(s * n_of(made))
    cuts = choose(parts_of(made), n_pruned)
    other = {}
    for name, (kind, stored) in made.items():
        flipped = stored ^ KINDS[kind].storage.type(1 << KINDS[kind].sign)
        raw = np.frombuffer(b"!" + flipped.tobytes(), np.uint8)[1:]
        other[name] = kind, raw.view(KINDS[kind].storage)
    before = {name: stored.tobytes() for name, (_, stored) in other.items()}
    assert choose(parts_of(other), n_pruned) == cuts
    assert before == {name: stored.tobytes() for name, (_, stored) in other.items()}


class Together(Ranks):
    """Ranks that are threads of one process and meet at a barrier."""

    def __init__(self, index, n, barrier, board):
        self.index, self.n, self.barrier, self.board = index, n, barrier, board

    def sum(self, counts):
        self.board[self.index] = np.asarray(counts, np.int64)
        self.barrier.wait()
        total = sum(self.board)
        self.barrier.wait()
        return total

    def wait(self):
        self.barrier.wait()


def on_ranks(n, task):
    """What task(ranks) gives on each of n ranks; the first error that is not another rank's is raised."""
    barrier, board = threading.Barrier(n, timeout=10), [None] * n
    answers, errors = [None] * n, []

    def run(index):
        try:
            answers[index] = task(Together(index, n, barrier, board))
        except threading.BrokenBarrierError as error:
            errors.append(error)
        except BaseException as error:
            errors.insert(0, error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    assert not barrier.broken
    return answers


@settings(max_examples=25)
@given(layers(), fractions(), machines(), st.integers(2, 3), st.data())
def test_ranks_that_share_the_layers_choose_as_one(made, s, sizes, n, data):
    home = {name: data.draw(st.integers(0, n - 1)) for name in made}  # some ranks may hold nothing
    n_first = shares(data.draw, made, 0.5) if data.draw(st.booleans()) else {}
    n_pruned = min(round(s * n_of(made)), n_of(made) - sum(n_first.values()))
    with machine(**NORMAL):
        alone = choose(parts_of(made), n_pruned, n_first)

    def mine(ranks):
        own = {name: part for name, part in parts_of(made).items() if home[name] == ranks.index}
        return choose(own, n_pruned, {name: n_first.get(name, 0) for name in own}, sorted(made), ranks)

    with machine(**sizes):
        answers = on_ranks(n, mine)
    assert [set(cuts) for cuts in answers] == [{name for name in made if home[name] == i} for i in range(n)]
    assert {name: cut for cuts in answers for name, cut in cuts.items()} == alone


SMALL = {"piece": 64, "block": 8, "room": 1 << 21, "group": 4, "sample": 1 << 20, "deviations": 5.0, "threads": "2"}


def assert_sorted_out(made, n_pruned, n_first=None, **sizes):
    with machine(**(SMALL | sizes)) as walked:
        keep = kept_by(made, choose(parts_of(made), n_pruned, n_first))
    assert_same(keep, sorted_out(made, n_pruned, n_first))
    return walked


def test_a_sample_that_hits_needs_one_pass():
    made = {"a": ("F32", content("F32", "normal", 50_000, 0)), "b": ("BF16", content("BF16", "normal", 50_000, 1))}
    walked = assert_sorted_out(made, 70_000, piece=1000)
    assert (walked.n_samples, walked.n_scans, walked.n_thinned) == (1, 2, 0)
    assert walked.n_batches > 2 * walked.n_scans  # pieces come in several batches


def test_short_blocks_at_the_ends_of_pieces_do_not_widen_the_bracket():
    """Their counts are smaller because they are short, which says nothing about how scores differ."""
    blocks = [np.arange(64, dtype=np.int32)[None] for _ in range(8)]
    short = np.array([[0, 63]], np.int32)
    assert choosing._variance([*blocks, short], np.int32(40)) < 1.1 * choosing._variance(blocks, np.int32(40))


def test_few_scores_are_not_sampled():
    made = {"a": ("F32", content("F32", "normal", 60, 0))}
    assert assert_sorted_out(made, 30).n_samples == 0


@pytest.mark.parametrize(("odd", "n_pruned"), [(1e-6, 4000), (50.0, 2000)])
def test_a_sample_of_none_but_odd_scores_misses_and_one_more_pass_finds(odd, n_pruned):
    """8 of every 32 are looked at, and they are all the same."""
    stored = content("F32", "normal", 32 * 200, 3)
    stored[np.arange(stored.size) % 32 < 8] = stored_as("F32", [odd])[0]
    walked = assert_sorted_out({"a": ("F32", stored)}, n_pruned, sample=32 * 200 // 4)
    assert (walked.n_samples, walked.n_scans) == (1, 2)
    assert (walked.n_too_low, walked.n_too_high) == ((1, 0) if odd < 1 else (0, 1))


@pytest.mark.parametrize("shift", [0.05, -0.05])
def test_a_sample_that_misses_by_little_looks_beside_its_bracket(shift):
    """What is looked at is a little larger, or smaller, than the rest, and near it."""
    stored = np.random.default_rng(3).uniform(1.0, 2.0, 32 * 2000).astype(np.float32)
    stored[np.arange(stored.size) % 32 < 8] += np.float32(shift)
    made = {"a": ("F32", stored_as("F32", stored))}
    walked = assert_sorted_out(made, stored.size // 2, sample=stored.size // 4)
    assert (walked.n_samples, walked.n_scans) == (1, 2)
    assert (walked.n_too_low, walked.n_too_high) == ((0, 1) if shift > 0 else (1, 0))
    assert walked.bracket[1] - walked.bracket[0] < 0.4  # anywhere would have been half of 1 to 2, and what lies beyond


@pytest.mark.parametrize("how", ["ascending", "descending"])
@pytest.mark.parametrize("sample", [1, 100, 1 << 20])
def test_sorted_scores_of_every_share(how, sample):
    made = {"a": ("F32", content("F32", how, 20_000, 0)), "b": ("F16", content("F16", how, 5001, 0))}
    for n_pruned in (1, 2, 1000, 12_500, 24_999, 25_000):
        assert_sorted_out(made, n_pruned, sample=sample, piece=1000)


EVERYTHING = {"deviations": 1e9}  # so wide a bracket that all is inside


@pytest.mark.parametrize(("n_pruned", "n_scans"), [(30_000, 2), (45_000, 3)])
def test_scores_are_sampled_where_some_live_first_too(n_pruned, n_scans):
    """In the second case a third of "a" may not go though it is small: the bracket knows, and "a" is cut on its own."""
    made = {"a": ("F32", content("F32", "normal", 30_000, 0)), "b": ("F32", content("F32", "normal", 30_000, 1))}
    walked = assert_sorted_out(made, n_pruned, {"a": 10_000, "b": 10}, piece=1000)
    assert walked.n_scans == n_scans  # a miss would be two more


def test_more_scores_than_there_is_room_for_are_thinned_and_then_found():
    made = {"a": ("F32", content("F32", "normal", 30_000, 0)), "b": ("F64", content("F64", "normal", 20_000, 1))}
    for n_pruned in (3, 25_000, 49_990):
        walked = assert_sorted_out(made, n_pruned, {"a": 1, "b": 1}, room=512, group=8, piece=1000, **EVERYTHING)
        assert walked.n_thinned > 2
        assert 4 <= walked.n_scans <= 20


def test_thinning_with_ties_and_zeros():
    made = {name: ("F32", content("F32", how, 9000, 5)) for name, how in zip("abc", CONTENTS, strict=False)}
    for n_pruned in (100, 6000, 13_000, 20_000, 26_000):
        walked = assert_sorted_out(made, n_pruned, dict.fromkeys(made, 1), room=512, group=8, piece=1000, **EVERYTHING)
        assert walked.n_thinned > 2


def test_one_huge_layer_and_many_tiny_ones():
    made = {f"tiny{i}": ("BF16", content("BF16", "rounded", i % 5, i)) for i in range(40)}
    made["huge"] = "F32", content("F32", "normal", 40_000, 0)
    one_each = {name: min(1, stored.size) for name, (_, stored) in made.items()}
    for n_pruned in (1, 28_140, n_of(made) - 33):  # in the end nothing but the first of each
        assert_sorted_out(made, n_pruned, piece=4096, block=64)
        assert_sorted_out(made, n_pruned, one_each, piece=4096, block=64)


@pytest.mark.parametrize("how", ["equal", "two", "zeros"])
@pytest.mark.parametrize("n_pruned", [1, 4000, 8000, 11_999])
def test_few_different_scores(how, n_pruned):
    made = {name: (kind, content(kind, how, 2000, i)) for i, (name, kind) in enumerate(zip(NAMES, KINDS, strict=True))}
    assert_sorted_out(made, n_pruned)
    assert_sorted_out(made, n_pruned, deviations=0.0, sample=100, piece=1000)


def test_equal_scores_go_by_the_name_and_then_by_the_index():
    made = {
        name: (kind, stored_as(kind, [0.5] * 4)) for name, kind in zip("cab", ["F8_E4M3", "F32", "F16"], strict=True)
    }
    keep = kept_by(made, choose(parts_of(made), 6))
    assert {name: alive.tolist() for name, alive in keep.items()} == {
        "a": [True] * 4,
        "b": [True, True, False, False],
        "c": [False] * 4,
    }


def test_a_part_whose_best_are_smaller_than_the_others_worst_keeps_them():
    made = {"small": ("F32", stored_as("F32", [0.1, 0.3, 0.2])), "large": ("BF16", stored_as("BF16", [5, 6, 7, 8]))}
    for n_pruned, large in [(1, [True] * 4), (3, [False, False, True, True]), (5, [False] * 4)]:
        with machine(**SMALL) as walked:
            keep = kept_by(made, choose(parts_of(made), n_pruned, {"small": 2}))
        assert keep["small"].tolist() == [False, True, True]
        assert keep["large"].tolist() == large
        assert walked.n_alone == 1


def test_a_number_that_occurs_more_often_than_there_is_room_for_the_others():
    """5000 different ones, then one that occurs 2000 times, then a few: clamped weights."""
    sizes = np.concatenate([np.linspace(0.01, 0.6, 5000), np.full(2000, 0.7), np.linspace(0.8, 1, 50)])
    made = {"w": ("F32", stored_as("F32", np.random.default_rng(0).permutation(sizes)))}
    for n_pruned in (1, 3000, 4995, 5000, 5001, 6999, 7000, 7020):
        walked = assert_sorted_out(made, n_pruned, {"w": 1}, room=256, group=8, piece=500, **EVERYTHING)
        assert walked.n_thinned > 0
        assert walked.n_scans < 10


def test_no_part_and_only_empty_parts():
    assert choose({}, 0) == {}
    empty = {"a": Part.of(KINDS["F32"], np.zeros(0, np.uint32))}
    assert set(choose(empty, 0)) == {"a"}


@given(EACH_KIND, st.sampled_from([3, 100, 3001]), st.integers(1, 5), st.integers(0, 9), machines())
def test_a_weight_that_is_not_finite_is_refused_with_the_layer_and_the_count(name, n, n_bad, seed, sizes):
    kind, rng = KINDS[name], np.random.default_rng(seed)
    stored = content(name, "bits", n, seed)
    n_bad = min(n, n_bad)
    bad = rng.integers(kind.n_finite, kind.mask, n_bad, endpoint=True, dtype=np.uint64).astype(kind.storage)
    sign = kind.storage.type(1 << kind.sign) * rng.integers(0, 2, n_bad).astype(kind.storage)
    stored[rng.choice(n, n_bad, replace=False)] = bad | sign
    made = {"fine": ("F32", content("F32", "normal", 50, seed)), "a.bad": (name, stored)}
    with machine(**sizes), pytest.raises(InputError, match=rf"'a\.bad' holds {n_bad} weights of {n} that are infinite"):
        choose(parts_of(made), (n + 50) // 2)


@pytest.mark.parametrize("name", KINDS)
def test_the_first_pattern_past_the_finite_is_refused(name):
    kind = KINDS[name]
    for key in (kind.n_finite, kind.mask):
        stored = np.array([1, key, 2], kind.storage)
        with pytest.raises(InputError, match="holds 1 weights of 3"):
            choose({"w": Part.of(kind, stored)}, 1)


def test_one_ranks_bad_weight_stops_that_rank():
    made = {"a": ("F32", content("F32", "normal", 100, 0)), "b": ("F32", stored_as("F32", [1.0, np.nan]))}
    home = {"a": 0, "b": 1}

    def mine(ranks):
        own = {name: part for name, part in parts_of(made).items() if home[name] == ranks.index}
        return choose(own, 50, names=sorted(made), ranks=ranks)

    with pytest.raises(InputError, match="'b' holds 1 weights of 2"):
        on_ranks(2, mine)


@given(layers(), fractions(), machines(), st.data())
def test_zero_cut_zeroes_what_the_cut_does_not_keep(made, s, sizes, data):
    """Whole, and stretch by stretch; what lives keeps its bits, what goes is +0."""
    cuts = choose(parts_of(made), round(s * n_of(made)))
    keep = kept_by(made, cuts)
    for name, (kind, stored) in made.items():
        expected = np.where(keep[name], stored, 0)
        ends = sorted(data.draw(st.lists(st.integers(0, stored.size), max_size=4)))
        for places in ([], ends):
            zeroed, cut = stored.copy(), cuts[name]
            with machine(**sizes):
                for stretch in np.split(zeroed, places):
                    cut = zeroing.zero_cut(stretch, KINDS[kind], cut)
            np.testing.assert_array_equal(zeroed, expected)


@settings(max_examples=60)
@given(EACH_KIND, st.sampled_from(CONTENTS), st.integers(0, 9), st.integers(0, 40), fractions(), machines(), st.data())
def test_zero_rows_is_the_judges_row_pool(name, how, n_rows, n_columns, s, sizes, data):
    stored = content(name, how, n_rows * n_columns, data.draw(st.integers(0, 9)))
    zeroed, n_keep = stored.copy(), n_columns - round(s * n_columns)
    with machine(**sizes):
        zeroing.zero_rows(zeroed, KINDS[name], n_columns, n_keep)
    scores = np.abs(KINDS[name].values(stored)).reshape(n_rows, n_columns)
    if scores.size:
        keep = judge({"w": scores}, "element", "row", n_kept=lambda n: n_keep)["w"]
        np.testing.assert_array_equal(zeroed, np.where(keep.ravel(), stored, 0))


@settings(max_examples=60)
@given(
    EACH_KIND,
    st.sampled_from(CONTENTS),
    st.sampled_from([(), (1,), (3,), (3, 3), (0,)]),
    st.integers(1, 9),
    machines(),
    st.data(),
)
def test_zero_neighbours_is_the_judges_pool_of_neighbours(name, how, kernel, m, sizes, data):
    shape = (data.draw(st.integers(0, 4)), m * data.draw(st.integers(0, 4)), *kernel)
    stored = content(name, how, int(np.prod(shape)), data.draw(st.integers(0, 9)))
    zeroed, n_keep = stored.copy(), data.draw(st.integers(0, m))
    with machine(**sizes):
        zeroing.zero_neighbours(zeroed, KINDS[name], shape, m, n_keep)
    scores = np.abs(KINDS[name].values(stored)).reshape(shape)
    if scores.size:
        keep = judge({"w": scores}, "element", m, n_kept=lambda n: n_keep)["w"]
        np.testing.assert_array_equal(zeroed, np.where(keep.ravel(), stored, 0))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("m", "kernel"), [(128, ()), (129, ()), (300, ()), (1000, ()), (200, (3,))])
def test_zero_neighbours_of_large_groups(name, m, kernel):
    """More places than 8 bits count to."""
    shape = (2, 2 * m, *kernel)
    stored = content(name, "bits", int(np.prod(shape)), 0)
    groups = np.abs(KINDS[name].values(stored)).reshape(4, m, -1).swapaxes(1, 2).reshape(-1, m)
    for n_keep in (1, m // 2, m - 1):
        zeroed = stored.copy()
        zeroing.zero_neighbours(zeroed, KINDS[name], shape, m, n_keep)
        keep = np.zeros(groups.shape, bool)
        np.put_along_axis(keep, (-groups).argsort(axis=1, kind="stable")[:, :n_keep], True, axis=1)
        keep = keep.reshape(4, -1, m).swapaxes(1, 2).ravel()
        np.testing.assert_array_equal(zeroed, np.where(keep, stored, 0))


@given(EACH_KIND, st.sampled_from(CONTENTS), st.sampled_from(SIZES), st.integers(0, 9), machines())
def test_lamp_parts_hold_the_scores_of_lamp_from_the_largest_on(name, how, n, seed, sizes):
    if how == "bits":  # squares of the largest are infinite in both
        how = "normal"
    stored = content(name, how, n, seed)
    dtype, bits = TORCH[name]
    weight = torch.from_numpy(stored.view(np.dtype(str(bits).removeprefix("torch.")))).view(dtype).to(torch.float64)
    with machine(**sizes):
        part = lamp_part(Part.of(KINDS[name], stored))
        pieces = [KINDS["F64"].values(piece) for piece in part.pieces()]
    assert part.n == n
    expected = lamp(weight).sort(descending=True).values.numpy()
    np.testing.assert_array_equal(np.concatenate([*pieces, np.zeros(0)]), expected)


@pytest.mark.parametrize("threads", ["1", "2", "7"])
def test_spread_gives_results_in_order_and_the_first_error(monkeypatch, threads):
    monkeypatch.setenv("SECATEURS_THREADS", threads)
    assert n_threads() == int(threads)
    assert spread(lambda i: i * i, range(50)) == [i * i for i in range(50)]
    assert spread(lambda i: i, []) == []

    def fails(i):
        if i >= 3:
            raise ValueError(f"number {i}")

    with pytest.raises(ValueError, match="number 3"):
        spread(fails, range(9))


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1025", " "])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("SECATEURS_THREADS", text)
    with pytest.raises(RecipeError, match="SECATEURS_THREADS is a number of threads from 1 to 1024"):
        n_threads()


def test_without_a_word_all_cores_are_used(monkeypatch):
    monkeypatch.delenv("SECATEURS_THREADS", raising=False)
    assert n_threads() >= 1
