"""Packing: any checkpoint becomes one packed file, a few pieces at a time on all cores; and back.

receipt = pack("pruned/", "small.packed.safetensors")                      # every bit comes back
receipt = pack("pruned/", "small.packed.safetensors", values="codebook:5")
weights = load("small.packed.safetensors")                                 # {name: tensor}
unpack("small.packed.safetensors", "model.safetensors")                    # what stock loaders read
"""

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from secateurs.checkpoint.dtypes import storage_of
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.packed_file import SUFFIX, PackedCheckpoint
from secateurs.checkpoint.packed_index import (
    FREE_BYTES,
    LOSSY,
    MAX_ALIASES,
    MAX_INDEX,
    MAX_NAME,
    MAX_REPEATED,
    MOST_RATIO,
    N_HEADER,
    Index,
    Part,
    Record,
    checked,
    grids,
    header_bytes,
    index_bytes,
    n_shared,
    pieces_of,
)
from secateurs.checkpoint.prunable import assert_known, entry_reason
from secateurs.checkpoint.receipt import Line, Receipt, bound_of, csr_bytes
from secateurs.checkpoint.shards import assert_holds, shards_of
from secateurs.checkpoint.tensors import Checkpoint, Entry, Stored
from secateurs.checks import extra, nearest, shown
from secateurs.durable import replacing, sweep
from secateurs.errors import InputError, OutputError, RecipeError
from secateurs.exact.kinds import KINDS
from secateurs.exact.parts import aligned
from secateurs.exact.threads import flow
from secateurs.formats.pieces import Coded, Piece, decode, encode
from secateurs.formats.values import EXACT, Values, assert_finite, codebook_of

if TYPE_CHECKING:
    from torch import Tensor, nn

_LARGEST_PART = Part(0, (1 << 28) - 1, 0, 0)
N_ERRORS = 1 << 15  # weights whose errors are looked at together: as doubles, they stay in the cache
SMALL = 1 << 19  # weights of a tensor up to which no coder is too slow


@dataclass
class Progress:
    """How far packing is, in dense bytes; read from other threads."""

    n_bytes: int = 0
    n_bytes_done: int = 0


def pack(
    source: "str | os.PathLike[str] | nn.Module",
    out: str | os.PathLike[str],
    values: str | Mapping[str, str] = "exact",
    *,
    smallest: bool = False,
    zstd: int | None = None,
    progress: Progress | None = None,
) -> Receipt:
    """Pack whatever `open_checkpoint` opens into the file `out`, *.packed.safetensors.

    values    "exact": every bit comes back. "int8", "int4", "int8/64", "codebook:5": of the weights that could be
              pruned (not of embeddings, biases, norms). Or {pattern: values}: each tensor by the last pattern that
              matches one of its names, where "" stands for the weights that could be pruned
    smallest  try the slow coders on large tensors, too
    zstd      a level: the receipt also says what zstd makes of the dense tensors (needs the extra `pack`)

    RecipeError for values that mean nothing, InputError, OutputError, all before anything is written.
    """
    path = Path(out)
    if not path.name.endswith(SUFFIX) or path.name == SUFFIX:
        raise OutputError(
            f"{path}: a packed file is named *{SUFFIX}, so that nothing takes it for plain weights. Name it so."
        )
    squeeze = None if zstd is None else _squeezer(zstd)
    with open_checkpoint(source) as checkpoint:
        checkpoint.assert_apart(path)
        chosen = values_of(checkpoint, values)
        metadata = next(iter(checkpoint.metadata.values()), {})
        assert_packable(checkpoint, chosen, metadata)
        progress = progress or Progress()
        progress.n_bytes = sum(entry.n_bytes for entry in checkpoint.entries)
        sweep(path)
        with replacing(path) as file:
            return _Writing(checkpoint, path, file, progress, squeeze, smallest).run(chosen, metadata)


