"""Verifying: whether a pruned checkpoint is still, byte by byte and zero by zero, what its manifest says.

    verify(path) -> Verification        .problems, .is_ok

Everything is counted again, by plain numpy and not by the engine that pruned. A packed file is decoded, and every part
compared with both of its checksums. Any other checkpoint without a manifest is checked for its structure alone, and
that is said.
"""

import hashlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from secateurs import __version__
from secateurs.checkpoint.manifest import FORMAT, checksum
from secateurs.checkpoint.manifest import NAME as MANIFEST
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.plain_files import open_plain, read_json, stays_inside
from secateurs.checkpoint.tensors import Checkpoint, Entry, Stored
from secateurs.checks import shown
from secateurs.errors import InputError, SecateursError
from secateurs.exact.kinds import KINDS
from secateurs.exact.threads import spread

if TYPE_CHECKING:
    from secateurs.checkpoint.packed_file import PackedCheckpoint  # brings the compiler; most need none

CHUNK = 1 << 18  # items that one task counts at a time
WEIGHTS = re.compile(r"\.(safetensors|bin|pt|pth|ckpt|onnx|h5|msgpack|gguf)$|\.index\.json$", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be, and where.

    layer  "" where it is about a whole file
    """

    file: str
    layer: str
    what: str

    def __str__(self) -> str:
        where = f"{self.file}, {shown(self.layer)}" if self.layer else self.file
        return f"{where}: {self.what}"


@dataclass(frozen=True)
class Verification:
    """What was checked, and what is wrong.

    has_manifest  whether there was a manifest to compare with, beyond the structure
    is_packed     whether it was a packed file, compared with its own checksums
    n_layers      tensors whose zeros were counted again
    n_nm          layers whose every group was counted for n:m
    n_zero        zeros in all of these
    problems      damage, in the order of the files; () if there is none
    notes         what is worth knowing and no damage
    n_beside      tensors that lie packed beside the plain ones, and were compared with them bit by bit
    """

    path: str
    has_manifest: bool
    n_files: int
    size_bytes: int
    n_layers: int
    n_nm: int
    n: int
    n_zero: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    is_packed: bool = False
    n_beside: int = 0

    @property
    def is_ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems

    def values(self) -> dict[str, Any]:
        """JSON-able."""
        return {"format": "secateurs.verification/1", "is_ok": self.is_ok, **asdict(self)}


def verify(path: str | os.PathLike[str]) -> Verification:
    """Check the output of `prune`, a packed file, or the structure of any other checkpoint.

    InputError for what is no checkpoint at all, and for a manifest that a newer version wrote or that cannot be read.
    """
    where = Path(path)
    if not os.path.lexists(where):
        raise InputError(f"There is no file or directory '{where}'. Check the path.")
    if not os.path.lexists(where / MANIFEST):
        return _structure(where)
    manifest = _Manifest.read(where)
    problems = [*manifest.problems(), *_files(where, manifest), *_surplus(where, manifest)]
    notes: list[str] = []
    counts: list[_Counted] = []
    n_nm = n_beside = 0
    try:
        with open_checkpoint(where) as checkpoint:
            by_name = {name: entry for entry in checkpoint.entries for name in entry.names}
            for layer in manifest.layers:
                entry = by_name.get(layer.name)
                if entry is None:
                    problems.append(Problem(MANIFEST, layer.name, "is in the manifest and in no file"))
                elif (entry.shape, entry.dtype) != (layer.shape, layer.dtype):
                    what = f"is {entry.dtype} {list(entry.shape)}; the manifest says {layer.dtype} {list(layer.shape)}"
                    problems.append(Problem(entry.file, layer.name, what))
                elif entry.dtype in KINDS:
                    stored = checkpoint.stored(entry)
                    counts.append(_counted(entry, stored))
                    problems += layer.judge(counts[-1])
                    if (pattern := manifest.pattern(layer)) is not None:
                        n_nm += 1
                        as_cut = replace(entry, is_turned=layer.is_turned, groups=layer.groups)
                        problems += _groups(as_cut, stored, *pattern)
            if "packed" in manifest.values:
                n_beside = len(checkpoint.entries)
                problems += _beside(where, checkpoint)
            known = {name for layer in manifest.layers for name in layer.names}
            for entry in checkpoint.entries:
                if not known & {*entry.names}:
                    problems.append(Problem(entry.file, entry.name, "is not in the manifest"))
    except InputError as error:
        problems.append(Problem(where.name, "", str(error)))
    notes += _wild(counts)
    return Verification(
        os.fspath(path),
        has_manifest=True,
        n_files=len(manifest.files),
        size_bytes=sum(size for size, _ in manifest.files.values()),
        n_layers=len(counts),
        n_nm=n_nm,
        n=sum(found.entry.n for found in counts),
        n_zero=sum(found.n_zero for found in counts),
        problems=tuple(problems),
        notes=tuple(notes),
        n_beside=n_beside,
    )


def _beside(where: Path, plain: Checkpoint) -> Iterator[Problem]:
    """The problems of the packed weights beside the plain ones: damage, and every bit in which they differ."""
    from secateurs.checkpoint.packed_directory import PACKED

    with open_checkpoint(where / PACKED) as opened:
        packed = cast("PackedCheckpoint", opened)
        others = {entry.name: entry for entry in packed.entries}
        for entry in plain.entries:
            other = others.pop(entry.name, None)
            if other is None:
                yield Problem(PACKED, entry.name, "is in the plain weights alone")
            elif (other.dtype, other.shape) != (entry.dtype, entry.shape):
                yield Problem(PACKED, entry.name, "differs from the plain weights in dtype or shape")
            else:
                stored, found = packed.examined(other)
                yield from (Problem(PACKED, entry.name, what) for what in found)
                if not found and not np.array_equal(stored, plain.stored(entry)):
                    yield Problem(PACKED, entry.name, "holds other weights than the plain file")
        yield from (Problem(PACKED, name, "is in the packed weights alone") for name in others)


def _structure(where: Path) -> Verification:
    """What can be said of a checkpoint without a manifest."""
    if (where / "exploration.yaml").exists():
        raise InputError(f"'{where}' is the run of an exploration. Verify one of its models/, or what prune wrote.")
    from secateurs.checkpoint.streamed import WORK

    if (where / WORK).is_dir():
        raise InputError(f"'{where}' is an unfinished run of prune or pack. Run the same command again to finish it.")
    with open_checkpoint(where) as checkpoint:
        if checkpoint.source == "packed":
            return _packed(where, cast("PackedCheckpoint", checkpoint))
        counts = [_counted(entry, checkpoint.stored(entry)) for entry in checkpoint.entries if entry.dtype in KINDS]
        n_bytes = sum(entry.n_bytes for entry in checkpoint.entries)
        note = f"There is no {MANIFEST}: the structure was checked, and not whether these are the bytes once written."
        return Verification(
            os.fspath(where),
            has_manifest=False,
            n_files=len(checkpoint.files),
            size_bytes=n_bytes,
            n_layers=len(counts),
            n_nm=0,
            n=sum(found.entry.n for found in counts),
            n_zero=sum(found.n_zero for found in counts),
            problems=(),
            notes=(note, *checkpoint.notes, *_wild(counts)),
        )


def _packed(where: Path, packed: "PackedCheckpoint") -> Verification:
    """What a packed file says of itself, and whether it is so."""
    problems, counts = [], []
    for entry in packed.entries:
        stored, found = packed.examined(entry)
        problems += [Problem(entry.file, entry.name, what) for what in found]
        if not found and entry.dtype in KINDS:
            counts.append(_counted(entry, stored))
    return Verification(
        os.fspath(where),
        has_manifest=False,
        n_files=1,
        size_bytes=packed.size_bytes,
        n_layers=len(counts),
        n_nm=0,
        n=sum(found.entry.n for found in counts),
        n_zero=sum(found.n_zero for found in counts),
        problems=tuple(problems),
        notes=tuple(_wild(counts)),
        is_packed=True,
    )


@dataclass(frozen=True)
class _Counted:
    """A tensor, its zeros, and its numbers that are infinite or NaN."""

    entry: Entry
    n_zero: int
    n_nonfinite: int


def _counted(entry: Entry, stored: Stored) -> _Counted:
    kind = KINDS[entry.dtype]

    def count(start: int) -> tuple[int, int]:
        keys = stored[start : start + CHUNK] & kind.storage.type(kind.mask)
        return keys.size - int(np.count_nonzero(keys)), int(np.count_nonzero(keys >= kind.n_finite))

    found = spread(count, range(0, stored.size, CHUNK))
    return _Counted(entry, sum(n for n, _ in found), sum(n for _, n in found))


def _wild(counts: list[_Counted]) -> Iterator[str]:
    for found in counts:
        if found.n_nonfinite:
            yield f"{shown(found.entry.name)} holds {found.n_nonfinite:,} NaN or infinite numbers."


def _groups(entry: Entry, stored: Stored, n: int, m: int) -> Iterator[Problem]:
    """The problem of a layer in which some group of m neighbours along the inputs keeps more than n."""
    kind = KINDS[entry.dtype]
    inputs = entry.shape[0] // entry.groups if entry.is_turned else entry.shape[1]
    after = math.prod(entry.shape[1 if entry.is_turned else 2 :])
    if inputs % m:
        yield Problem(entry.file, entry.name, f"has {inputs} inputs, which groups of {m} do not divide")
        return
    grouped = stored.reshape(-1, m, after) if stored.size else stored.reshape(0, m, 1)
    step = max(1, CHUNK // max(1, m * after))

    def count(start: int) -> int:
        keys = grouped[start : start + step] & kind.storage.type(kind.mask)
        return int(np.count_nonzero(np.count_nonzero(keys, axis=1) > n))

    if n_bad := sum(spread(count, range(0, len(grouped), step))):
        yield Problem(entry.file, entry.name, f"{n_bad:,} groups of {m} keep more than {n}")


@dataclass(frozen=True)
class _Layer:
    """What the manifest says of one tensor.

    n_zero     None where it gives only bounds
    is_turned  cut as (in, out / groups, ...), which the file alone cannot say
    """

    names: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    status: str
    n_pruned: int
    n_zero_before: int
    n_zero: int | None
    is_turned: bool
    groups: int

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def seen(self) -> tuple[int, ...]:
        """Its shape as (out, in / groups, *kernel)."""
        if not self.is_turned:
            return self.shape
        return (self.groups * self.shape[1], self.shape[0] // self.groups, *self.shape[2:])

    def judge(self, found: _Counted) -> Iterator[Problem]:
        """The problem of a layer whose zeros are not those of the manifest."""
        low = self.n_zero if self.n_zero is not None else max(self.n_pruned, self.n_zero_before)
        high = self.n_zero if self.n_zero is not None else self.n_pruned + self.n_zero_before
        if not low <= found.n_zero <= high:
            said = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            yield Problem(found.entry.file, self.name, f"has {found.n_zero:,} zeros; the manifest says {said}")


@dataclass(frozen=True)
class _Manifest:
    """What `prune` wrote last, read with suspicion."""

    path: Path
    values: dict[str, Any]
    files: dict[str, tuple[int, str]]
    layers: tuple[_Layer, ...]

    @classmethod
    def read(cls, directory: Path) -> "_Manifest":
        """InputError unless it is a manifest that this version understands."""
        path = directory / MANIFEST
        values = read_json(path)
        found = values.get("format") if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(found, str) or not found.startswith("secateurs."):
            raise InputError(f"'{path}' is not a manifest of secateurs. Restore it, or prune again.")
        if found != FORMAT:
            version = shown(values.get("version"))
            raise InputError(
                f"'{path}' has the format {shown(found)}, written by version {version}; this is {__version__}, which "
                f"reads '{FORMAT}'. Use that version or a newer one."
            )
        try:
            files = {name: _file(value) for name, value in _of(values, "files", dict).items()}
            layers = tuple(_layer(value) for value in _of(values, "layers", list))
        except _OddError as error:
            raise InputError(f"'{path}' is damaged: {error}. Restore it, or prune again.") from None
        return cls(path, values, files, layers)

    def problems(self) -> Iterator[Problem]:
        """Whether the manifest itself was changed."""
        if self.values.get("checksum") != checksum(self.values):
            yield Problem(MANIFEST, "", "was changed after it was written: its checksum differs")

    def pattern(self, layer: _Layer) -> tuple[int, int] | None:
        """(n, m) where the recipe kept n of every m neighbours in this layer."""
        from secateurs.budgets import Budget, Threshold

        recipe = self.values.get("recipe")
        if layer.status != "pruned" or not isinstance(recipe, dict) or recipe.get("unit") != "element":
            return None
        pool = str(recipe.get("pool"))
        if not re.fullmatch(r"[1-9][0-9]{0,8}", pool) or len(layer.shape) < 2:
            return None
        try:
            # Of all that were cut: a budget that shares out, as erk does, gives one layer what the others leave.
            shapes = {each.name: each.seen for each in self.layers if each.status == "pruned"}
            budget = Budget.parse(recipe.get("budget")).for_layers(shapes).get(layer.name)
            if budget is None or isinstance(budget, Threshold):
                return None
            return int(pool) - budget.n_pruned(int(pool)), int(pool)
        except (SecateursError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
            return None  # what the words of a changed manifest, and the shapes in it, can do to a budget


class _OddError(Exception):
    """What is wrong with a manifest."""


def _of(values: Any, key: str, kind: type[Any]) -> Any:
    """`values[key]` if it is of this kind and no bool in place of a number."""
    found = values.get(key) if isinstance(values, dict) else None
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise _OddError(f"{key!r} is {shown(found)}, not a {kind.__name__}")
    return found


def _file(value: Any) -> tuple[int, str]:
    return _of(value, "size", int), _of(value, "sha256", str)


def _layer(value: Any) -> _Layer:
    shape = _of(value, "shape", list)
    aliases = _of(value, "aliases", list)
    if not all(isinstance(size, int) for size in shape) or not all(isinstance(name, str) for name in aliases):
        raise _OddError(f"a layer has the shape {shown(shape)} and the aliases {shown(aliases)}")
    is_turned = "is_turned" in value and _of(value, "is_turned", bool)
    groups = _of(value, "groups", int) if "groups" in value else 1
    if groups < 1 or (is_turned and (len(shape) < 2 or shape[0] % groups)):
        raise _OddError(f"a layer of the shape {shown(shape)} is turned in {shown(groups)} groups")
    return _Layer(
        (_of(value, "name", str), *aliases),
        _of(value, "dtype", str),
        tuple(shape),
        _of(value, "status", str),
        _of(value, "n_pruned", int),
        _of(value, "n_zero_before", int),
        _of(value, "n_zero", int) if "n_zero" in value else None,
        is_turned,
        groups,
    )


def _files(where: Path, manifest: _Manifest) -> Iterator[Problem]:
    """The problems of the files that the manifest lists, each read whole."""

    def check(item: tuple[str, tuple[int, str]]) -> str:
        name, (size, sha256) = item
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or any(letter in name for letter in "\\\0:"):
            return "is no name of a file inside the directory; it was not read"
        path = where.joinpath(*parts)
        if not os.path.lexists(path):
            return "is missing"
        if not stays_inside(path, where):
            return "is a link to another place; it was not read"
        try:
            handle, seen = open_plain(path)
            with os.fdopen(handle, "rb") as file:
                if seen.size != size:
                    return f"has {seen.size:,} bytes; the manifest says {size:,}"
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except InputError as error:
            return f"cannot be read: {error}"
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        return "" if found == sha256 else f"was changed: its SHA-256 is {found}; the manifest says {shown(sha256)}"

    for name, what in zip(manifest.files, spread(check, manifest.files.items()), strict=True):
        if what:
            yield Problem(name, "", what)


def _surplus(where: Path, manifest: _Manifest) -> Iterator[Problem]:
    """The files that a loader could take for the weights, and that the manifest does not list."""
    for name in sorted(os.listdir(where)):
        if WEIGHTS.search(name) and name not in manifest.files:
            yield Problem(name, "", "holds weights and is not in the manifest")
