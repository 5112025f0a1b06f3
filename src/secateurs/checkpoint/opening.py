"""Opening: whatever holds weights becomes a Checkpoint: a file, a directory, a live network, a name on the hub.

    open_checkpoint("model.safetensors")   open_checkpoint("directory")   open_checkpoint("org/name")   ...(module)

In a directory: model.safetensors, else *.safetensors.index.json and its shards, else the only *.safetensors, else
pytorch_model.bin (or its index), else the only .pt, .pth, .bin or .onnx, else weights.packed.safetensors or the only
*.packed.safetensors. Nothing is read but headers.
To add a source: a line in `_open_files`, and its file names in _KINDS.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateurs.checkpoint.beside import beside
from secateurs.checkpoint.hub import fetched, is_hub_name
from secateurs.checkpoint.plain_files import stays_inside
from secateurs.checkpoint.sharded import TORCH_SUFFIXES, open_safetensors, read_index
from secateurs.checkpoint.tensors import Checkpoint
from secateurs.checks import shown
from secateurs.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from secateurs.checkpoint.onnx_file import OnnxCheckpoint
    from secateurs.checkpoint.packed_file import PackedCheckpoint
    from secateurs.checkpoint.sharded import SafetensorsCheckpoint
    from secateurs.checkpoint.torch_file import TorchCheckpoint

    FileCheckpoint = SafetensorsCheckpoint | PackedCheckpoint | TorchCheckpoint | OnnxCheckpoint

_KNOWN = ".safetensors, .pt, .pth, .bin or .onnx"
_INDEX = ".safetensors.index.json"
_TORCH_INDEX = "pytorch_model.bin.index.json"
_TRAINING_STATE = ("optimizer.", "scheduler.", "training_args.", "rng_state", "scaler.")


def open_checkpoint(source: "str | os.PathLike[str] | nn.Module") -> Checkpoint:
    """The tensors of a file, a directory, a live network or a model of the hub.

    InputError where there is none, it is of no known kind, or any part of it cannot be trusted.
    """
    if not isinstance(source, str | os.PathLike):
        from secateurs.checkpoint.live import open_module

        return open_module(source)
    path = Path(source)
    try:
        is_there, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(str(source))} cannot be a path: {error}. Check it.") from error
    if is_folder:
        return _open_directory(path)
    if is_there:
        return _open_files(path, {path.name: path}, {})
    if not os.path.lexists(path) and is_hub_name(str(source)):
        return _open_directory(fetched(str(source)))
    raise InputError(f"There is no file or directory {shown(str(source))}. Check the path.")


def _open_files(path: Path, shards: Mapping[str, Path], weight_map: Mapping[str, str]) -> "FileCheckpoint":
    """What the files {name: path} of one kind hold; the path that the user gave is `path`."""
    name = next(iter(shards))
    if name.endswith(".safetensors"):
        return open_safetensors(path, shards, weight_map)
    if name.endswith(TORCH_SUFFIXES):
        from secateurs.checkpoint.torch_file import open_torch

        return open_torch(path, shards, weight_map)
    if name.endswith(".onnx"):
        from secateurs.checkpoint.onnx_file import open_onnx

        return open_onnx(path, shards[name])
    if name.endswith(".index.json"):
        raise InputError(f"'{path}' is the index of a sharded checkpoint. Give its directory, '{path.parent}'.")
    raise InputError(f"'{path}' is of no known kind. Give a {_KNOWN} file, or the directory of one.")


def _open_directory(directory: Path) -> Checkpoint:
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except OSError as error:
        raise InputError(f"Cannot read '{directory}': {error.strerror or error}. Check the directory.") from error
    index = _index(directory, names)
    if index:
        weight_map = read_index(directory / index)
        shards = list(dict.fromkeys(weight_map.values()))
    else:
        weight_map, shards = {}, [_only_file(directory, names)]
    for name in (index, *shards):
        if name and not stays_inside(directory / name, directory):
            raise InputError(
                f"'{directory / name}' is a link that leaves the directory. Put the file itself there, or give its "
                "own path."
            )
    found = _open_files(directory, {name: directory / name for name in shards}, weight_map)
    others, left = beside(directory, {*found.files, *shards, index})
    return replace(found, others=((directory / index,) if index else ()) + others, left=left)


def _index(directory: Path, names: list[str]) -> str:
    """The index to follow, or "" where one file holds everything."""
    if "model.safetensors" in names:
        return ""
    found = [name for name in names if name.endswith(_INDEX)]
    if len(found) > 1 and "model.safetensors.index.json" not in found:
        raise InputError(f"'{directory}' has the indexes {', '.join(found)}. Give the directory of one checkpoint.")
    if found:
        return "model.safetensors.index.json" if "model.safetensors.index.json" in found else found[0]
    has_others = any(name.endswith(".safetensors") for name in names) or "pytorch_model.bin" in names
    return _TORCH_INDEX if _TORCH_INDEX in names and not has_others else ""


def _only_file(directory: Path, names: list[str]) -> str:
    """The one file that holds the weights."""
    for preferred, is_one in _KINDS:
        if preferred in names:
            return preferred
        found = [name for name in names if is_one(name)]
        if len(found) > 1:
            raise InputError(
                f"'{directory}' has {len(found)} files of weights and no index: {', '.join(found[:5])}"
                f"{', ...' if len(found) > 5 else ''}. Give the one that you mean."
            )
        if found:
            return found[0]
    raise InputError(f"'{directory}' has no weights. Give a directory with a {_KNOWN} file, or that file.")


_KINDS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("model.safetensors", lambda name: name.endswith(".safetensors") and not name.endswith(".packed.safetensors")),
    ("pytorch_model.bin", lambda name: name.endswith(TORCH_SUFFIXES) and not name.startswith(_TRAINING_STATE)),
    ("model.onnx", lambda name: name.endswith(".onnx")),
    ("weights.packed.safetensors", lambda name: name.endswith(".packed.safetensors")),
)