def unpack(source: str | os.PathLike[str], out: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
    """Write the tensors of a packed file as one plain safetensors file, which stock loaders read.

    Tied tensors are written once, their other names stand in the metadata, as safetensors' own `load_model` reads them.
    """
    path = Path(out)
    if not path.name.endswith(".safetensors") or path.name.endswith(SUFFIX):
        raise OutputError(f"{path}: plain weights are named *.safetensors and not *{SUFFIX}. Name them so.")
    with open_checkpoint(source) as packed:
        if not isinstance(packed, PackedCheckpoint):
            raise InputError(f"'{source}' is not a packed file. Give one that `pack` wrote.")
        packed.assert_apart(path)
        (shard,) = shards_of(packed)
        progress = progress or Progress()
        progress.n_bytes = sum(entry.n_bytes for entry in packed.entries)
        sweep(path)
        with replacing(path) as file:
            file.write(shard.header)
            for _, part in packed.parts(shard.entries):
                file.write(part.data)
                progress.n_bytes_done += part.nbytes
            packed.assert_unchanged()


def load(source: "str | os.PathLike[str] | nn.Module", names: Sequence[str] = ()) -> "dict[str, Tensor]":
    """{name: tensor} of a packed file or any other checkpoint, as `load_state_dict` takes it: all of it, or `names`.

    Tied names share one tensor. InputError for a name that is not there, and for anything damaged.
    """
    with open_checkpoint(source) as checkpoint:
        by_name = {name: entry for entry in checkpoint.entries for name in entry.names}
        for name in names:
            if name not in by_name:
                raise InputError(f"'{source}' has no tensor '{name}'. {nearest(name, by_name)}")
        wanted = {by_name[name].name: by_name[name] for name in names or by_name}
        if isinstance(checkpoint, PackedCheckpoint):
            arrays = checkpoint.decoded(list(wanted.values()))
        else:
            arrays = (checkpoint.stored(entry).copy() for entry in wanted.values())
        tensors = {entry.name: _tensor(entry, array) for entry, array in zip(wanted.values(), arrays, strict=True)}
        return {name: tensors[by_name[name].name] for name in names or by_name}


def _tensor(entry: Entry, stored: Stored) -> "Tensor":
    import torch

    from secateurs.checkpoint.torch_file import TORCH_DTYPES

    name = next((torch_name for torch_name, dtype in TORCH_DTYPES.items() if dtype == entry.dtype), "")
    dtype = getattr(torch, name, None)
    if dtype is None:
        raise InputError(f"'{entry.name}' is {entry.dtype}, which this torch does not have.")
    if not stored.size:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.from_numpy(stored.view(np.uint8)).view(dtype).reshape(entry.shape)


def values_of(checkpoint: Checkpoint, values: str | Mapping[str, str]) -> dict[str, Values]:
    """How each tensor's values are stored, by `values` as `pack` takes them.

    RecipeError for values that mean nothing and for a pattern that matches nothing.
    """
    given = {"": values} if isinstance(values, str) else values
    parsed = {pattern: Values.parse(text) for pattern, text in given.items()}
    assert_known([p for p in parsed if p], [name for entry in checkpoint.entries for name in entry.names], "tensor")
    found = {}
    for entry in checkpoint.entries:
        found[entry.name] = EXACT
        for pattern, each in parsed.items():
            is_meant = any(fnmatchcase(name, pattern) for name in entry.names) if pattern else not entry_reason(entry)
            if is_meant and entry.dtype in LOSSY and entry.n:
                found[entry.name] = each
    return found


def assert_packable(checkpoint: Checkpoint, chosen: Mapping[str, Values], metadata: Mapping[str, str]) -> None:
    """InputError for what no reader would take: tensors that safetensors cannot hold, an index beyond its limits."""
    assert_holds(checkpoint)
    records = []
    names = [entry.name.encode() for entry in checkpoint.entries]
    for entry, name in zip(checkpoint.entries, names, strict=True):
        if len(name) > MAX_NAME or len(entry.aliases) > MAX_ALIASES:
            raise InputError(
                f"{shown(entry.name)} has a name of {len(name):,} bytes and {len(entry.aliases):,} other names; a "
                f"packed file takes {MAX_NAME:,} bytes and {MAX_ALIASES:,} names. Rename it."
            )
        codebook = None if chosen[entry.name].name != "codebook" else _LARGEST_PART
        records.append(Record(entry, chosen[entry.name], codebook, (_LARGEST_PART,) * len(grids(entry))))
    n_most = 8 + len(index_bytes(Index(tuple(records), metadata)))
    n_repeated = sum(n_shared(*pair) for pair in pairwise(names))
    # The sizes of parts are not known yet; with the real ones the index is smaller, by a quarter at most.
    if n_most > MAX_INDEX or n_repeated > MAX_REPEATED * n_most * 3 // 4:
        raise InputError(
            f"The names and sizes of these {len(names):,} tensors take more than the {MAX_INDEX:,} bytes that a packed "
            "file has for them, or repeat each other too much. Pack parts of the source, or rename them."
        )


@dataclass(eq=False)
class _Tensor:
    """One tensor on its way: its record without parts, what is known of it so far."""

    record: Record
    pieces: list[Piece]
    codebook: Stored
    zstd: int | None
    parts: list[Part] = field(default_factory=list)
    coded: list[Coded] = field(default_factory=list)
    worst: float = 0.0
    error: float = 0.0


@dataclass(frozen=True)
class _Done:
    """One coded piece, its checksums, and the largest error and the sum of errors in it."""

    coded: Coded
    crc: int
    dense_crc: int
    worst: float = 0.0
    error: float = 0.0


@dataclass
class _Writing:
    """One packed file being written: pieces are coded side by side and written in order."""

    checkpoint: Checkpoint
    path: Path
    file: BinaryIO
    progress: Progress
    squeeze: "Callable[[Stored], int] | None"
    is_smallest: bool
    at: int = 0

    def run(self, chosen: Mapping[str, Values], metadata: Mapping[str, str]) -> Receipt:
        self.file.write(bytes(N_HEADER))
        tensors: list[_Tensor] = []
        tasks = self._tasks(chosen, tensors)
        for tensor, piece, done in flow(lambda task: (*task[:2], _encoded(*task)), tasks):
            self._write(tensor, piece, done)
        self.checkpoint.assert_unchanged()
        records = tuple(replace(tensor.record, pieces=tuple(tensor.parts)) for tensor in tensors)
        rest = index_bytes(Index(records, metadata))
        n_dense = sum(record.entry.n_bytes for record in records)
        # A reader believes no file that declares more dense bytes than that.
        missing = -(-(n_dense - FREE_BYTES) // MOST_RATIO) - (N_HEADER + self.at + 8 + len(rest))
        n_streams = self.at + max(0, missing)
        header = header_bytes(n_streams, 8 + len(rest))
        self.file.write(bytes(n_streams - self.at))
        self.file.write(checked(header, rest))
        n_header = N_HEADER + n_streams - self.at + 8 + len(rest)
        self.file.seek(0)
        self.file.write(header)
        lines = tuple(_line(tensor) for tensor in tensors)
        return Receipt(str(self.path), self.at + n_header, n_header, lines)

    def _tasks(self, chosen: Mapping[str, Values], tensors: list[_Tensor]) -> Iterator[tuple[_Tensor, Piece, Stored]]:
        for entry in self.checkpoint.entries:
            values, stored = chosen[entry.name], self.checkpoint.stored(entry)
            record = Record(entry, values, None, ())
            codebook = np.zeros(0, storage_of(entry.dtype))
            if not values.is_exact:
                kind = KINDS[entry.dtype]
                assert_finite(kind, stored, f"'{entry.name}'")
                if values.name == "codebook":
                    codebook = codebook_of(values, kind, stored)
                    crc = zlib.crc32(codebook.data)
                    record = replace(record, codebook=Part(0, codebook.nbytes, crc, crc))
            pieces = pieces_of(record, self.is_smallest or entry.n <= SMALL)
            tensor = _Tensor(record, pieces, codebook, None if self.squeeze is None else self.squeeze(stored))
            tensors.append(tensor)
            at = 0
            for piece in pieces:
                yield tensor, piece, stored[at : at + piece.n]
                at += piece.n

    def _write(self, tensor: _Tensor, piece: Piece, done: _Done) -> None:
        if not tensor.parts and tensor.codebook.size:
            self.file.write(tensor.codebook.data)
            self.at += tensor.codebook.nbytes
        self.file.write(done.coded.data)
        tensor.parts.append(Part(self.at, len(done.coded.data), done.crc, done.dense_crc))
        self.at += len(done.coded.data)
        # The bytes are written; what is left of the piece are its counts.
        tensor.coded.append(replace(done.coded, data=b""))
        tensor.worst, tensor.error = max(tensor.worst, done.worst), tensor.error + done.error
        self.progress.n_bytes_done += piece.n * piece.storage.itemsize


def _encoded(tensor: _Tensor, piece: Piece, stored: Stored) -> _Done:
    bits = aligned(stored)
    try:
        coded = encode(piece, bits, tensor.codebook)
    except InputError as refused:
        raise InputError(f"'{tensor.record.entry.name}': {refused}") from None
    crc = zlib.crc32(coded.data)
    if piece.values.is_exact:
        return _Done(coded, crc, zlib.crc32(bits.data))
    assert piece.kind is not None
    found = np.empty_like(bits)
    decode(piece, np.frombuffer(coded.data, np.uint8), tensor.codebook, found)
    worst = error = 0.0
    for start in range(0, piece.n, N_ERRORS):
        here = slice(start, start + N_ERRORS)
        errors = np.abs(piece.kind.values(found[here]) - piece.kind.values(bits[here]))
        worst, error = max(worst, float(errors.max())), error + float(errors.sum())
    return _Done(coded, crc, zlib.crc32(found.data), worst, error)


def _line(tensor: _Tensor) -> Line:
    entry, coded, values = tensor.record.entry, tensor.coded, tensor.record.values
    n_stored = sum(each.n_kept for each in coded)
    drawn = np.zeros(max((each.drawn.size for each in coded), default=0), np.int64)
    for each in coded:
        drawn[: each.drawn.size] += each.drawn
    tables = sum(each.n_scales for each in coded) + tensor.codebook.nbytes
    return Line(
        entry.name,
        entry.dtype,
        entry.shape,
        str(values),
        tuple(dict.fromkeys(each.positions for each in coded)),
        entry.n,
        n_stored,
        entry.n_bytes,
        sum(each.n_positions for each in coded),
        sum(each.n_values for each in coded),
        tables,
        csr_bytes(entry, n_stored),
        tensor.zstd,
        bound_of(entry, values, n_stored, drawn, tables),
        tensor.worst,
        tensor.error / max(1, n_stored),
    )


def _squeezer(level: int) -> "Callable[[Stored], int]":
    """A function that says how many bytes zstd makes of an array."""
    if not 1 <= level <= 22:
        raise RecipeError(f"Levels of zstd go from 1 to 22; got {level}.")
    try:
        zstd: Any = import_module("compression.zstd")  # Python 3.14 has it
    except ModuleNotFoundError:
        zstd = extra("backports.zstd", "pack")

    def squeeze(stored: Stored) -> int:
        compressor, bits = zstd.ZstdCompressor(level), stored.view(np.uint8)
        sizes = [len(compressor.compress(bits[start : start + SMALL].data)) for start in range(0, bits.size, SMALL)]
        return sum(sizes) + len(compressor.flush())

    return squeeze
