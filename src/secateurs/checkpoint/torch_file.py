"""PyTorch's files (.pt, .pth, .bin): the tensors that the pickle in them describes, viewed in a map of the file.

The pickle is read and never run (pickles.py), so this is stricter than `torch.load(weights_only=True)`, reads nothing
but headers, and needs no torch. A zip archive must hold its tensors stored, as torch writes them: what would have to
be inflated is refused. Files from before torch 1.6 are read too. Nested dicts become dotted names.
"""

import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from secateurs.checkpoint.dtypes import BITS, storage_of
from secateurs.checkpoint.names import described, read_config
from secateurs.checkpoint.pickles import MAX_BYTES, Call, Named, Persistent, PickleError, Window, read_pickle
from secateurs.checkpoint.plain_files import Maps, Seen, map_plain, open_plain
from secateurs.checkpoint.prunable import overlaps
from secateurs.checkpoint.sharded import assert_agrees
from secateurs.checkpoint.tensors import Checkpoint, Entry, Stored
from secateurs.checks import shown
from secateurs.errors import InputError

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
TORCH_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex32": "C32",
    "complex64": "C64",
    "complex128": "C128",
    "qint8": "I8",
    "quint8": "U8",
    "qint32": "I32",
}
_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": "C128",
    "QInt8Storage": "I8",
    "QUInt8Storage": "U8",
    "QInt32Storage": "I32",
    "UntypedStorage": "U8",
}
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before torch 1.6
MAX_TENSORS = 1_000_000
MAX_DEPTH = 32
MAX_NAME = 1 << 16  # letters of one dotted name
MAX_NAMES = 1 << 27  # of all of them


@dataclass(frozen=True)
class Place:
    """Where the elements of one tensor lie: the span of its storage in a file, and the steps between them.

    key      tells one storage from another
    first    the byte of the file where its first element lies
    strides  in elements
    """

    key: str
    first: int
    strides: tuple[int, ...]


@dataclass(eq=False)
class TorchCheckpoint(Checkpoint):
    """The tensors of torch's files."""

    path: Path | None
    entries: tuple[Entry, ...]
    files: tuple[str, ...]
    maps: Maps
    places: Mapping[str, Place]
    metadata: dict[str, dict[str, str]]
    ignored: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    source: str = "torch"

    def stored(self, entry: Entry) -> Stored:
        """A view of the file; a copy of this one tensor where its elements do not lie in order."""
        if why := self.unreadable(entry):
            raise InputError(f"'{self.path}': {shown(entry.name)} cannot be read: {why}.")
        place = self.places[entry.name]
        storage = storage_of(entry.dtype)
        if not entry.n:
            return np.empty(0, storage)
        n_item = BITS[entry.dtype] // 8
        reach = sum((size - 1) * step for size, step in zip(entry.shape, place.strides, strict=True)) + 1
        data = np.frombuffer(self.maps.get(entry.file), np.uint8, reach * n_item, place.first)
        if _is_in_order(entry.shape, place.strides):
            return data.view(storage)
        items = data.view(np.dtype((np.void, n_item)))
        steps = tuple(step * n_item for step in place.strides)
        apart = np.lib.stride_tricks.as_strided(items, entry.shape, steps, writeable=False)
        copy = np.ascontiguousarray(apart).reshape(-1).view(storage)
        copy.flags.writeable = False
        return copy

    def unreadable(self, entry: Entry) -> str:
        """Why a tensor has no place in the file, or ""."""
        return "" if entry.name in self.places else entry.unfit

    def assert_unchanged(self) -> None:
        """InputError where a file was written to since it was opened."""
        self.maps.assert_unchanged()

    def close(self) -> None:
        """Let go of the maps."""
        self.maps.close()


def open_torch(path: Path, shards: Mapping[str, Path], weight_map: Mapping[str, str]) -> TorchCheckpoint:
    """The tensors of the files {name: path}, opened as `path`.

    weight_map  {tensor: file name}, to agree with; {} for one file without an index
    """
    found = [_read_file(file, name) for name, file in shards.items()]
    where: dict[str, str] = {}
    for file in found:
        for name in (name for entry in file.entries for name in entry.names):
            if name in where:
                raise InputError(f"'{path}' holds {shown(name)} twice, in '{where[name]}' and '{file.seen.path.name}'.")
            where[name] = file.seen.path.name
    if weight_map:
        assert_agrees(path, weight_map, where)
    entries = (entry for file in found for entry in file.entries)
    return TorchCheckpoint(
        path,
        described(entries, read_config(path if path.is_dir() else path.parent)),
        tuple(shards),
        Maps({name: file.seen for name, file in zip(shards, found, strict=True)}),
        {name: place for file in found for name, place in file.places.items()},
        {name: {} for name in shards},
        tuple(each for file in found for each in file.ignored),
        tuple(note for file in found for note in file.notes),
    )


