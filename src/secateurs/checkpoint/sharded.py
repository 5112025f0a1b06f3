"""Safetensors checkpoints: one file, or the shards that an index names; every tensor is a view of a memory map."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secateurs.checkpoint.dtypes import storage_of
from secateurs.checkpoint.names import described, read_config
from secateurs.checkpoint.plain_files import Maps, read_json, stays_inside
from secateurs.checkpoint.safetensors_file import Header, read_header
from secateurs.checkpoint.tensors import Checkpoint, Entry, Stored
from secateurs.checks import shown
from secateurs.errors import InputError

if TYPE_CHECKING:
    from secateurs.checkpoint.packed_file import PackedCheckpoint

TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(eq=False)
class SafetensorsCheckpoint(Checkpoint):
    """The tensors of safetensors files."""

    path: Path | None
    entries: tuple[Entry, ...]
    files: tuple[str, ...]
    metadata: dict[str, dict[str, str]]
    maps: Maps
    others: tuple[Path, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    source: str = "safetensors"

    def stored(self, entry: Entry) -> Stored:
        """A view of the file, read-only, without a copy."""
        storage = storage_of(entry.dtype)
        if not entry.n_bytes:
            return np.empty(0, storage)
        count = entry.n_bytes // storage.itemsize
        return np.frombuffer(self.maps.get(entry.file), storage, count, entry.start)

    def assert_unchanged(self) -> None:
        """InputError where a file was written to since it was opened."""
        self.maps.assert_unchanged()

    def close(self) -> None:
        """Let go of the maps."""
        self.maps.close()


def open_safetensors(
    path: Path, shards: Mapping[str, Path], weight_map: Mapping[str, str]
) -> "SafetensorsCheckpoint | PackedCheckpoint":
    """The tensors of the files {name: path}, opened as `path`; of a packed file, the tensors that are packed in it.

    weight_map  {tensor: file name}, to agree with; {} for one file without an index
    """
    headers = {name: read_header(file) for name, file in shards.items()}
    if len(headers) == 1:
        header = next(iter(headers.values()))
        if _is_packed(header):
            from secateurs.checkpoint.packed_file import open_packed

            return open_packed(path, header)
    found: dict[str, str] = {}
    for name, header in headers.items():
        for entry in header.entries:
            if entry.name in found:
                raise InputError(
                    f"'{path}' holds {shown(entry.name)} twice, in '{found[entry.name]}' and '{name}'. Remove one."
                )
            found[entry.name] = name
    if weight_map:
        assert_agrees(path, weight_map, found)
    config = read_config(path if path.is_dir() else path.parent)
    return SafetensorsCheckpoint(
        path,
        described((entry for header in headers.values() for entry in header.entries), config),
        tuple(headers),
        {name: header.metadata for name, header in headers.items()},
        Maps({name: header.seen for name, header in headers.items()}),
    )


def _is_packed(header: Header) -> bool:
    """Whether a file is a packed one, of whatever version; a damaged one still says so somewhere."""
    return (
        header.metadata.get("format", "").startswith("secateurs.packed/")
        or header.seen.path.name.endswith(".packed.safetensors")
        or any(entry.name.startswith("secateurs.packed.") for entry in header.entries)
    )


def assert_agrees(path: Path, weight_map: Mapping[str, str], found: Mapping[str, str]) -> None:
    """InputError unless an index and its shards name the same tensors in the same files."""
    for tensor, name in weight_map.items():
        if found.get(tensor) != name:
            place = f"in '{found[tensor]}'" if tensor in found else "in none of its files"
            raise InputError(
                f"'{path}': its index says that {shown(tensor)} is in '{name}', and it is {place}. Download it again."
            )
    for tensor, name in found.items():
        if tensor not in weight_map:
            raise InputError(f"'{path}': {shown(tensor)} in '{name}' is not in its index. Download it again.")


def read_index(path: Path) -> dict[str, str]:
    """{tensor: file name} of an index; InputError unless all files are of the index's kind, in its directory."""
    value = read_json(path)
    found = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise InputError(f"'{path}' has no weight_map from tensors to files. Download it again.")
    kinds = (".safetensors",) if path.name.endswith(".safetensors.index.json") else TORCH_SUFFIXES
    kind = Path(next(iter(found.values()))).suffix
    for name in dict.fromkeys(found.values()):
        file = inside(path.parent, name, f"'{path}'")
        # A shard is written under its own name: it must not stand for the manifest, a hidden file or another kind.
        if file.suffix != kind or kind not in kinds or name.startswith("."):
            raise InputError(
                f"'{path}' names the file {shown(name)} for weights. Only files that all end in {' or '.join(kinds)} "
                "are read."
            )
        if not file.exists():
            raise InputError(f"'{path}' names the file '{name}', which is not there. Download it again.")
    return found


def inside(directory: Path, name: str, where: str) -> Path:
    """The file `name` of a directory; InputError for a name that could mean a file anywhere else."""
    if not name or name in (".", "..") or any(letter in name for letter in "/\\\0:") or name != name.strip():
        raise InputError(f"{where} names the file {shown(name)}. Only plain names in the same directory are read.")
    path = directory / name
    if not stays_inside(path, directory):
        raise InputError(
            f"{where} names the file '{name}', a link that leaves the directory. Put the file itself there, or give "
            "its own path."
        )
    return path
