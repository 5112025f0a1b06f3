"""Packed file: a source of weights like any other; each tensor is decoded when it is asked for, on all cores.

    with open_checkpoint("small.packed.safetensors") as packed:
        bits = packed.stored(packed.entries[0])

Every part is checked against its CRC-32 before it is decoded. The format is described in packed_index.py and
formats/pieces.py, and for people in docs/packed-files.md.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from secateurs import __version__
from secateurs.checkpoint.dtypes import storage_of
from secateurs.checkpoint.names import described, read_config
from secateurs.checkpoint.packed_index import FORMAT, INDEX, N_HEADER, STREAMS, NewerError, Part, Record, pieces_of
from secateurs.checkpoint.packed_index import read_index as index_of
from secateurs.checkpoint.plain_files import Maps
from secateurs.checkpoint.safetensors_file import Header
from secateurs.checkpoint.tensors import Checkpoint, Entry, Stored
from secateurs.checks import shown
from secateurs.errors import InputError
from secateurs.exact.threads import flow, spread
from secateurs.formats.pieces import Piece, decode
from secateurs.formats.streams import DamageError

FAMILY = "secateurs.packed/"
SUFFIX = ".packed.safetensors"


@dataclass(eq=False)
class PackedCheckpoint(Checkpoint):
    """The tensors of a packed file.

    records   by name, in the order of the file
    n_header  bytes that are neither positions nor values: header, index, and zeros at the end of the streams
    """

    path: Path
    entries: tuple[Entry, ...]
    files: tuple[str, ...]
    metadata: dict[str, dict[str, str]]
    records: dict[str, Record]
    size_bytes: int
    n_header: int
    maps: Maps
    others: tuple[Path, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    source: str = field(default="packed", init=False)

    def stored(self, entry: Entry) -> Stored:
        """The bits, decoded anew each time; InputError where any are damaged."""
        return next(self.decoded([entry]))

    def decoded(self, entries: Sequence[Entry]) -> Iterator[Stored]:
        """The bits of each tensor; while one is used, the next are decoded."""
        return (whole for whole, _ in self.parts(entries) if whole is not None)

    def parts(self, entries: Sequence[Entry]) -> Iterator[tuple[Stored | None, Stored]]:
        """(the whole tensor with its last piece, else None; the piece) of every piece in turn."""

        def tasks() -> Iterator[tuple[Record, Stored, _Task | None, Stored, bool]]:
            for entry in entries:
                record = self.records[entry.name]
                whole, codebook = self._room(record), self._codebook(record)
                pieces = _tasks(record, whole)
                for i, task in enumerate(pieces or [None]):
                    yield record, whole, task, codebook, i >= len(pieces) - 1

        def part(
            record: Record, whole: Stored, task: _Task | None, codebook: Stored, is_last: bool
        ) -> tuple[Stored | None, Stored]:
            if task is not None:
                self._decode(record, task, codebook)
            return (whole if is_last else None), (whole if task is None else task.out)

        return flow(lambda each: part(*each), tasks())

    def examined(self, entry: Entry) -> tuple[Stored, list[str]]:
        """(the bits of a tensor, what is wrong with them), what they are when dense included."""
        record = self.records[entry.name]
        stored = self._room(record)
        try:
            codebook = self._codebook(record)
        except InputError as error:
            return stored, [str(error)]

        def check(task: "_Task") -> str:
            if (error := self._tried(record, task, codebook)) is not None:
                return str(error)
            is_same = zlib.crc32(task.out.data) == task.part.dense_crc
            return "" if is_same else "decodes to other weights than were packed: its second checksum differs"

        return stored, list(dict.fromkeys(each for each in spread(check, _tasks(record, stored)) if each))

    def assert_unchanged(self) -> None:
        """InputError where the file was written to since it was opened."""
        self.maps.assert_unchanged()

    def close(self) -> None:
        """Let go of the map."""
        self.maps.close()

    def _tried(self, record: Record, task: "_Task", codebook: Stored) -> InputError | None:
        try:
            self._decode(record, task, codebook)
        except InputError as error:
            return error
        return None

    def _room(self, record: Record) -> Stored:
        storage = storage_of(record.entry.dtype)
        return np.empty(record.entry.n_bytes // storage.itemsize, storage)

    def _codebook(self, record: Record) -> Stored:
        storage = storage_of(record.entry.dtype)
        if record.codebook is None:
            return np.zeros(0, storage)
        data = self._bytes(record, record.codebook)
        if data.size != storage.itemsize << record.values.n_bits:
            raise self._damaged(record, f"its codebook has {data.size} bytes")
        return data.copy().view(storage)

    def _decode(self, record: Record, task: "_Task", codebook: Stored) -> None:
        try:
            decode(task.piece, self._bytes(record, task.part), codebook, task.out)
        except DamageError as error:
            raise self._damaged(record, str(error)) from None

    def _bytes(self, record: Record, part: Part) -> Stored:
        """The coded bytes of a part, once they are known to be those that were written."""
        data = np.frombuffer(self.maps.get(self.files[0]), np.uint8, part.size, N_HEADER + part.start)
        if zlib.crc32(data.data) != part.crc:
            raise self._damaged(record, f"its {part.size:,} bytes from {N_HEADER + part.start:,} on were changed")
        return data

    def _damaged(self, record: Record, what: str) -> InputError:
        return InputError(
            f"'{self.path}' is damaged: {shown(record.entry.name)}: {what}. Restore the file, or pack it again."
        )


@dataclass(frozen=True, eq=False)
class _Task:
    """One piece to decode, and where to."""

    piece: Piece
    part: Part
    out: Stored


def _tasks(record: Record, array: Stored) -> list[_Task]:
    pieces, found, at = pieces_of(record), [], 0
    for piece, part in zip(pieces, record.pieces, strict=True):
        found.append(_Task(piece, part, array[at : at + piece.n]))
        at += piece.n
    return found


def open_packed(path: Path, header: Header) -> PackedCheckpoint:
    """The packed file of this header; InputError where it is damaged, or needs a newer version."""
    found = header.metadata.get("format", "")
    if not found.startswith(FAMILY):
        raise InputError(
            f"'{path}' is damaged, or no packed file: its header has the format {shown(found)}. Restore the file, or "
            "pack it again."
        )
    if found != FORMAT:
        raise InputError(
            f"'{path}' has the format {shown(found)}; this is secateurs {__version__}, which reads '{FORMAT}'. Update "
            "secateurs."
        )
    maps = Maps({header.seen.path.name: header.seen})
    try:
        if [(entry.name, entry.dtype) for entry in header.entries] != [(STREAMS, "U8"), (INDEX, "U8")]:
            raise DamageError(f"its tensors are not '{STREAMS}' and '{INDEX}'")
        whole = np.frombuffer(maps.get(header.seen.path.name), np.uint8)
        index_at = header.entries[-1]
        if header.entries[0].start != N_HEADER:
            raise DamageError(f"its header has not {N_HEADER} bytes")
        n_streams = index_at.start - N_HEADER
        index = index_of(whole[:N_HEADER].tobytes(), whole[index_at.start :], n_streams, header.seen.size)
    except DamageError as error:
        raise InputError(f"'{path}' is damaged: {error}. Restore the file, or pack it again.") from None
    except NewerError as error:
        raise InputError(
            f"'{path}' was packed by a newer version: {error} (secateurs {__version__}). Update secateurs."
        ) from None
    name = header.seen.path.name
    entries = described(
        (replace(record.entry, file=name) for record in index.records),
        read_config(path if path.is_dir() else path.parent),
    )
    n_parts = sum(part.size for record in index.records for part in _parts(record))
    return PackedCheckpoint(
        path,
        entries,
        (name,),
        {name: dict(index.metadata)},
        {record.entry.name: record for record in index.records},
        header.seen.size,
        header.seen.size - n_parts,
        maps,
    )


def _parts(record: Record) -> tuple[Part, ...]:
    return (*([record.codebook] if record.codebook else []), *record.pieces)