@dataclass(frozen=True)
class _File:
    """What one file holds."""

    seen: Seen
    entries: list[Entry]
    places: dict[str, Place]
    ignored: list[tuple[str, str]]
    notes: list[str]


@dataclass(frozen=True)
class _Span:
    """The bytes of one storage in the file."""

    start: int
    size: int


def _read_file(path: Path, name: str) -> _File:
    data, seen = map_plain(path)
    if data is None:
        raise InputError(f"'{path}' is empty. Download it again.")
    with data:
        try:
            is_zip = data[:4] == b"PK\x03\x04"
            value, spans = (_read_zip if is_zip else _read_legacy)(path, data, seen.size)
            return _described_by(value, spans, seen, name)
        except PickleError as error:
            raise InputError(
                f"'{path}' is not a readable PyTorch file: {error}. Download it again, or save its state_dict."
            ) from error


def _read_zip(path: Path, data: Any, size: int) -> tuple[Any, dict[str, _Span]]:
    """The pickle of an archive, and where each of its storages lies."""
    handle, _ = open_plain(path)
    with open(handle, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        # What zipfile says to archives that make no sense.
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, LookupError, struct.error) as error:
            raise PickleError(f"its archive is damaged ({error})") from error
    found = {member.filename: member for member in members}
    pickled = [name for name in found if name.rpartition("/")[2] == "data.pkl" and name.count("/") <= 1]
    if len(found) != len(members) or len(pickled) != 1:
        raise PickleError(f"its archive has {len(pickled)} data.pkl and {len(members) - len(found)} names twice")
    home = pickled[0].removesuffix("data.pkl")
    if f"{home}constants.pkl" in found:
        raise PickleError("it is a TorchScript program; save the state_dict of its module")
    spans = {name: _span(data, member, size) for name, member in found.items()}
    if sum(span.size for span in spans.values()) > size:
        raise PickleError("parts of its archive share their bytes")
    order = spans.get(f"{home}byteorder")
    if order and data[order.start : order.start + min(order.size, 10)] != b"little":
        raise PickleError("its numbers are not little endian")
    described_in = spans[pickled[0]]
    if described_in.size > MAX_BYTES:
        raise PickleError(f"its data.pkl has {described_in.size:,} bytes")
    value = read_pickle(Window(data, described_in.start, described_in.start + described_in.size))
    return value, {name.removeprefix(f"{home}data/"): span for name, span in spans.items()}


def _span(data: Any, member: zipfile.ZipInfo, size: int) -> _Span:
    """The bytes of a member, once they are known to be stored as they are and to lie in the file."""
    at = member.header_offset
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size or member.flag_bits & 1:
        raise PickleError(f"{shown(member.filename)} in its archive is compressed or encrypted")
    if not 0 <= at <= size - 30 or data[at : at + 4] != b"PK\x03\x04":
        raise PickleError(f"{shown(member.filename)} is not where its archive says")
    n_name, n_extra = struct.unpack("<HH", data[at + 26 : at + 30])
    start = at + 30 + n_name + n_extra
    if start + member.file_size > size:
        raise PickleError(f"{shown(member.filename)} ends after its archive")
    return _Span(start, member.file_size)


def _read_legacy(path: Path, data: Any, size: int) -> tuple[Any, dict[str, _Span]]:
    """The pickles of a file from before torch 1.6, and where each of the storages behind them lies."""
    window = Window(data, 0, size)
    if read_pickle(window) != _MAGIC:
        raise PickleError("it is a pickle of something else than torch.save writes")
    read_pickle(window)  # the version of the protocol
    system = read_pickle(window)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise PickleError("its numbers are not little endian")
    value = read_pickle(window)
    keys = read_pickle(window)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleError("it does not list its storages")
    abouts = [_about(each) for each in _inside(value) if isinstance(each, Persistent)]
    n_items = {str(about[2]): _item_bytes(about) for about in abouts}
    spans = {}
    for key in keys:
        n = int.from_bytes(data[window.at : window.at + 8], "little", signed=True)
        if window.at + 8 > size or key not in n_items or not 0 <= n * n_items[key] <= size - window.at - 8:
            raise PickleError(f"its storage {shown(key)} is not there")
        spans[key] = _Span(window.at + 8, n * n_items[key])
        window.at += 8 + n * n_items[key]
    return value, spans


