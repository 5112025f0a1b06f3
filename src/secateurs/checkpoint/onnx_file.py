"""ONNX files: the initializers of the graph, viewed in a map of the file or of the files beside it that hold the data.

The file is a protobuf message; this reads the few fields of it that describe tensors and steps over the rest, so a
file of any size costs its headers and nothing needs to be installed. Field numbers: https://github.com/onnx/onnx,
onnx.proto. A weight is turned where MatMul, or Gemm without transB, multiplies by it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from secateurs.checkpoint.dtypes import BITS, storage_of
from secateurs.checkpoint.plain_files import Maps, Seen, map_plain, open_plain, stays_inside
from secateurs.checkpoint.tensors import Checkpoint, Entry, Stored
from secateurs.checks import shown
from secateurs.errors import InputError

_DTYPES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    15: "C128",
    16: "BF16",
    17: "F8_E4M3",
    18: "F8_E4M3FNUZ",
    19: "F8_E5M2",
    20: "F8_E5M2FNUZ",
    23: "F4",
    24: "F8_E8M0",
}
# Where the numbers of a dtype stand when they are not raw bytes: the field, and whether each is a varint there.
_RAW, _INT32S = 9, 5
_FIELDS = {"F32": 4, "C64": 4, "F64": 10, "C128": 10, "I64": 7, "U32": 11, "U64": 11}
_VARINTS = {5, 7, 11}
_NUMBERS = {4, 5, 7, 9, 10, 11}
_MAX_TENSORS = 1_000_000
_MAX_FIELDS = 3_000_000
_MAX_TEXT = 1 << 16


class _BrokenError(ValueError):
    """What is wrong with a message."""


class _Part(NamedTuple):
    """One field of a message: a number, or the bytes from start to end."""

    field: int
    is_bytes: bool
    start: int
    end: int
    number: int = 0


@dataclass(frozen=True)
class Numbers:
    """Where the numbers of one tensor are; `is_varint`: as whole numbers of a protobuf instead of their bits."""

    start: int
    end: int
    is_varint: bool = False


@dataclass(eq=False)
class OnnxCheckpoint(Checkpoint):
    """The initializers of an ONNX file; to be read only."""

    path: Path | None
    entries: tuple[Entry, ...]
    files: tuple[str, ...]
    maps: Maps
    numbers: dict[str, Numbers]
    metadata: dict[str, dict[str, str]]
    ignored: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    source: str = "onnx"

    def stored(self, entry: Entry) -> Stored:
        """A view of the file; a copy of this one tensor where its numbers are not written as plain bytes."""
        storage = storage_of(entry.dtype)
        if not entry.n_bytes:
            return np.empty(0, storage)
        where, data = self.numbers[entry.name], self.maps.get(entry.file)
        if not where.is_varint:
            return np.frombuffer(data, storage, entry.n_bytes // storage.itemsize, where.start)
        found = _varints(np.frombuffer(data, np.uint8, where.end - where.start, where.start)).astype(storage)
        if len(found) != entry.n:
            raise InputError(f"'{self.path}': {shown(entry.name)} has {len(found):,} numbers, not {entry.n:,}.")
        found.flags.writeable = False
        return found

    def assert_unchanged(self) -> None:
        """InputError where a file was written to since it was opened."""
        self.maps.assert_unchanged()

    def close(self) -> None:
        """Let go of the maps."""
        self.maps.close()


def open_onnx(path: Path, file: Path) -> OnnxCheckpoint:
    """The initializers of the ONNX file `file`, opened as `path`."""
    data, seen = map_plain(file)
    if data is None:
        raise InputError(f"'{file}' is empty. Download it again.")
    with data:
        try:
            return _Reader(data, file, seen).checkpoint(path)
        except (_BrokenError, UnicodeDecodeError) as error:
            raise InputError(f"'{file}' is not a readable ONNX file: {error}. Download it again.") from error


@dataclass
class _Reader:
    """Reads the descriptions of tensors out of one map."""

    data: Any
    file: Path
    seen: Seen
    n_fields: int = 0

    def checkpoint(self, path: Path) -> OnnxCheckpoint:
        graphs = [part for part in self.parts(0, self.seen.size) if part.field == 7 and part.is_bytes]
        if len(graphs) != 1:
            raise _BrokenError("it has no graph")
        entries: dict[str, Entry] = {}
        numbers: dict[str, Numbers] = {}
        ignored: list[tuple[str, str]] = []
        seen = {self.file.name: self.seen}
        turned: set[str] = set()
        for part in self.parts(graphs[0].start, graphs[0].end):
            if part.field == 1:
                turned |= self.turned(part)
            elif part.field == 15:
                ignored.append(("sparse_initializer", "a sparse tensor"))
            elif part.field == 5:
                entry, where = self.tensor(part, seen)
                if entry.name in entries or len(entries) >= _MAX_TENSORS:
                    raise _BrokenError(f"the name {shown(entry.name)} stands twice, or there are too many")
                if where is None:
                    ignored.append((entry.name, entry.unfit))
                else:
                    entries[entry.name], numbers[entry.name] = entry, where
        found = (replace(each, is_turned=len(each.shape) == 2 and each.name in turned) for each in entries.values())
        metadata: dict[str, dict[str, str]] = {name: {} for name in seen}
        return OnnxCheckpoint(path, tuple(found), tuple(seen), Maps(seen), numbers, metadata, tuple(ignored))

    def turned(self, node: _Part) -> set[str]:
        """The input of a node that is stored (in, out)."""
        inputs, kind, is_transposed = [], "", False
        for part in self.inside(node):
            if part.field == 1:
                inputs.append(part)
            elif part.field == 4:
                kind = self.text(part)
            elif part.field == 5:
                of = {each.field: each for each in self.inside(part)}
                is_transposed |= 1 in of and self.text(of[1]) == "transB" and 3 in of and of[3].number != 0
        if len(inputs) < 2 or kind not in ("MatMul", "Gemm") or is_transposed:
            return set()
        return {self.text(inputs[1])}

    def tensor(self, message: _Part, seen: dict[str, Seen]) -> tuple[Entry, Numbers | None]:
        """One initializer, and where its numbers are: None where it is of a dtype that is not read."""
        name, kind, is_outside = "", 0, False
        shape: list[int] = []
        runs: dict[int, _Part] = {}
        outside: dict[str, str] = {}
        for part in self.inside(message):
            if part.field == 1:
                shape.append(part.number)
            elif part.field == 2:
                kind = part.number
            elif part.field == 8:
                name = self.text(part)
            elif part.field in _NUMBERS:
                if part.field in runs or not part.is_bytes:
                    raise _BrokenError(f"the numbers of {shown(name)} are in pieces")
                runs[part.field] = part
            elif part.field == 13:
                of = {each.field: each for each in self.inside(part)}
                if 1 in of and 2 in of:
                    outside[self.text(of[1])] = self.text(of[2])
            elif part.field == 14:
                is_outside = part.number == 1
        if kind not in _DTYPES:
            return Entry(name, "U8", (), unfit=f"of ONNX's dtype {kind}, which is not read"), None
        n_bits = BITS[_DTYPES[kind]]
        for size in shape:
            n_bits *= size
            if size >= 1 << 63 or n_bits >= 1 << 63 or len(shape) > 64:
                raise _BrokenError(f"the shape of {shown(name)} cannot be")
        entry = Entry(name, _DTYPES[kind], tuple(shape), self.file.name)
        if is_outside:
            return self.outside(entry, outside, seen)
        # Some writers leave out the field of a tensor without elements.
        field = _RAW if _RAW in runs or not entry.n else _FIELDS.get(entry.dtype, _INT32S)
        run = runs.get(field, _Part(field, True, message.start, message.start))
        size, is_varint = run.end - run.start, field in _VARINTS
        # A varint has from 1 to 10 bytes; how many there are is known once they are read.
        is_there = entry.n <= size <= 10 * entry.n if is_varint else 8 * size == n_bits
        if not is_there or (is_varint and BITS[entry.dtype] < 8):
            raise _BrokenError(f"{shown(name)} of {entry.dtype} {shown(shape)} does not have its {entry.n:,} numbers")
        return replace(entry, start=run.start), Numbers(run.start, run.end, is_varint)

    def outside(self, entry: Entry, about: dict[str, str], seen: dict[str, Seen]) -> tuple[Entry, Numbers]:
        """A tensor whose bytes are in a file beside this one."""
        location = about.get("location", "")
        parts = PurePosixPath(location).parts
        is_odd = not parts or ".." in parts or any(letter in location for letter in "\\\0:") or location.startswith("/")
        path = self.file.parent.joinpath(*parts) if not is_odd else self.file
        if is_odd or not stays_inside(path, self.file.parent):
            raise _BrokenError(
                f"{shown(entry.name)} is in {shown(location)}; only files in the same directory are read"
            )
        numbers = [about.get("offset", "") or "0", about.get("length", "") or str(entry.n_bytes)]
        if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers):
            raise _BrokenError(f"{shown(entry.name)} has no whole numbers for its place")
        start, size = map(int, numbers)
        if location not in seen:
            handle, seen[location] = open_plain(path)
            os.close(handle)
        if 8 * size != entry.n * BITS[entry.dtype] or start + size > seen[location].size:
            raise _BrokenError(f"{shown(entry.name)} is not all in {shown(location)}")
        return replace(entry, file=location, start=start), Numbers(start, start + size)

    def text(self, part: _Part) -> str:
        if not part.is_bytes or part.end - part.start > _MAX_TEXT:
            raise _BrokenError("a name is no text")
        return bytes(self.data[part.start : part.end]).decode()

    def inside(self, part: _Part) -> Iterator[_Part]:
        """The fields of a message in a message."""
        if not part.is_bytes:
            raise _BrokenError("a message is missing")
        return self.parts(part.start, part.end)

    def parts(self, at: int, end: int) -> Iterator[_Part]:
        """The fields of the message from `at` to `end`."""
        while at < end:
            tag, at = self.varint(at, end)
            field, kind = tag >> 3, tag & 7
            self.n_fields += 1
            if not field or self.n_fields > _MAX_FIELDS:
                raise _BrokenError(f"byte {at} is not the start of a field, or there are too many")
            if kind == 0:
                number, at = self.varint(at, end)
                yield _Part(field, False, at, at, number)
                continue
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, at = self.varint(at, end)
            elif not size:
                raise _BrokenError(f"byte {at} is not the start of a field")
            if at + size > end:
                raise _BrokenError(f"a field at byte {at} reaches beyond its message")
            yield _Part(field, kind == 2, at, at + size)
            at += size

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """A whole number of at most 10 bytes, and where it ends."""
        number = 0
        for n, byte in enumerate(self.data[at : min(at + 10, end)]):
            number |= (byte & 0x7F) << (7 * n)
            if byte < 0x80:
                return number & 0xFFFF_FFFF_FFFF_FFFF, at + n + 1
        raise _BrokenError(f"a number at byte {at} does not end")


def _varints(data: Stored) -> Stored:
    """The whole numbers written in bytes of 7 bits, the lowest first, the last of each below 128."""
    ends = np.flatnonzero(data < 0x80)
    if not len(ends) or ends[-1] != len(data) - 1:
        return np.empty(0, np.uint64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    bits = (data & 0x7F).astype(np.uint64) << np.minimum(7 * places, 63).astype(np.uint64)
    return np.asarray(np.bitwise_or.reduceat(bits, starts))
