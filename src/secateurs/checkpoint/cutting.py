"""Cutting: what goes from each tensor of a checkpoint, found without gathering, and zeroed stretch by stretch.

    cutter = Cutter(checkpoint, plan)
    knife = cutter.knife(planned)          decides; reads the weights where it must
    knife.zero(buffer, start)              for the stretches of the tensor in their order

Weights in their own order are ranked by their bits (exact/). Whatever else a recipe asks of one layer is chosen by
`select`, on that layer alone.
"""

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.budgets import Simple, Threshold
from secateurs.checkpoint.plan import Plan, Planned, n_kept_of, pool_size
from secateurs.checkpoint.survey_counts import How, count, tau_key
from secateurs.checkpoint.tensors import Checkpoint, Stored
from secateurs.cuttable import absolute
from secateurs.errors import CollapseWarning
from secateurs.exact.choose import Cut, choose, not_finite
from secateurs.exact.kernels import count as count_keys
from secateurs.exact.kinds import KINDS, Kind, signed
from secateurs.exact.lamp import lamp_part
from secateurs.exact.parts import PIECE, Part, split
from secateurs.exact.ranks import ALONE, Ranks
from secateurs.exact.threads import n_threads, spread
from secateurs.exact.zeroing import zero_cut, zero_neighbours, zero_rows

Keep = NDArray[np.bool_]


class Knife:
    """Interface: zeroes what goes from one tensor, seen as (out, in, *kernel), in stretches of whole rows."""

    n_pruned: int

    @abstractmethod
    def zero(self, buffer: Stored, start: int) -> None:
        """Zero what goes from the weights [start, start + buffer.size), in place; stretches come in order."""
        raise NotImplementedError


@dataclass
class ByCut(Knife):
    """Weights up to a size go."""

    kind: Kind
    cut: Cut
    n_pruned: int

    def zero(self, buffer: Stored, start: int) -> None:
        """Zero what the cut leaves out; its ties are used up stretch by stretch."""
        self.cut = zero_cut(buffer, self.kind, self.cut)


@dataclass(frozen=True)
class ByPool(Knife):
    """All but the n_keep largest of every row, or of every m neighbours along the inputs, go."""

    kind: Kind
    shape: tuple[int, ...]
    m: int
    n_keep: int
    n_pruned: int

    def zero(self, buffer: Stored, start: int) -> None:
        """Zero the smallest of every pool."""
        if self.m:
            zero_neighbours(buffer, self.kind, self.shape, self.m, self.n_keep)
        else:
            zero_rows(buffer, self.kind, math.prod(self.shape[1:]), self.n_keep)