def _inside(value: Any) -> Iterator[Any]:
    """Everything in a value, each once; a pickle can hold itself."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict | list | tuple | Call | Persistent):
            if id(each) in seen:
                continue
            seen.add(id(each))
            yield each
        if isinstance(each, dict):
            waiting.extend(each.values())
        elif isinstance(each, list | tuple):
            waiting.extend(each)
        elif isinstance(each, Call):
            waiting.append(each.arguments)


def _about(storage: Any) -> tuple[Any, ...]:
    """("storage", its class, key, device, n), and before torch 1.6 (key, offset, n) of a view or None."""
    about = storage.about if isinstance(storage, Persistent) else None
    if not isinstance(about, tuple) or len(about) not in (5, 6) or not isinstance(about[1], Named):
        raise PickleError("it describes a storage in an unknown way")
    return about


def _item_bytes(about: tuple[Any, ...]) -> int:
    return BITS[_storage_dtype(about)] // 8


def _storage_dtype(about: tuple[Any, ...]) -> str:
    name = about[1].name.rpartition(".")[2]
    if name not in _STORAGES:
        raise PickleError(f"it has a storage of the unknown kind {shown(about[1].name)}")
    return _STORAGES[name]


@dataclass(frozen=True)
class _Tensor:
    """What a pickle says of one tensor; without a place, the reason why it cannot be read."""

    dtype: str
    shape: tuple[int, ...]
    place: Place | None
    unfit: str = ""


def _described_by(value: Any, spans: Mapping[str, _Span], seen: Seen, file: str) -> _File:
    """The tensors in a value."""
    notes, ignored = [], []
    for _ in range(MAX_DEPTH):
        if not isinstance(value, dict) or any(_is_tensor(each) for each in value.values()):
            break
        wrapper = next((key for key in WRAPPERS if isinstance(value.get(key), dict)), None)
        if wrapper is None or not any(_is_tensor(each) for each in _inside(value[wrapper])):
            break
        beside = [_short(key) for key in value if key != wrapper]
        notes.append(f"'{seen.path.name}': the weights are those under '{wrapper}'.")
        ignored += [(name, f"beside '{wrapper}'") for name in beside]
        value = value[wrapper]
    tensors: dict[str, _Tensor] = {}
    for name, leaf in _leaves(value):
        if not _is_tensor(leaf):
            ignored.append((name, _what(leaf)))
        elif name in tensors:
            raise PickleError(f"the name {shown(name)} stands twice in it")
        elif len(tensors) >= MAX_TENSORS:
            raise PickleError(f"it has more than {MAX_TENSORS:,} tensors")
        else:
            tensors[name] = _tensor(leaf, spans)
    if not tensors:
        raise PickleError("it holds no tensors by name" + (f" but {_what(value)}" if isinstance(value, Call) else ""))
    entries = _once_each(tensors, file)
    return _File(seen, entries, {e.name: p for e in entries if (p := tensors[e.name].place)}, ignored, notes)


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """(dotted name, leaf) of everything in nested containers, in order; a container that stands twice counts once."""
    seen: set[int] = set()
    waiting: list[Iterator[tuple[str, Any]]] = [iter([("", value)])]
    n_letters = 0
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            continue
        name, each = found
        n_letters += len(name)
        if len(name) > MAX_NAME or n_letters > MAX_NAMES:
            raise PickleError(f"its names are too long, {shown(name)} among them")
        if not isinstance(each, dict | list | tuple) or not each:
            yield name or "tensor", each
            continue
        if id(each) in seen:
            yield name, "the same as another part"
            continue
        if len(waiting) > MAX_DEPTH + 1:
            raise PickleError(f"its containers are nested more than {MAX_DEPTH} deep")
        seen.add(id(each))
        waiting.append(_parts(name, each))


def _parts(name: str, container: Any) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of what a container holds."""
    prefix = f"{name}." if name else ""
    for key, inner in container.items() if isinstance(container, dict) else enumerate(container):
        yield f"{prefix}{_short(key)}", inner


def _short(key: Any) -> str:
    return key if isinstance(key, str) else shown(key)


def _what(leaf: Any) -> str:
    if isinstance(leaf, Call):
        return f"an object of {shown(leaf.function)[1:-1]}"
    return shown(leaf) if isinstance(leaf, str | bytes | int | float | None) else f"a {type(leaf).__name__}"


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Call) and leaf.function in _REBUILD


def _tensor(call: Call, spans: Mapping[str, _Span]) -> _Tensor:
    try:
        return _REBUILD[call.function](call.arguments, spans)
    except PickleError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise PickleError(f"it describes a tensor in an unknown way ({error})") from error


