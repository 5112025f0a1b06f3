"""Live networks: the parameters and persistent buffers of an nn.Module, each stored tensor once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from secateurs.checkpoint.dtypes import storage_of
from secateurs.checkpoint.tensors import Checkpoint, Entry, Stored
from secateurs.checkpoint.torch_file import TORCH_DTYPES
from secateurs.checks import shown
from secateurs.errors import InputError
from secateurs.layers import layers, owners_of, unwrap
from secateurs.layout import PLAIN, Layout

BUFFER = "a buffer, not a parameter"
_LAZY = (UninitializedParameter, UninitializedBuffer)


@dataclass(eq=False)
class ModuleCheckpoint(Checkpoint):
    """The tensors of a network in memory; the network stays usable, and what changes in it is seen here."""

    entries: tuple[Entry, ...]
    tensors: dict[str, Tensor]
    ignored: tuple[tuple[str, str], ...] = ()
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    path: Path | None = None
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    source: str = "module"

    def stored(self, entry: Entry) -> Stored:
        """The bits of one tensor: a view where they lie in order in the CPU's memory, else a copy of this one."""
        tensor = self.tensors[entry.name]
        if why := self.unreadable(entry):
            raise InputError(f"{shown(entry.name)} of this network cannot be read: {why}.")
        try:
            plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            found: Stored = plain.view(torch.uint8).numpy().view(storage_of(entry.dtype))
        except (RuntimeError, TypeError) as error:  # a subclass of Tensor that is no plain memory
            raise InputError(f"{shown(entry.name)} of this network cannot be read: {error}.") from error
        found.flags.writeable = False
        return found

    def unreadable(self, entry: Entry) -> str:
        """Why a tensor has no values in order, or ""."""
        return _no_values(self.tensors[entry.name])

    def close(self) -> None:
        """Nothing to let go of."""


def open_module(module: nn.Module) -> ModuleCheckpoint:
    """The parameters of a network in its order, then its persistent buffers."""
    owners = owners_of(module)
    has_any = next(module.parameters(), None) is not None
    found: dict[str, Tensor] = {}
    entries, ignored = [], []
    # `only=["*"]` leaves just the reasons that no request can change.
    for layer in layers(module, only=["*"] if has_any else ()):
        names = (layer.name, *layer.aliases)
        is_table = any(isinstance(owners.get(name), nn.Embedding | nn.EmbeddingBag) for name in names)
        entry = _entry(layer.name, layer.parameter, layer.reason, layer.aliases, layer.layout, is_table, is_weight=True)
        found[layer.name] = layer.parameter
        if entry is None:
            ignored.append((layer.name, f"of the dtype {layer.parameter.dtype}, which is not read"))
        else:
            entries.append(entry)
    for name, buffer in _buffers(module):
        entry = _entry(name, buffer, BUFFER)
        found[name] = buffer
        if entry is None:
            ignored.append((name, f"of the dtype {buffer.dtype}, which is not read"))
        else:
            entries.append(entry)
    return ModuleCheckpoint(tuple(entries), found, tuple(ignored))


def _entry(
    name: str,
    tensor: Tensor,
    unfit: str,
    aliases: tuple[str, ...] = (),
    layout: Layout = PLAIN,
    is_table: bool = False,
    is_weight: bool = False,
) -> Entry | None:
    dtype = TORCH_DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    shape = (0,) if isinstance(tensor, _LAZY) else tuple(tensor.shape)
    if dtype is None:
        return None
    return Entry(
        name,
        dtype,
        shape,
        aliases=aliases,
        is_turned=layout.is_turned,
        groups=layout.groups,
        is_table=is_table,
        unfit=unfit,
        is_weight=is_weight,
    )


def _no_values(tensor: Tensor) -> str:
    """Why a tensor has no values in order, or ""."""
    if isinstance(tensor, _LAZY):
        return "no values yet (lazy layer)"
    if tensor.is_meta:
        return "no values (meta device)"
    return "" if tensor.layout == torch.strided else f"not a strided tensor ({tensor.layout})"


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that a state_dict holds, each once."""
    seen: set[int] = set()
    for prefix, owner in unwrap(module).named_modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None and name not in owner._non_persistent_buffers_set and id(buffer) not in seen:
                seen.add(id(buffer))
                yield f"{prefix}.{name}".removeprefix(".").replace("_orig_mod.", ""), buffer
