"""The header of a safetensors file, read as strictly as its own library reads it, from a map and without torch.

    8 bytes          n, the length of the header, little endian
    n bytes          {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {...}}
    the rest         the tensors, without holes or overlaps

What the library accepts and this refuses: a name that stands twice; a tensor with more, fewer or escaped fields, or
written as a list; a dtype written as an object; more than 64 dimensions or 2**63 bits. Nothing writes these, and
numpy could not hold the last two. https://github.com/huggingface/safetensors
"""

import json
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secateurs.checkpoint.dtypes import DTYPES
from secateurs.checkpoint.plain_files import Seen, map_plain
from secateurs.checkpoint.tensors import Entry
from secateurs.checks import nearest, shown
from secateurs.errors import InputError

MAX_HEADER_BYTES = 100_000_000  # as the library
METADATA = "__metadata__"
_TOO_LARGE = 1 << 63  # what numpy and the system count with

# Whole tokens, without backtracking: the time is that of reading the header once, whatever stands in it.
_GAP = rb"[ \t\n\r]*+"
_STRING = rb'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
_WHOLE = rb"(?:0|[1-9][0-9]{0,18})"
_WHOLES = rb"\[" + _GAP + rb"(?:" + _WHOLE + _GAP + rb"(?:," + _GAP + _WHOLE + _GAP + rb"){0,63}+)?+\]"
_KEY = re.compile(_GAP + rb"(" + _STRING + rb")" + _GAP + rb":" + _GAP)
_TEXT = re.compile(rb"(" + _STRING + rb")" + _GAP)
_FIELD = re.compile(
    rb'"(?:(dtype)"' + _GAP + rb":" + _GAP + rb"(" + _STRING + rb")"
    rb'|(shape|data_offsets)"' + _GAP + rb":" + _GAP + rb"(" + _WHOLES + rb"))" + _GAP
)
_MARK = re.compile(_GAP + rb"(.)" + _GAP, re.DOTALL)
_NULL = re.compile(rb"null" + _GAP)