def _strided(arguments: Any, spans: Mapping[str, _Span]) -> _Tensor:
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata), v3: dtype before metadata."""
    storage, offset, size, stride, *more = arguments
    dtype_said = next((each for each in more if isinstance(each, Named)), None)
    about = _about(storage)
    dtype = _dtype(dtype_said) if dtype_said else _storage_dtype(about)
    n_item, n_storage_item = BITS[dtype] // 8, _item_bytes(about)
    shape, strides = _sizes(size), _sizes(stride)
    if not _is_size(offset) or len(shape) != len(strides) or len(shape) > 64:
        raise PickleError("a tensor has a shape or strides that cannot be")
    key, view = str(about[2]), about[5] if len(about) == 6 else None
    if key not in spans:
        raise PickleError(f"a tensor is in the storage {shown(key)}, which is not there")
    start, n_there = spans[key].start, spans[key].size
    if view is not None:  # of a larger storage: (key, offset, size)
        start += _sizes(view[1:])[0] * n_storage_item
        n_there = min(n_there - (start - spans[key].start), _sizes(view[1:])[1] * n_storage_item)
    is_empty = 0 in shape
    reach = offset + 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    n_elements = 1
    for n in shape:
        n_elements *= n
    if n_elements * n_item >= 1 << 63 or (not is_empty and reach * n_item > n_there):
        raise PickleError(f"a tensor of {dtype} {shown(shape)} reaches beyond its storage of {n_there:,} bytes")
    bits = next((each for each in more if isinstance(each, dict) and (each.get("conj") or each.get("neg"))), None)
    if bits is not None:
        return _Tensor(dtype, shape, None, "negated or conjugated when read, not stored so")
    is_expanded = any(step == 0 and n > 1 for n, step in zip(shape, strides, strict=True))
    # A copy of what is expanded can be a billion times its bytes.
    if is_expanded and not is_empty:
        return _Tensor(dtype, shape, None, "its elements share memory (expanded)")
    if not is_empty and n_elements > reach - offset:
        return _Tensor(dtype, shape, None, "its elements share memory (strides that overlap)")
    return _Tensor(dtype, shape, Place(key, start + offset * n_item, strides))


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, Call) and value.function == "torch.Size":
        (value,) = value.arguments
    if not isinstance(value, tuple | list) or not all(_is_size(each) for each in value):
        raise PickleError("a tensor has sizes that are not whole numbers")
    return tuple(value)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _dtype(said: Any) -> str:
    name = said.name.removeprefix("torch.") if isinstance(said, Named) else ""
    if name not in TORCH_DTYPES:
        raise PickleError(f"it has a tensor of the unknown dtype {shown(getattr(said, 'name', said))}")
    return TORCH_DTYPES[name]


def _parameter(arguments: Any, spans: Mapping[str, _Span]) -> _Tensor:
    if not isinstance(arguments[0], Call) or arguments[0].function not in _DIRECT:
        raise PickleError("it has a parameter of something that is no tensor")
    return _DIRECT[arguments[0].function](arguments[0].arguments, spans)


def _sparse(arguments: Any, spans: Mapping[str, _Span]) -> _Tensor:
    layout, parts = arguments
    size = next((part for part in parts if isinstance(part, Call) and part.function == "torch.Size"), None)
    values = [part for part in parts if isinstance(part, Call) and part.function in _DIRECT]
    dtype = _strided(values[-1].arguments, spans).dtype
    return _Tensor(dtype, _sizes(size), None, f"not a strided tensor ({layout.arguments[0]:.40s})")


def _quantized(arguments: Any, spans: Mapping[str, _Span]) -> _Tensor:
    return replace(_strided(arguments[:4], spans), place=None, unfit="a quantized tensor")


def _meta(arguments: Any, spans: Mapping[str, _Span]) -> _Tensor:
    return _Tensor(_dtype(arguments[0]), _sizes(arguments[1]), None, "no values (meta device)")


_DIRECT: dict[str, Callable[[Any, Mapping[str, _Span]], _Tensor]] = {
    "torch._utils._rebuild_tensor_v2": _strided,
    "torch._utils._rebuild_tensor_v3": _strided,
    "torch._utils._rebuild_tensor": _strided,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
}
_REBUILD = _DIRECT | {
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}


def _once_each(tensors: Mapping[str, _Tensor], file: str) -> list[Entry]:
    """Every stored tensor once, with its other names; those that share part of their bytes cannot be pruned."""
    first: dict[object, str] = {}
    aliases: dict[str, list[str]] = {}
    spans = []
    for name, tensor in tensors.items():
        place = tensor.place
        is_there = place is not None and 0 not in tensor.shape
        owner = first.setdefault((place, tensor.dtype, tensor.shape) if is_there else name, name)
        aliases.setdefault(owner, [])
        if owner != name:
            aliases[owner].append(name)
        elif is_there and place is not None:
            reach = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, place.strides, strict=True))
            spans.append((place.key, place.first, place.first + reach * BITS[tensor.dtype] // 8, name))
    shared = overlaps(spans)
    return [
        Entry(
            name,
            tensors[name].dtype,
            tensors[name].shape,
            file,
            place.first if (place := tensors[name].place) else 0,
            tuple(others),
            unfit=tensors[name].unfit or shared.get(name, ""),
        )
        for name, others in aliases.items()
    ]


def _is_in_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True
