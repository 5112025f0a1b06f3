"""Packed directories: plain weights for stock loaders, the same weights packed beside them, one manifest for both.

receipt = pack_beside("pruned/", "small/", values="int8")

small/model.safetensors             dense: what the packed file decodes to, bit for bit
small/weights.packed.safetensors    small
small/config.json, tokenizer, ...   carried over where the source is a directory
small/secateurs.json                the manifest, written last: a directory that has it is complete
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateurs import __version__
from secateurs.checkpoint import manifest
from secateurs.checkpoint.cutting import n_zeros
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.packing import Progress, pack, unpack, values_of
from secateurs.checkpoint.plain_files import read_json, unreadable
from secateurs.checkpoint.receipt import Receipt
from secateurs.checkpoint.shards import carried
from secateurs.checkpoint.streamed import WORK, refusing
from secateurs.checkpoint.tensors import Checkpoint, Entry
from secateurs.durable import make_directory, sync_directory, write_bytes, write_json, write_pieces
from secateurs.errors import InputError, OutputError
from secateurs.exact.kinds import KINDS
from secateurs.locks import held

if TYPE_CHECKING:
    from torch import nn

PLAIN, PACKED = "model.safetensors", "weights.packed.safetensors"
MARK = "packing"  # in WORK: the request whose run wrote what stands here, and did not end


def pack_beside(
    source: "str | os.PathLike[str] | nn.Module",
    out: str | os.PathLike[str],
    values: str | Mapping[str, str] = "exact",
    *,
    smallest: bool = False,
    zstd: int | None = None,
    progress: Progress | None = None,
) -> Receipt:
    """Write the directory `out` with the weights of `source` twice: packed, as `pack` does, and plain.

    Both hold the same bits: with values other than exact the plain weights are what became of them. `verify(out)`
    checks both and that they agree. A run that was ended starts anew with the same call, to the same bytes.

    OutputError where `out` holds anything else, also of another request, and what `pack` raises.
    """
    place = Path(out)
    with open_checkpoint(source) as checkpoint, _alone(place, checkpoint, _request(checkpoint, values, smallest)):
        receipt = pack(source, place / PACKED, values, smallest=smallest, zstd=zstd, progress=progress)
        unpack(place / PACKED, place / PLAIN)
        names = [PACKED, PLAIN]
        for path in carried(checkpoint):
            assert checkpoint.path is not None
            if not path.name.endswith(".index.json"):  # of shards that are one file now
                name = path.relative_to(checkpoint.path)
                make_directory((place / name).parent)
                write_pieces(place / name, _read(path))
                names.append(str(name))
        checkpoint.assert_unchanged()
        files = {name: _about(place / name) for name in names}
        write_json(place / manifest.NAME, _manifest(checkpoint, place, files, receipt))
    return receipt


def _request(checkpoint: Checkpoint, values: str | Mapping[str, str], smallest: bool) -> bytes:
    """What a run was asked to do; an unfinished directory is only written by the same."""
    chosen = {name: str(each) for name, each in values_of(checkpoint, values).items()}
    found = {"source": manifest.fingerprint(checkpoint), "values": chosen, "smallest": smallest}
    return json.dumps({"version": __version__, **found}, indent=1).encode()


@contextmanager
def _alone(place: Path, checkpoint: Checkpoint, request: bytes) -> Iterator[None]:
    """Hold a directory that is new, empty or of a run that was ended; where nothing was written, leave it as it was."""
    with refusing(place):
        _assert_apart(place, checkpoint)
        work, is_new = place / WORK, not place.exists()
        make_directory(place)
        _assert_ours(place, request)
        make_directory(work)
    with held(work / "lock", of=place):
        with refusing(place):
            _assert_ours(place, request)  # another run may have ended between our look and our lock
            write_bytes(work / MARK, request)
            _clear(place)
        try:
            yield
        except BaseException:
            if [item.name for item in place.iterdir()] == [WORK]:
                with suppress(OSError):
                    shutil.rmtree(work)
                    if is_new:
                        place.rmdir()
            raise
        shutil.rmtree(work, ignore_errors=True)
    sync_directory(place)


def _assert_ours(place: Path, request: bytes) -> None:
    """OutputError unless a directory is empty or of an unfinished run of this request."""
    mark = place / WORK / MARK
    if mark.is_file():
        if mark.read_bytes() != request:
            raise OutputError(
                f"{place} holds an unfinished run of another request, or its source has changed since. Name a new "
                "directory, or delete this one."
            )
    elif any(item.name != WORK for item in place.iterdir()):
        raise OutputError(f"{place} is not empty and holds no unfinished run. Name a new directory.")


def _clear(place: Path) -> None:
    """Remove what an unfinished run wrote, the manifest first: a directory that has one is complete."""
    (place / manifest.NAME).unlink(missing_ok=True)
    for item in place.iterdir():
        if item.is_dir() and not item.is_symlink():
            if item.name != WORK:
                shutil.rmtree(item)
        else:
            item.unlink()


def _assert_apart(place: Path, checkpoint: Checkpoint) -> None:
    """OutputError where `place` is a file, or the source's own directory, or inside it."""
    if place.exists() and not place.is_dir():
        raise OutputError(f"{place} is a file; name a directory for the plain and the packed weights.")
    path = checkpoint.path
    if path is not None:
        home, real = (path if path.is_dir() else path.parent).resolve(), place.resolve()
        if real == home or (path.is_dir() and home in real.parents):
            raise OutputError(
                f"{place} is where the source lies, and inputs are never modified. Name another directory."
            )


