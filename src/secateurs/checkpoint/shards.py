"""Shards: the safetensors files that a pruned checkpoint is written into, laid out before anything is written.

A safetensors source keeps its files, their names and headers byte for byte; anything else becomes model.safetensors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secateurs.checkpoint.dtypes import BITS, DTYPES
from secateurs.checkpoint.safetensors_file import METADATA
from secateurs.checkpoint.tensors import Checkpoint, Entry
from secateurs.checks import shown
from secateurs.errors import InputError

INDEX = "model.safetensors.index.json"
_ALIGN = 8


@dataclass(frozen=True)
class Shard:
    """One file: its header's bytes, then its tensors in this order, without gaps."""

    name: str
    header: bytes
    entries: tuple[Entry, ...]

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(entry.n_bytes for entry in self.entries)


def shards_of(checkpoint: Checkpoint) -> tuple[Shard, ...]:
    """The files of the pruned checkpoint, in the source's order; InputError for what safetensors cannot hold."""
    by_file: dict[str, list[Entry]] = {name: [] for name in checkpoint.files or ("",)}
    for entry in checkpoint.entries:
        by_file[entry.file if checkpoint.files else ""].append(entry)
    if checkpoint.source == "safetensors":
        home = _home(checkpoint)
        return tuple(
            Shard(name, _header_of(home / name), tuple(sorted(entries, key=lambda entry: (entry.start, entry.n_bytes))))
            for name, entries in by_file.items()
        )
    assert_holds(checkpoint)
    names = _names(len(by_file))
    about = next(iter(checkpoint.metadata.values()), {})
    return tuple(_made(name, entries, about) for name, entries in zip(names, by_file.values(), strict=True))


def index_of(checkpoint: Checkpoint, shards: tuple[Shard, ...]) -> bytes:
    """The index that says which shard holds what; b"" where the source's own is carried or none is due."""
    if checkpoint.source == "safetensors" or len(shards) == 1:
        return b""
    places = {entry.name: shard.name for shard in shards for entry in shard.entries}
    total = sum(entry.n_bytes for shard in shards for entry in shard.entries)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2).encode() + b"\n"


def carried(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """The source's other files that are true of the pruned one too: all but an index of files of another kind."""
    is_same = checkpoint.source == "safetensors"
    return tuple(path for path in checkpoint.others if is_same or not path.name.endswith(".index.json"))


def _home(checkpoint: Checkpoint) -> Path:
    assert checkpoint.path is not None
    return checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent


def _header_of(path: Path) -> bytes:
    """The bytes before the first tensor, already known to be sound."""
    try:
        with path.open("rb") as file:
            size = file.read(8)
            return size + file.read(int.from_bytes(size, "little"))
    except OSError as error:
        raise InputError(f"Cannot read '{path}': {error.strerror or error}.") from error


def assert_holds(checkpoint: Checkpoint) -> None:
    """InputError unless every tensor can be read, and safetensors has its dtype and can write its names."""
    where = f"'{checkpoint.path}': " if checkpoint.path is not None else ""
    for entry in checkpoint.entries:
        if why := checkpoint.unreadable(entry):
            raise InputError(f"{where}{shown(entry.name)} cannot be read: {why}. Leave it out of the source.")
        if entry.dtype not in DTYPES:
            raise InputError(
                f"{where}{shown(entry.name)} is {entry.dtype}, which safetensors does not have. Leave it out."
            )
        for name in entry.names:
            if name == METADATA:
                raise InputError(f"{where}{shown(name)} is a name that safetensors keeps for itself. Rename it.")
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{where}{shown(name)} is a name that is no text ({error.reason}). Rename it."
                ) from error


def _names(n: int) -> list[str]:
    if n == 1:
        return ["model.safetensors"]
    return [f"model-{i:05}-of-{n:05}.safetensors" for i in range(1, n + 1)]


def _made(name: str, entries: list[Entry], metadata: Mapping[str, str]) -> Shard:
    """A file for these tensors; a tied one is written once, its other names stand in the metadata as safetensors' own
    `save_model` writes them, for its `load_model`."""
    # Widest first, so that every tensor is aligned.
    ordered = sorted(entries, key=lambda entry: (-BITS[entry.dtype], entry.name))
    about: dict[str, object] = {
        "__metadata__": {
            "format": "pt",
            **metadata,
            **{alias: entry.name for entry in ordered for alias in entry.aliases},
        }
    }
    at = 0
    for entry in ordered:
        about[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.n_bytes],
        }
        at += entry.n_bytes
    text = json.dumps(about, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGN)
    return Shard(name, len(text).to_bytes(8, "little") + text, tuple(ordered))
