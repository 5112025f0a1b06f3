"""Packed index: what a packed file says of itself, in a few bytes per tensor, and the rules that keep it honest.

A packed file is a safetensors file. Its header names two tensors of U8, in this order and without a gap:

    secateurs.packed.streams    the coded pieces of all tensors (formats/pieces.py), one after the other, and zeros
    secateurs.packed.index      what follows here; numbers as in formats/streams.py, texts a number and so many bytes of
                                UTF-8

    uint32      CRC-32 of the file's first 320 bytes, which are the safetensors header and its length, little endian
    uint32      CRC-32 of all that follows here
    features    a number, and so many texts: what a reader must know beyond this description; none so far
    metadata    a number, and so many pairs of texts, the source's own
    total       a number: bytes of all tensors when dense
    tensors     a number, and so many of:
        name    a number: how many bytes are those of the name before; a text: the others
        aliases a number, and so many texts: other names of the same tensor
        dtype   uint8: its place in DTYPE_NAMES
        shape   a number, and so many numbers
        values  uint8: 0 exact; 1 int, then uint8 bits and a number, the group; 2 codebook, then uint8 bits
        parts   for a codebook one part with its numbers in the tensor's dtype, then the pieces, each:
                a number, its coded bytes; uint32, their CRC-32; uint32, the CRC-32 of what they are when dense

How a tensor is cut into pieces follows from its dtype and shape (`grids`). A file may declare at most 64 MiB and 16,384
times its own size of dense bytes; a writer with more adds zeros to the streams.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from secateurs.checkpoint.dtypes import storage_of
from secateurs.checkpoint.tensors import Entry, Stored
from secateurs.checks import shown
from secateurs.exact.kinds import KINDS
from secateurs.formats.bits import grid_of
from secateurs.formats.pieces import SIZE, Piece
from secateurs.formats.streams import DamageError, Reader, number
from secateurs.formats.values import EXACT, Values

FORMAT = "secateurs.packed/1"
STREAMS, INDEX = "secateurs.packed.streams", "secateurs.packed.index"
N_HEADER = 320
FREE_BYTES, MOST_RATIO = 64 << 20, 1 << 14
MAX_NAME, MAX_ALIASES, MAX_DIMS, MAX_INDEX = 4096, 4096, 64, 64 << 20
MAX_REPEATED = 64  # letters that names share with the names before them, for every byte of the index
FEATURES: frozenset[str] = frozenset()  # the required features that this version knows
DTYPE_NAMES = (
    *("BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    *("I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64", "C32", "C128"),
)
_NAMES = ("exact", "int", "codebook")


class NewerError(Exception):
    """What a newer version wrote and this one cannot read."""


@dataclass(frozen=True)
class Part:
    """Coded bytes inside the streams, and what proves them."""

    start: int
    size: int
    crc: int
    dense_crc: int


@dataclass(frozen=True)
class Record:
    """One packed tensor: what it is when dense, how its values are stored, and where its parts are."""

    entry: Entry
    values: Values
    codebook: Part | None
    pieces: tuple[Part, ...]


@dataclass(frozen=True)
class Index:
    """What a packed file holds."""

    records: tuple[Record, ...]
    metadata: Mapping[str, str]


def grids(entry: Entry) -> list[tuple[int, int]]:
    """(rows, columns) of each piece: as many whole rows as fit SIZE, or flat where one row does not.

    >>> grids(Entry("w", "F32", (3000, 500)))
    [(2097, 500), (903, 500)]
    """
    n = entry.n_bytes // storage_of(entry.dtype).itemsize
    rows, columns = grid_of(entry.shape) if entry.dtype in KINDS else (1, n)
    if not n:
        return []
    if columns > SIZE:
        return [(1, min(SIZE, n - start)) for start in range(0, n, SIZE)]
    step = SIZE // columns
    return [(min(step, rows - start), columns) for start in range(0, rows, step)]


def pieces_of(record: Record, is_smallest: bool = False) -> list[Piece]:
    """What is known of each piece before it is read."""
    entry = record.entry
    n_kernel = math.prod(entry.shape[2:]) if len(entry.shape) > 2 else 1
    storage, kind = storage_of(entry.dtype), KINDS.get(entry.dtype)
    return [Piece(storage, kind, rows, columns, record.values, n_kernel, is_smallest) for rows, columns in grids(entry)]


def header_bytes(n_streams: int, n_index: int) -> bytes:
    """The first N_HEADER bytes of the file."""
    n = n_streams + n_index
    text = (
        f'{{"__metadata__":{{"format":"{FORMAT}","read":"pip install secateurs"}},'
        f'"{STREAMS}":{{"dtype":"U8","shape":[{n_streams}],"data_offsets":[0,{n_streams}]}},'
        f'"{INDEX}":{{"dtype":"U8","shape":[{n_index}],"data_offsets":[{n_streams},{n}]}}}}'
    ).encode()
    assert len(text) <= N_HEADER - 8
    return (N_HEADER - 8).to_bytes(8, "little") + text.ljust(N_HEADER - 8)


def index_bytes(index: Index) -> bytes:
    """What follows the two checksums."""
    found = [number(0), number(len(index.metadata))]
    for pair in index.metadata.items():
        found += [_text(each.encode()) for each in pair]
    found += [number(sum(record.entry.n_bytes for record in index.records)), number(len(index.records))]
    before = b""
    for record in index.records:
        name = record.entry.name.encode()
        n_same = n_shared(before, name)
        found += [number(n_same), _text(name[n_same:]), *_rest(record)]
        before = name
    return b"".join(found)


def n_shared(before: bytes, name: bytes) -> int:
    """How many bytes a name begins with as the one before does."""
    return next((i for i, (a, b) in enumerate(zip(before, name, strict=False)) if a != b), min(len(before), len(name)))


def checked(header: bytes, rest: bytes) -> bytes:
    """The whole index: its checksums, and the rest."""
    return zlib.crc32(header).to_bytes(4, "little") + zlib.crc32(rest).to_bytes(4, "little") + rest


def read_index(header: bytes, data: Stored, n_streams: int, n_file: int) -> Index:
    """The index in (n,) uint8; DamageError where it is not one, NewerError where another version must read it.

    header     the file's first N_HEADER bytes
    n_streams  bytes of the streams
    """
    if data.size > MAX_INDEX:
        raise DamageError(f"its index has {data.size:,} bytes; {MAX_INDEX:,} is the most")
    reader = Reader(data)
    crcs = [int.from_bytes(reader.take(4).tobytes(), "little") for _ in range(2)]
    if crcs != [zlib.crc32(header), zlib.crc32(data[8:].data)]:
        raise DamageError("its header or index was changed: a checksum differs")
    unknown = [text for text in _texts(reader, data.size) if text not in FEATURES]
    if unknown:
        raise NewerError(f"it needs {', '.join(map(shown, unknown[:5]))}, which this version does not know")
    metadata = {}
    for _ in range(reader.number(data.size)):
        key = _read_text(reader)
        metadata[key] = _read_text(reader)
    total = reader.number(FREE_BYTES + MOST_RATIO * n_file)
    records: list[Record] = []
    before, at, n_dense, n_letters = b"", 0, 0, 0
    for _ in range(reader.number(data.size)):
        n_same = reader.number(len(before))
        before = before[:n_same] + reader.take(reader.number(MAX_NAME - n_same)).tobytes()
        n_letters += n_same
        if n_letters > MAX_REPEATED * data.size:
            raise DamageError("its names are longer than an index of this size can mean")
        record, at = _read_record(reader, _decoded(before), at)
        n_dense += record.entry.n_bytes
        if at > n_streams:
            raise DamageError(f"{shown(record.entry.name)} ends at byte {at:,} of {n_streams:,}")
        if n_dense > total:
            raise DamageError(f"its tensors have more than the {total:,} dense bytes that it declares")
        records.append(record)
    reader.assert_end()
    if n_dense != total:
        raise DamageError(f"its tensors have {n_dense:,} dense bytes and it declares {total:,}")
    names = [name for record in records for name in record.entry.names]
    if len(set(names)) != len(names):
        raise DamageError("a name stands twice")
    return Index(tuple(records), metadata)


def _rest(record: Record) -> list[bytes]:
    entry, values = record.entry, record.values
    found = [number(len(entry.aliases)), *(_text(alias.encode()) for alias in entry.aliases)]
    found += [bytes([DTYPE_NAMES.index(entry.dtype)]), number(len(entry.shape)), *map(number, entry.shape)]
    found.append(bytes([_NAMES.index(values.name)]))
    if not values.is_exact:
        found.append(bytes([values.n_bits]))
    if values.name == "int":
        found.append(number(values.group))
    for part in (*([record.codebook] if record.codebook else []), *record.pieces):
        found += [number(part.size), part.crc.to_bytes(4, "little"), part.dense_crc.to_bytes(4, "little")]
    return found


def _read_record(reader: Reader, name: str, at: int) -> tuple[Record, int]:
    """(the record, where its parts end in the streams)."""
    aliases = tuple(_texts(reader, MAX_ALIASES))
    place = reader.byte()
    if place >= len(DTYPE_NAMES):
        raise DamageError(f"{shown(name)} has the unknown dtype {place}")
    dtype = DTYPE_NAMES[place]
    shape = tuple(reader.number(2**62) for _ in range(reader.number(MAX_DIMS)))
    n_bits = 128 * math.prod(shape)
    if n_bits >= 1 << 63:
        raise DamageError(f"the shape of {shown(name)} is too large: {shown(shape)}")
    entry = Entry(name, dtype, shape, aliases=aliases)
    kind = reader.byte()
    if kind >= len(_NAMES):
        raise DamageError(f"{shown(name)} has the unknown values {kind}")
    values = EXACT
    if _NAMES[kind] == "int":
        values = Values("int", reader.byte(), reader.number(2**32))
    elif _NAMES[kind] == "codebook":
        values = Values("codebook", reader.byte())
    if not _fits(values, dtype):
        raise DamageError(f"{shown(name)} of {dtype} cannot have values {values}")

    def part() -> Part:
        nonlocal at
        size = reader.number(2**62)
        crc, dense_crc = (int.from_bytes(reader.take(4).tobytes(), "little") for _ in range(2))
        at += size
        return Part(at - size, size, crc, dense_crc)

    n = entry.n_bytes // storage_of(dtype).itemsize
    if n > SIZE * ((reader.data.size - reader.at) // 9 + 1):
        raise DamageError(f"{shown(name)} has more weights than an index of this size can mean")
    codebook = part() if values.name == "codebook" else None
    return Record(entry, values, codebook, tuple(part() for _ in grids(entry))), at


def _fits(values: Values, dtype: str) -> bool:
    """Whether a file may have these values for this dtype."""
    if values.is_exact:
        return True
    bits = (4, 8) if values.name == "int" else range(2, 9)
    return values.n_bits in bits and dtype in LOSSY


LOSSY = ("F64", "F32", "F16", "BF16")  # what lossy values can stand for


def _text(text: bytes) -> bytes:
    return number(len(text)) + text


def _read_text(reader: Reader) -> str:
    return _decoded(reader.take(reader.number(reader.data.size)).tobytes())


def _texts(reader: Reader, most: int) -> list[str]:
    return [_read_text(reader) for _ in range(reader.number(most))]


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise DamageError(f"a name is not UTF-8: {shown(text[:100])}") from error
