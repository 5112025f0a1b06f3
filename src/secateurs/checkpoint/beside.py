"""Beside the weights: which other files of a checkpoint's directory belong to the pruned one, and which must not.

Carried over: configs, tokenizers, texts, and the further modules of sentence-transformers (`1_Pooling/`, `2_Dense/`)
with all they hold. Left: other copies of the weights, which would stay dense, the state of a training, hidden files,
and links that leave the directory.
"""

import os
import re
from pathlib import Path

from secateurs.checkpoint.plain_files import stays_inside, unreadable
from secateurs.errors import InputError

MAX_FILES = 10_000
MAX_DEPTH = 8

_WEIGHTS = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|h5|hdf5|keras|msgpack|ot|onnx|onnx_data|onnx\.data|gguf|ggml|tflite|pb|npz|npy"
    r"|mlmodel|engine|pkl|pickle|nemo|distcp|params|pdparams|t7|zip|tar|gz|xml)$|\.index\.json$|\.index\.fp32\.json$",
    re.IGNORECASE,
)
_FOLDERS = re.compile(r"^(onnx|openvino|coreml|original|metal|gguf|runs|checkpoint-.*|global_step.*)$", re.IGNORECASE)
_MODULE = re.compile(r"^[0-9]+_\w+$")  # of sentence-transformers
_OURS = {"secateurs.json"}


def beside(directory: Path, weights: set[str]) -> tuple[tuple[Path, ...], tuple[tuple[str, str], ...]]:
    """(files to carry over, (name, why) of what is left), both in order of their names.

    weights  the names of the shards, which are neither
    """
    others: list[Path] = []
    left: list[tuple[str, str]] = []
    _look(directory, directory, weights, others, left)
    return tuple(others), tuple(left)


def _look(
    folder: Path,
    home: Path,
    weights: set[str],
    others: list[Path],
    left: list[tuple[str, str]],
    is_module: bool = False,
) -> None:
    try:
        found = sorted(os.scandir(folder), key=lambda item: item.name)
    except OSError as error:
        raise unreadable(folder, error) from error
    for item in found:
        path = Path(item.path)
        name = str(path.relative_to(home))
        if name in weights:
            continue
        why = _why_left(item, path, home, is_module)
        if why:
            left.append((name, why))
        elif item.is_dir():
            _look(path, home, weights, others, left, is_module or bool(_MODULE.match(item.name)))
        else:
            others.append(path)
        if len(others) + len(left) > MAX_FILES:
            raise InputError(f"'{home}' has more than {MAX_FILES:,} files. Give a directory of one checkpoint.")


def _why_left(item: "os.DirEntry[str]", path: Path, home: Path, is_module: bool) -> str:
    try:
        is_folder, is_file = item.is_dir(), item.is_file()
    except OSError:
        is_folder = is_file = False
    if item.name.startswith("."):
        return "hidden"
    if not is_folder and not is_file:
        return "a broken link" if item.is_symlink() else "not a regular file"
    if item.is_symlink() and (is_folder or not stays_inside(path, home)):
        return "a link to another place"
    if item.name in _OURS:
        return "describes this directory; the new one gets its own"
    if is_folder and len(path.relative_to(home).parts) > MAX_DEPTH:
        return "too deep"
    if is_module:
        return ""
    if is_folder:
        return "other copies of the weights" if _FOLDERS.match(item.name) else ""
    return "weights or the state of a training in another file" if _WEIGHTS.search(item.name) else ""
