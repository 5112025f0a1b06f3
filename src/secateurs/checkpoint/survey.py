"""Survey: what is in a checkpoint, tensor by tensor, in exact numbers, without loading it.

survey = inspect("model.safetensors", taus=["0.01", "1sigma"])
survey.tensors[0].sigma, survey.tensors[0].removals[0].n_removed, survey.totals["prunable"].sparsity
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.prunable import entry_reason
from secateurs.checkpoint.survey_counts import GROUPS, Counts, How, count, find_structure, tau_key
from secateurs.checkpoint.taus import Tau
from secateurs.checkpoint.tensors import Checkpoint, Entry, Stored
from secateurs.checks import nearest
from secateurs.errors import RecipeError
from secateurs.exact.kinds import KINDS, Kind
from secateurs.exact.threads import n_threads, spread

if TYPE_CHECKING:
    from torch import nn

TAUS = ("0.01", "0.1", "0.5sigma", "1sigma", "1.5sigma")  # what is asked where nothing is
QUANTILES = (1, 5, 25, 50, 75, 95, 99)  # percent
WITHOUT_KERNELS = 1 << 25  # weights of a checkpoint up to which numpy alone counts them
LARGE = 1 << 21  # weights from which all threads may share a tensor; smaller ones have one each
MOST_PARTS = 16  # of a large tensor: every part has tables of a few megabytes
_PIECE = 1 << 22  # elements looked at at a time where only zeros are counted
_UNSIGNED = {"C32": 0x7FFF7FFF, "C64": 0x7FFFFFFF_7FFFFFFF, "C128": 0x7FFFFFFF_FFFFFFFF}  # all bits but the signs
_EMBEDDING = "embedding"  # how the reason of a table begins


@dataclass(frozen=True)
class Removal:
    """What one tau would remove from one tensor.

    tau        as it was asked: "0.5sigma"
    value      the absolute threshold it means here, rounded as the dtype rounds it
    in_sigma   value / sigma; None where sigma is 0
    n_removed  weights with |w| <= tau, those that are zero already included
    n_zero     of them, those that are zero already
    """

    tau: str
    value: float
    in_sigma: float | None
    n_removed: int
    n_zero: int


@dataclass(frozen=True)
class Tensor:
    """One stored tensor in numbers. What does not apply, or cannot be known, is None.

    reason        why it is not prunable; "" if it is
    n_zero        exact zeros, -0.0 among them; known of whole numbers too
    mean          and sigma (population), low, high, quantiles: of the finite weights, in float64
    quantiles     {percent: the smallest |w| such that at least that share of the weights is not larger}
    dead_rows     outputs, and columns: inputs, without a weight other than zero (two or more dimensions)
    held          {"2:4": share of the groups of 4 consecutive inputs with at most 2 weights}; None where 4 does not
                  divide the inputs; the pattern holds where the share is 1
    removals      for every tau; () where there is no order to prune by: NaN, infinities, whole numbers
    """

    name: str
    aliases: tuple[str, ...]
    file: str
    dtype: str
    shape: tuple[int, ...]
    is_turned: bool
    reason: str
    n: int
    n_bytes: int
    n_zero: int | None = None
    n_nan: int = 0
    n_inf: int = 0
    mean: float | None = None
    sigma: float | None = None
    low: float | None = None
    high: float | None = None
    quantiles: Mapping[int, float] | None = None
    n_rows: int | None = None
    n_columns: int | None = None
    dead_rows: int | None = None
    dead_columns: int | None = None
    held: Mapping[str, float | None] | None = None
    removals: tuple[Removal, ...] = ()

    @property
    def is_prunable(self) -> bool:
        """Whether a recipe touches it by default."""
        return not self.reason

    @property
    def is_floating(self) -> bool:
        """Whether its weights are read as numbers here."""
        return self.dtype in KINDS and self.n_zero is not None

    @property
    def largest(self) -> float | None:
        """The largest finite |w|."""
        return None if self.low is None or self.high is None else max(abs(self.low), abs(self.high))

    @property
    def is_finite(self) -> bool:
        """Whether no NaN and no infinity was found."""
        return self.n_nan == 0 and self.n_inf == 0


@dataclass(frozen=True)
class Total:
    """Sums over some of the tensors.

    n_zero    of floating weights; sparsity is n_zero / n_floating, None without any
    removed   {tau: n_removed} over tensors that have removals, of n_in_order weights
    """

    n_tensors: int
    n: int
    n_bytes: int
    n_floating: int
    n_zero: int
    n_in_order: int
    removed: Mapping[str, int]

    @property
    def sparsity(self) -> float | None:
        """Zeros / floating weights."""
        return self.n_zero / self.n_floating if self.n_floating else None


@dataclass(frozen=True)
class Survey:
    """A checkpoint in numbers.

    path, source  what was inspected, and what it is: "safetensors", "torch", "onnx", "module"
    notes         what was decided on opening it
    n_left_out    tensors that `only` and `skip` kept out of it
    """

    path: str
    source: str
    taus: tuple[str, ...]
    notes: tuple[str, ...]
    n_left_out: int
    tensors: tuple[Tensor, ...]

    @property
    def totals(self) -> dict[str, Total]:
        """Of "all", "without embeddings" and "prunable" tensors."""
        bodies = [tensor for tensor in self.tensors if not tensor.reason.startswith(_EMBEDDING)]
        prunable = [tensor for tensor in self.tensors if tensor.is_prunable]
        groups = {"all": self.tensors, "without embeddings": bodies, "prunable": prunable}
        return {name: _total(group, self.taus) for name, group in groups.items()}

    @property
    def emptied(self) -> dict[str, tuple[str, ...]]:
        """{tau: the prunable tensors it would leave nothing of, though something is there}, for taus that empty any."""
        found = {
            tau: tuple(
                tensor.name
                for tensor in self.tensors
                if tensor.is_prunable
                and tensor.removals
                and tensor.n_zero != tensor.removals[place].n_removed == tensor.n
            )
            for place, tau in enumerate(self.taus)
        }
        return {tau: names for tau, names in found.items() if names}

    def values(self) -> dict[str, Any]:
        """Everything as JSON, format "secateurs.inspect/1": the fields of this class and of its parts by name.

        {"format", "path", "source", "taus", "notes", "n_left_out",
         "tensors": [{every field of Tensor, "removals": [{every field of Removal}]}],
         "totals": {"all" | "without embeddings" | "prunable": {every field of Total, "sparsity"}},
         "emptied": {tau: [names]}}
        """
        found = asdict(self)
        totals = {name: {**asdict(total), "sparsity": total.sparsity} for name, total in self.totals.items()}
        return {"format": "secateurs.inspect/1", **found, "totals": totals, "emptied": self.emptied}


def inspect(
    source: "str | os.PathLike[str] | Checkpoint | nn.Module",
    taus: Iterable[float | str] = TAUS,
    *,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
) -> Survey:
    """What is in a checkpoint: per tensor its shape, spread, zeros and structure, and what each tau would remove.

    source      a file, a directory, a name on the hub, a live network, or a Checkpoint that is open
    taus        absolute, or in standard deviations of each tensor ("0.5sigma")
    only, skip  patterns of the names to look at

    InputError for a source that cannot be read, RecipeError for a tau or a pattern that means nothing.
    """
    asked = tuple(dict.fromkeys(Tau.parse(tau) for tau in taus))
    if isinstance(source, Checkpoint):
        return _survey(source, asked, tuple(only), tuple(skip))
    with open_checkpoint(source) as checkpoint:
        return _survey(checkpoint, asked, tuple(only), tuple(skip))


def _survey(checkpoint: Checkpoint, taus: tuple[Tau, ...], only: tuple[str, ...], skip: tuple[str, ...]) -> Survey:
    entries = chosen(checkpoint.entries, only, skip)
    how = how_to_count(entries)
    # A tensor that is large, and much of all, is shared by the threads; the others are shared out among them.
    least = max(LARGE, sum(entry.n for entry in entries) // (4 * n_threads()))
    large = {entry.name: _look(checkpoint, entry, taus, how) for entry in entries if entry.n >= least}
    alone = replace(how, n_parts=1)
    rest = [entry for entry in entries if entry.name not in large]
    found = large | {
        tensor.name: tensor for tensor in spread(lambda entry: _look(checkpoint, entry, taus, alone), rest)
    }
    return Survey(
        path="" if checkpoint.path is None else str(checkpoint.path),
        source=checkpoint.source,
        taus=tuple(map(str, taus)),
        notes=tuple(checkpoint.notes),
        n_left_out=len(checkpoint.entries) - len(entries),
        tensors=tuple(found[entry.name] for entry in entries),
    )


def how_to_count(entries: Sequence[Entry]) -> How:
    """By numpy where all weights together are sorted sooner than the kernels are loaded."""
    n = sum(entry.n for entry in entries if entry.dtype in KINDS)
    return How(has_kernels=n > WITHOUT_KERNELS, n_parts=min(n_threads(), MOST_PARTS))


def chosen(entries: Sequence[Entry], only: Sequence[str], skip: Sequence[str]) -> list[Entry]:
    """The entries with a name that `only` matches, if it says any, and no name that `skip` matches."""
    names = [name for entry in entries for name in entry.names]
    for pattern in (*only, *skip):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(f"No tensor is called {pattern!r}. {nearest(pattern, names)}")

    def matches(entry: Entry, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for name in entry.names for pattern in patterns)

    return [entry for entry in entries if (not only or matches(entry, only)) and not matches(entry, skip)]


def _look(checkpoint: Checkpoint, entry: Entry, taus: tuple[Tau, ...], how: How) -> Tensor:
    """One tensor in numbers."""
    about: dict[str, Any] = {
        "name": entry.name,
        "aliases": entry.aliases,
        "file": entry.file,
        "dtype": entry.dtype,
        "shape": entry.shape,
        "is_turned": entry.is_turned,
        "reason": entry_reason(entry, (), ()),
        "n": entry.n,
        "n_bytes": entry.n_bytes,
    }
    if why := checkpoint.unreadable(entry):
        return Tensor(**about | {"reason": why})
    if entry.dtype not in KINDS:
        return Tensor(**about, n_zero=_n_zero(checkpoint, entry))
    kind, stored = KINDS[entry.dtype], checkpoint.stored(entry)
    counts = count(stored, kind, how)
    quantiles, removals = _by_size(counts, kind, taus)
    if len(entry.shape) >= 2:
        found = find_structure(stored, kind, entry.shape, entry.is_turned, counts.n_zero, how)
        about |= {name: getattr(found, name) for name in ("n_rows", "n_columns", "dead_rows", "dead_columns")}
        about["held"] = dict(zip(GROUPS, found.held, strict=True))
    return Tensor(
        **about,
        n_zero=counts.n_zero,
        n_nan=counts.n_nan,
        n_inf=counts.n_inf,
        mean=_finite(counts.mean),
        sigma=_finite(counts.sigma),
        low=counts.low,
        high=counts.high,
        quantiles=quantiles,
        removals=removals,
    )


def _finite(value: float | None) -> float | None:
    """None where the squares of huge weights overflowed."""
    return value if value is not None and np.isfinite(value) else None


def _by_size(counts: Counts, kind: Kind, taus: tuple[Tau, ...]) -> tuple[dict[int, float] | None, tuple[Removal, ...]]:
    """The quantiles and the removals, asked of the sizes together."""
    n, sigma = counts.n_finite, _finite(counts.sigma)
    # ceil(q * n), in whole numbers.
    ranks = {percent: -(-percent * n // 100) - 1 for percent in QUANTILES} if n else {}
    has_order = n == counts.n and not (n and sigma is None)
    keys = {tau: tau_key(kind, tau.of(sigma or 0.0)) for tau in taus} if has_order else {}
    at_most, at_rank = counts.sizes.look(set(keys.values()), set(ranks.values()))
    removals = []
    for tau, key in keys.items():
        value = kind.value(key)
        in_sigma = _finite(value / sigma) if sigma else None
        removals.append(Removal(str(tau), value, in_sigma, at_most[key], counts.n_zero))
    quantiles = {percent: kind.value(at_rank[rank]) for percent, rank in ranks.items()}
    return quantiles or None, tuple(removals)


def _n_zero(checkpoint: Checkpoint, entry: Entry) -> int | None:
    """Exact zeros of whole numbers, truth values and complex numbers; None where the dtype has none or hides them."""
    if entry.dtype.startswith(("F4", "F6", "F8_E8M0")):
        return None
    stored = checkpoint.stored(entry)
    if entry.dtype == "C128":
        stored = stored.view(np.uint64)
    pieces: Iterable[Stored] = (stored[start : start + _PIECE] for start in range(0, stored.size, _PIECE))
    if entry.dtype == "C128":
        pieces = (piece[::2] | piece[1::2] for piece in pieces)
    if entry.dtype in _UNSIGNED:
        pieces = (piece & piece.dtype.type(_UNSIGNED[entry.dtype]) for piece in pieces)
    return entry.n - sum(int(np.count_nonzero(piece)) for piece in pieces)


def _total(tensors: Sequence[Tensor], taus: Sequence[str]) -> Total:
    floating = [tensor for tensor in tensors if tensor.is_floating]
    in_order = [tensor for tensor in tensors if tensor.removals]
    return Total(
        n_tensors=len(tensors),
        n=sum(tensor.n for tensor in tensors),
        n_bytes=sum(tensor.n_bytes for tensor in tensors),
        n_floating=sum(tensor.n for tensor in floating),
        n_zero=sum(tensor.n_zero or 0 for tensor in floating),
        n_in_order=sum(tensor.n for tensor in in_order),
        removed={tau: sum(tensor.removals[place].n_removed for tensor in in_order) for place, tau in enumerate(taus)},
    )