@dataclass(frozen=True)
class ByUnits(Knife):
    """Whole units go: `keep` is (R, C, K), of pieces of h outputs, w inputs and d kernel positions."""

    keep: Keep
    piece: tuple[int, int, int]
    n_pruned: int

    def zero(self, buffer: Stored, start: int) -> None:
        """Zero the units that go."""
        h, w, d = self.piece
        size = self.keep.shape[1] * w * self.keep.shape[2] * d  # of a row
        rows = (start // size + np.arange(buffer.size // size)) // h
        goes = ~self.keep[rows]
        buffer[np.repeat(np.repeat(goes, w, axis=1), d, axis=2).reshape(-1)] = 0


class Cutter:
    """Decides what goes from the tensors of a checkpoint; those named by `mine` are read by this rank."""

    def __init__(
        self, checkpoint: Checkpoint, plan: Plan, ranks: Ranks = ALONE, mine: frozenset[str] | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.plan = plan
        self.ranks = ranks
        self.mine = mine
        self.taus: dict[str, float] = {}
        self.sigmas: dict[str, float] = {}
        self._simple: dict[str, Simple] = {}
        self._cuts: dict[str, Cut] = {}

    def prepare(self) -> None:
        """Read what must be known of all tensors together: sigmas of thresholds, and the model's one threshold."""
        plan, recipe = self.plan, self.plan.recipe
        cut = {each.name: each for each in plan.cut if self.mine is None or each.name in self.mine}
        shapes = {name: each.seen for name, each in cut.items()}
        budget, self.taus, self.sigmas = absolute(recipe.budget, shapes, lambda name: self._sigma(cut[name]))
        self._simple = budget.for_layers(plan.shapes)
        if recipe.pool.kind == "model" and not self.taus and not _is_threshold(self._simple):
            n_units = sum(map(plan.n_units, plan.cut))
            budget_of_all = next(iter(self._simple.values()))
            self._cuts = choose(
                {name: self._part(each) for name, each in cut.items()},
                budget_of_all.n_pruned(n_units) if n_units else 0,
                {name: plan.n_first(each) for name, each in cut.items()},
                [each.name for each in plan.cut],
                self.ranks,
            )

    def knife(self, each: Planned) -> Knife:
        """What zeroes one tensor; InputError for weights that are not finite. Warns if it will leave nothing."""
        return self._told(each, self._knife(each))

    def knives(self) -> dict[str, Knife]:
        """Those of all tensors; small ones that need no memory to speak of are decided side by side."""
        cut = self.plan.cut
        is_many = len(cut) >= 2 * n_threads() and all(map(self._is_plain, cut))
        found = spread(self._knife, cut) if is_many else map(self._knife, cut)
        return {each.name: self._told(each, knife) for each, knife in zip(cut, found, strict=True)}

    def _told(self, each: Planned, knife: Knife) -> Knife:
        """The same, and a warning if it leaves nothing."""
        if knife.n_pruned == each.entry.n > 0:
            warnings.warn(
                f"Layer collapse: '{each.name}' {each.entry.shape} loses all of its {each.entry.n} weights under "
                f"'{self.plan.recipe.budget}'. Ask for less, or give min_keep.",
                CollapseWarning,
                stacklevel=3,
            )
        return knife

    def _knife(self, each: Planned) -> Knife:
        plan, recipe = self.plan, self.plan.recipe
        n = each.entry.n
        if not n:
            return ByCut(each.kind, Cut(-1, 0, 0), 0)
        if each.name in self._cuts:
            cut = self._cuts[each.name]
            if self._is_lamp(each):
                # Within a layer lamp ranks as magnitude does.
                cut = choose({each.name: self._weights(each)}, n - cut.n_kept)[each.name]
            elif not self._is_plain(each):
                return self._by_units(each, cut)
            return self._by_cut(each, cut)
        budget = self._simple[each.name]
        if self._is_plain(each):
            part = self._weights(each)
            if isinstance(budget, Threshold):
                return self._by_threshold(each, budget, part)
            if recipe.pool.kind in ("row", "neighbours"):
                self._check_finite(each, part)
                n_keep = pool_size(plan, each) - budget.n_pruned(pool_size(plan, each)) if n else 0
                return ByPool(each.kind, each.seen, recipe.pool.n, n_keep, n - n_kept_of(plan, each, budget))
            return self._by_cut(each, choose({each.name: part}, budget.n_pruned(n))[each.name])
        self._check_finite(each, self._weights(each))
        if self._has_means(each) and recipe.pool.kind == "layer" and not isinstance(budget, Threshold):
            units = self._units(each)
            return self._by_units(each, choose({each.name: units}, budget.n_pruned(units.n))[each.name])
        return self._by_select(each, budget)

    def pruned(self, each: Planned, knife: Knife) -> Iterator[tuple[Stored, int, int]]:
        """(bits, zeros before, zeros after) of the pruned tensor as it is stored, in stretches the caller may keep."""
        stored, kind = self.checkpoint.stored(each.entry), each.kind
        size = max(1, math.prod(each.seen[1:]))  # of a row
        n_rows = max(1, STRETCH // size)
        if not stored.size:
            return
        if each.entry.is_turned:
            # A row of the weight is a column of what is stored, so the whole is put together before it is given.
            seen = _turned(stored, each)
            whole = np.empty(stored.size, stored.dtype)
            grouped = _grouped(whole, each)
            n_before, n_after = 0, 0
            for row in range(0, each.seen[0], n_rows):
                rows = seen[row : row + n_rows].copy()  # also where it lies in order: the source is only read
                n_before += n_zeros(rows.reshape(-1), kind)
                knife.zero(rows.reshape(-1), row * size)
                n_after += n_zeros(rows.reshape(-1), kind)
                grouped[np.divmod(np.arange(row, row + len(rows)), grouped.shape[1])] = rows
            yield whole, n_before, n_after
            return
        for start in range(0, stored.size, n_rows * size):
            buffer = copied(stored[start : start + n_rows * size])
            n_before = n_zeros(buffer, kind)
            knife.zero(buffer, start)
            yield buffer, n_before, n_zeros(buffer, kind)

    def _is_plain(self, each: Planned) -> bool:
        return self.plan.recipe.score.name == "magnitude" and math.prod(self.plan.recipe.unit.piece(each.seen)) == 1

    def _has_means(self, each: Planned) -> bool:
        """Whether units are ranked by means of which float32 hides the order of summation."""
        return self.plan.recipe.score.name == "magnitude" and each.kind.name != "F64" and self.plan.n_units(each) > 0

    def _is_lamp(self, each: Planned) -> bool:
        """Whether weights are ranked by lamp, whose order in a layer is theirs; float64 may round it to ties."""
        recipe = self.plan.recipe
        return recipe.score.name == "lamp" and str(recipe.unit) == "element" and each.kind.name != "F64"

    def _weights(self, each: Planned) -> Part:
        """The tensor's own weights."""
        stored = self.checkpoint.stored(each.entry)
        if not each.entry.is_turned:
            return Part.of(each.kind, stored)
        seen = _turned(stored, each)
        n_rows = max(1, PIECE // max(1, math.prod(each.seen[1:])))

        def pieces() -> Iterator[Stored]:
            for start in range(0, each.seen[0], n_rows):
                yield np.ascontiguousarray(seen[start : start + n_rows]).reshape(-1)

        return Part(each.kind, stored.size, pieces)

    def _part(self, each: Planned) -> Part:
        """What the tensor brings to the choice of the model."""
        if self._is_plain(each):
            return self._weights(each)
        self._check_finite(each, self._weights(each))
        if self._has_means(each):
            return self._units(each)
        if self._is_lamp(each):
            return lamp_part(self._weights(each))
        n = self.plan.n_units(each)
        kind = KINDS["F64" if self._scores(each).itemsize == 8 else "F32"] if n else KINDS["F32"]
        return Part(kind, n, lambda: split(self._scores(each).view(kind.storage)))

    def _units(self, each: Planned) -> Part:
        """The mean size of every unit."""
        kind = KINDS["F32"]
        r, c, k = self.plan.recipe.unit.grid(each.seen)
        h, w, d = self.plan.recipe.unit.piece(each.seen)
        size, n = c * w * k * d, r * c * k  # of a row; units

        def pieces() -> Iterator[Stored]:
            sums = np.zeros((1, c, k))  # of a unit that is all rows
            for piece in self._sizes(each, size, 1 if r == 1 else h):
                cells = piece.reshape(-1, c, w, k, d).sum(axis=(2, 4))  # (rows, C, K)
                if r == 1:
                    sums += cells.sum(axis=0)
                    continue
                means = cells.reshape(-1, h, c, k).sum(axis=1) / (h * w * d)
                yield means.astype(np.float32).view(kind.storage).reshape(-1)
            if r == 1:
                yield from split((sums / (h * w * d)).astype(np.float32).view(kind.storage).reshape(-1))

        return Part(kind, n, pieces if n else lambda: ())

    def _sizes(self, each: Planned, size: int, h: int) -> Iterator[NDArray[np.float64]]:
        """|w| in stretches of whole rows of `size` weights, and of h rows each."""
        stored = self.checkpoint.stored(each.entry)
        seen = _turned(stored, each).reshape(-1, size) if each.entry.is_turned else stored.reshape(-1, size)
        n_rows = max(1, PIECE // (size * h)) * h
        for start in range(0, len(seen), n_rows):
            piece = np.ascontiguousarray(seen[start : start + n_rows]).reshape(-1)
            yield np.abs(each.kind.values(piece))

    def _scores(self, each: Planned) -> "NDArray[Any]":
        """The scores of all units by the recipe's own function, float32 or float64."""
        import torch

        score = self.plan.recipe.score(self._tensor(each), name=each.name)
        units = self.plan.recipe.unit.gather(score)
        dtype = torch.float64 if units.dtype == torch.float64 else torch.float32
        return units.to(dtype).contiguous().numpy().reshape(-1)

    def _tensor(self, each: Planned) -> Any:
        """The tensor for torch, as (out, in, *kernel), lying in memory as a live network's does, for the same sums."""
        import torch

        from secateurs.layout import Layout

        stored, kind = self.checkpoint.stored(each.entry), each.kind.name
        native = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        if kind in native:
            found = torch.from_numpy(stored.copy().view(f"i{each.kind.item_size}")).view(native[kind])
        else:
            found = torch.from_numpy(each.kind.values(stored).astype(np.float32))
        return Layout(each.entry.is_turned, each.entry.groups).turn(found.view(each.entry.shape))

    def _by_cut(self, each: Planned, cut: Cut) -> Knife:
        if cut.key < 0 or cut.n_kept == 0:  # nothing was compared, so nothing was looked at
            self._check_finite(each, self._weights(each))
        return ByCut(each.kind, cut, each.entry.n - cut.n_kept)

    def _by_threshold(self, each: Planned, budget: Threshold, part: Part) -> Knife:
        self._check_finite(each, part)
        key = tau_key(each.kind, budget.tau)
        n_above = part.n - _n_upto(part, key)
        if n_above < self.plan.n_first(each):
            return self._by_cut(each, choose({each.name: part}, part.n - self.plan.n_first(each))[each.name])
        return ByCut(each.kind, Cut(key, 0, n_above), part.n - n_above)

    def _by_units(self, each: Planned, cut: Cut) -> Knife:
        unit, part = self.plan.recipe.unit, self._part(each)
        keep, n_ties = [np.zeros(0, np.bool_)], cut.n_ties
        for piece in part.pieces():
            keys = signed(piece & part.kind.storage.type(part.kind.mask))
            is_tied = keys == cut.key
            keep.append((keys > cut.key) | (is_tied & (is_tied.cumsum() <= n_ties)))
            n_ties = max(0, n_ties - int(is_tied.sum()))
        return _by_keep(np.concatenate(keep).reshape(unit.grid(each.seen)), unit.piece(each.seen))

    def _by_select(self, each: Planned, budget: Simple) -> Knife:
        """Whatever else: the layer's scores, given to `select`."""
        from secateurs.selection import select

        recipe = self.plan.recipe
        score = recipe.score(self._tensor(each), name=each.name)
        keep = select(score, recipe.unit, recipe.pool, budget, recipe.min_keep)
        rows, columns = each.seen[:2] if len(each.seen) > 1 else (1, each.seen[0])
        return _by_keep(keep.numpy().reshape(rows, columns, -1), (1, 1, 1))

    def _sigma(self, each: Planned) -> float:
        stored = self.checkpoint.stored(each.entry)
        if each.entry.is_turned:  # summed in the order in which a live network's weights are
            stored = np.ascontiguousarray(_turned(stored, each)).reshape(-1)
        found = count(stored, each.kind, How(each.entry.n > PIECE, n_threads()))
        if found.n != found.n_finite:
            self._check_finite(each, self._weights(each))
        return math.nan if found.sigma is None and found.n else found.sigma or 0.0

    def _check_finite(self, each: Planned, part: Part) -> None:
        if each.name not in self.sigmas and _n_upto(part, part.kind.n_finite - 1) != part.n:
            raise not_finite(each.name, part)


STRETCH = 1 << 22  # weights that are zeroed and written at a time


def copied(stored: Stored) -> Stored:
    """A copy, by all threads."""
    found = np.empty_like(stored)
    spread(lambda both: np.copyto(*both), list(zip(split(found), split(stored), strict=True)))
    return found


def n_zeros(stored: Stored, kind: Kind) -> int:
    """Exact zeros, negative ones too."""
    return _n_upto(Part.of(kind, stored), 0)


def _n_upto(part: Part, key: int) -> int:
    """How many keys are at most `key`."""
    kind = part.kind
    counts = spread(lambda piece: sum(count_keys(signed(piece), kind.key(kind.mask), kind.key(key))), part.pieces())
    return sum(counts)


def _turned(stored: Stored, each: Planned) -> Stored:
    """What is stored (in, out / groups, *kernel) as (out, in / groups, *kernel); a view where there is one group."""
    return _grouped(stored, each).reshape(each.seen)


def _grouped(stored: Stored, each: Planned) -> Stored:
    """A view of what is stored (in, out / groups, *kernel) as (groups, out / groups, in / groups, *kernel)."""
    i, o, *kernel = each.entry.shape
    return stored.reshape(each.entry.groups, i // each.entry.groups, o, *kernel).swapaxes(1, 2)


def _by_keep(keep: Keep, piece: tuple[int, int, int]) -> ByUnits:
    return ByUnits(keep, piece, int((keep.size - np.count_nonzero(keep)) * math.prod(piece)))


def _is_threshold(simple: dict[str, Simple]) -> bool:
    return any(isinstance(budget, Threshold) for budget in simple.values())