def _manifest(checkpoint: Checkpoint, place: Path, files: Mapping[str, Any], receipt: Receipt) -> dict[str, Any]:
    """As `prune` writes it; with the recipe and the layers of the source's own, where it has one."""
    before = _manifest_of(checkpoint)
    layers = {layer.get("name"): layer for layer in before.get("layers", []) if isinstance(layer, dict)}
    with open_checkpoint(place / PLAIN) as plain:
        written = {name: entry for entry in plain.entries for name in entry.names}
        found = []
        for entry in checkpoint.entries:
            kind = KINDS.get(entry.dtype)
            n_zero = n_zeros(plain.stored(written[entry.name]), kind) if kind is not None else 0
            found.append(_layer(entry, n_zero, layers.get(entry.name, {})))
    recipe = before.get("recipe")
    request = {"version": __version__, "recipe": recipe, "source": manifest.fingerprint(checkpoint)}
    notes = {
        "left": [list(each) for each in checkpoint.left],
        "ignored": [list(each) for each in checkpoint.ignored],
        "notes": list(checkpoint.notes),
        "packed": {"file": PACKED, "values": {line.name: line.values for line in receipt.lines}},
    }
    return manifest.make_manifest(request, checkpoint.path, files, found, notes)


def _manifest_of(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.path
    if path is None or not (path / manifest.NAME).is_file():
        return {}
    found = read_json(path / manifest.NAME)
    if not isinstance(found, dict) or found.get("checksum") != manifest.checksum(found):
        raise InputError(f"'{path / manifest.NAME}' is damaged or was changed. Restore it, or prune again.")
    return found


def _layer(entry: Entry, n_zero: int, before: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of a tensor: what the source's does, but the zeros are those that were written."""
    return {
        "name": entry.name,
        "shape": list(entry.shape),
        "dtype": entry.dtype,
        "n": entry.n,
        "n_pruned": 0,
        "n_zero_before": n_zero,
        "status": "skipped",
        "reason": "packed as it was",
        "aliases": list(entry.aliases),
        "tau": None,
        "sigma": None,
        "is_turned": entry.is_turned,
        "groups": entry.groups,
        **before,
        "n_zero": n_zero,
    }


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                yield data
    except OSError as error:
        raise unreadable(path, error) from error


def _about(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