@dataclass(frozen=True)
class Header:
    """What one file says of itself: its tensors in the order of their bytes, its metadata, and the file as seen."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]
    seen: Seen


def read_header(path: Path) -> Header:
    """The header of the file at `path`; InputError if it is not one whose every tensor is there."""
    found, seen = map_plain(path)
    if found is None or seen.size < 8:
        raise InputError(f"'{path}' has {seen.size} bytes and is not a safetensors file. Download it again.")
    with found:
        n = int.from_bytes(found[:8], "little")
        if n > MAX_HEADER_BYTES or 8 + n > seen.size:
            raise InputError(
                f"'{path}' says that its header has {n:,} bytes; the file has {seen.size:,} and a header at most "
                f"{MAX_HEADER_BYTES:,}. It is not a safetensors file, or not all of it is there: download it again."
            )
        try:
            tensors, metadata = _Reader(found, 8 + n).header()
            return Header(_entries(tensors, 8 + n, seen), metadata, seen)
        except _RefusedError as refusal:
            raise InputError(f"'{path}' is not a valid safetensors file: {refusal}. Download it again.") from None


class _RefusedError(Exception):
    """What is wrong with a header."""


@dataclass
class _Reader:
    """Reads a header from `at` to `end`, token by token."""

    data: mmap.mmap
    end: int
    at: int = 8

    def header(self) -> tuple[dict[str, dict[str, str | list[int]]], dict[str, str]]:
        tensors: dict[str, dict[str, str | list[int]]] = {}
        metadata: dict[str, str] | None = None
        for name in self.keys():
            if name in tensors or (name == METADATA and metadata is not None):
                raise _RefusedError(f"the name {shown(name)} stands twice")
            if name == METADATA:
                metadata = self.texts()
            else:
                tensors[name] = self.fields(name)
        if self.at != self.end:
            raise _RefusedError(f"something follows the header's last brace at byte {self.at}")
        return tensors, metadata or {}

    def keys(self) -> Iterator[str]:
        """The names in one object; the caller reads the value after each."""
        self.mark(b"{")
        if self.peek() == b"}":
            self.mark(b"}")
            return
        while True:
            match = _KEY.match(self.data, self.at, self.end)
            if match is None:
                raise _RefusedError(f"no name in quotes at byte {self.at}")
            self.at = match.end()
            yield _text(match[1])
            if self.mark(b",}") == b"}":
                return

    def texts(self) -> dict[str, str]:
        if null := _NULL.match(self.data, self.at, self.end):
            self.at = null.end()
            return {}
        found: dict[str, str] = {}
        for name in self.keys():
            match = _TEXT.match(self.data, self.at, self.end)
            if match is None:
                raise _RefusedError(f"the metadata {shown(name)} is not text")
            if name in found:
                raise _RefusedError(f"the metadata {shown(name)} stands twice")
            found[name] = _text(match[1])
            self.at = match.end()
        return found

    def fields(self, name: str) -> dict[str, str | list[int]]:
        found: dict[str, str | list[int]] = {}
        self.mark(b"{", f"the tensor {shown(name)} is not an object")
        while True:
            match = _FIELD.match(self.data, self.at, self.end)
            if match is None:
                raise _RefusedError(
                    f"the tensor {shown(name)} is not a dtype, a shape of at most 64 whole numbers and data_offsets"
                )
            key = (match[1] or match[3]).decode()
            if key in found:
                raise _RefusedError(f"the {key} of {shown(name)} stands twice")
            found[key] = (
                _text(match[2])
                if match[2]
                else [int(number) for number in match[4][1:-1].split(b",") if number.strip()]
            )
            self.at = match.end()
            if self.mark(b",}") == b"}":
                break
        if len(found) != 3:
            raise _RefusedError(f"the tensor {shown(name)} lacks its dtype, shape or data_offsets")
        return found

    def peek(self) -> bytes:
        match = _MARK.match(self.data, self.at, self.end)
        return match[1] if match else b""

    def mark(self, allowed: bytes, otherwise: str = "") -> bytes:
        match = _MARK.match(self.data, self.at, self.end)
        if match is None or match[1] not in allowed:
            raise _RefusedError(otherwise or f"byte {self.at} should be one of {allowed.decode()}")
        self.at = match.end()
        return match[1]


def _text(quoted: bytes) -> str:
    try:
        text = str(quoted[1:-1], "utf-8") if b"\\" not in quoted else str(json.loads(quoted))
        text.encode()  # half of a surrogate pair has no UTF-8
    except ValueError as error:
        raise _RefusedError(f"{shown(quoted[:100])} is not UTF-8") from error
    return text


def _entries(tensors: dict[str, dict[str, str | list[int]]], first: int, seen: Seen) -> tuple[Entry, ...]:
    """The tensors in the order of their bytes, once every size adds up to the file's."""
    entries, ends = [], {}
    for name, fields in tensors.items():
        dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        assert isinstance(dtype, str)
        assert isinstance(shape, list)
        assert isinstance(offsets, list)
        if dtype not in DTYPES:
            raise _RefusedError(
                f"the tensor {shown(name)} has the unknown dtype {shown(dtype)}. {nearest(dtype, DTYPES)}"
            )
        if len(offsets) != 2 or offsets[1] < offsets[0]:
            raise _RefusedError(f"the data_offsets of {shown(name)} are not a start and an end: {shown(offsets)}")
        n_bits = DTYPES[dtype]
        for size in shape:
            n_bits *= size
            if size >= _TOO_LARGE or n_bits >= _TOO_LARGE:
                raise _RefusedError(f"the shape of {shown(name)} is too large: {shown(shape)}")
        if n_bits != 8 * (offsets[1] - offsets[0]):
            raise _RefusedError(
                f"the tensor {shown(name)} of {dtype} {shown(shape)} needs {n_bits / 8:,.10g} bytes and has "
                f"{offsets[1] - offsets[0]:,}"
            )
        entries.append(Entry(name, dtype, tuple(shape), seen.path.name, first + offsets[0]))
        ends[name] = first + offsets[1]
    entries.sort(key=lambda entry: (entry.start, ends[entry.name]))
    end = first
    for entry in entries:
        if entry.start != end:
            raise _RefusedError(
                f"bytes {'are used twice' if entry.start < end else 'lie unused'} before {shown(entry.name)}"
            )
        end = ends[entry.name]
    if end != seen.size:
        raise _RefusedError(f"its tensors end at byte {end:,} and the file at {seen.size:,}")
    return tuple(entries)
