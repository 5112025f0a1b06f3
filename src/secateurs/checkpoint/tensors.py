"""Tensors: the one interface of every source of weights: what is in it, and the bits of one tensor at a time.

    with open_checkpoint("model.safetensors") as checkpoint:
        for entry in checkpoint.entries:
            bits = checkpoint.stored(entry)

To add a source: a final class with these attributes, and a line in opening.py.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from secateurs.checkpoint.dtypes import BITS
from secateurs.errors import OutputError

Stored = np.ndarray[Any, Any]  # one dimension of uint8, uint16, uint32 or uint64


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored tensor.

    dtype      as safetensors writes it: "BF16"
    file       the base name of its shard; "" where the source has no files per tensor
    start      where its bytes begin in that file
    aliases    the other names of the same tensor
    is_turned  stored (in, out / groups, ...) instead of (out, in / groups, ...)
    groups     of a transposed convolution; 1 where it is not known
    is_table   known to be an embedding by more than its name: its layer's type, or the config beside the file
    unfit      why it cannot be pruned whatever is asked, beyond what dtype and shape say; "" almost always
    is_weight  known to be a parameter, whatever its name says of buffers
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str = ""
    start: int = 0
    aliases: tuple[str, ...] = ()
    is_turned: bool = False
    groups: int = 1
    is_table: bool = False
    unfit: str = ""
    is_weight: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All of its names."""
        return (self.name, *self.aliases)

    @property
    def n(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """How many bytes they take."""
        return self.n * BITS[self.dtype] // 8


class Checkpoint:
    """Interface: the tensors of one source, each stored one once, in the order of the source.

    path      what was opened; None for a live network
    source    "safetensors", "packed", "torch", "onnx" or "module"
    files     base names of the shards; () where a tensor has no file
    metadata  {file: its __metadata__}
    others    the other files of the directory, to be carried over, the shards' index included: paths inside `path`
              (open them to follow the links of the hub's cache; keep their place relative to `path`)
    left      (name, why) of what is in the directory and must not be carried over
    ignored   (name, what it is) of what the source holds beside tensors
    notes     what was decided on opening, in sentences
    """

    path: Path | None
    source: str
    entries: tuple[Entry, ...]
    files: tuple[str, ...]
    metadata: dict[str, dict[str, str]]
    others: tuple[Path, ...]
    left: tuple[tuple[str, str], ...]
    ignored: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def stored(self, entry: Entry) -> Stored:
        """The bits of one tensor in C order: (n,) of the unsigned integers of its item size.

        Read-only, and a view of the source wherever the source allows: a memory map of the file for safetensors,
        which need not be aligned to the item size. For dtypes smaller than a byte: their bytes.
        InputError where it cannot be read.
        """
        raise NotImplementedError

    def unreadable(self, entry: Entry) -> str:
        """Why a tensor has no bits to read, or "", known without reading."""
        return ""

    def assert_apart(self, path: Path) -> None:
        """OutputError where writing the file `path` would change what is read."""
        if self.path is None or not path.exists():
            return
        home = self.path if self.path.is_dir() else self.path.parent
        ours = (*(home / name for name in (*self.files, self.path.name)), *self.others)
        if any(each.exists() and path.samefile(each) for each in ours):
            raise OutputError(f"{path} is the source itself, and inputs are never modified. Name another file.")

    def assert_unchanged(self) -> None:
        """InputError where a file of the source was written to since it was opened; a live network has none."""

    def close(self) -> None:
        """Let go of the files; arrays already handed out stay readable."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
