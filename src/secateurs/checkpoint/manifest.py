"""Manifest: secateurs.json, which says of a pruned directory what was asked, what became of each layer, and every
file's size and sha256. It is written last: a directory that has it is complete."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from secateurs import __version__
from secateurs.checkpoint.plain_files import unreadable
from secateurs.checkpoint.plan import Plan
from secateurs.checkpoint.shards import carried
from secateurs.checkpoint.tensors import Checkpoint

NAME = "secateurs.json"
FORMAT = "secateurs.pruned/1"


def fingerprint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tells one source from another: its files' sizes and times, and all that is known of each tensor.

    No file is read for it. A live network has none, so there the values themselves are hashed.
    """
    path = checkpoint.path
    home = path if path is not None and path.is_dir() else None if path is None else path.parent
    files = {}
    for name in checkpoint.files:
        assert home is not None
        files[name] = _about(home / name)
    tensors = hashlib.sha256(json.dumps([astuple(entry) for entry in checkpoint.entries]).encode())
    if checkpoint.source == "module":
        for entry in checkpoint.entries:
            tensors.update(checkpoint.stored(entry).data)
    return {"files": files, "tensors": tensors.hexdigest(), "others": fingerprint_of_others(checkpoint)}


def fingerprint_of_others(checkpoint: Checkpoint) -> str:
    """What tells the files that are carried over from others, and a directory from the one file in it."""
    path = checkpoint.path
    others = [[str(each.relative_to(path)), _about(each)] for each in carried(checkpoint) if path is not None]
    return hashlib.sha256(json.dumps([path is not None and path.is_dir(), others]).encode()).hexdigest()


def _about(path: Path) -> dict[str, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def request_of(checkpoint: Checkpoint, plan: Plan) -> dict[str, Any]:
    """What a run was asked to do; a run goes on only where this is the same."""
    return {"version": __version__, "recipe": plan.recipe.values(), "source": fingerprint(checkpoint)}


def make_manifest(
    request: Mapping[str, Any],
    path: Path | None,
    files: Mapping[str, Any],
    layers: list[dict[str, Any]],
    notes: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a finished request, with a checksum of itself.

    path  of the source, as it was given; it may lie elsewhere when the run goes on
    """
    cut = [layer for layer in layers if layer["status"] == "pruned"]
    totals = {
        "n": sum(layer["n"] for layer in layers),
        "n_prunable": sum(layer["n"] for layer in cut),
        "n_pruned": sum(layer["n_pruned"] for layer in cut),
        "n_zero_before": sum(layer["n_zero_before"] for layer in cut),
        "n_zero": sum(layer["n_zero"] for layer in cut),
    }
    source = {"path": "" if path is None else str(path), **request["source"]}
    found = {"format": FORMAT, **request, "source": source, "files": dict(files), "layers": layers, "totals": totals}
    found |= notes
    return {**found, "checksum": checksum(found)}


def checksum(manifest: Mapping[str, Any]) -> str:
    """sha256 of a manifest without its checksum, so that a changed byte in it is found too."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
