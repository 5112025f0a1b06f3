"""Dataset: three splits as tensors, and everything that says what they are."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from secateurs.data.images import Scaling
from secateurs.data.shape import InputShape
from secateurs.data.texts import SPECIAL

MOST_ABOUT = 1 << 19  # bytes of words in a config, which is read as a whole


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images float32 (n, channels, height, width), standardised; or token ids int64 (n, length), padded with 0.

    source      one sentence for results: where the data come from, licence if known, what was carved
    y_...       int64 (n,), positions in class_names
    scaling     how pixels were standardised; None for text
    vocabulary  word of every id; None for images
    unknown     id of every word that the vocabulary lacks; None for images
    """

    name: str
    source: str
    shape: InputShape
    class_names: tuple[str, ...]
    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor
    y_test: Tensor
    scaling: Scaling | None = None
    vocabulary: tuple[str, ...] | None = None
    unknown: int | None = None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the six arrays, with their names, types and shapes; computed when first asked for."""
        digest = hashlib.sha256()
        for name in ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"):
            array = getattr(self, name).cpu().contiguous().numpy()
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data)
        return digest.hexdigest()

    @property
    def about(self) -> dict[str, Any]:
        """What a saved network needs to read new examples, and to name its answers; JSON-able.

        Left out are names or a vocabulary of more than half a megabyte, and the tokens of a published tokenizer: that
        is saved beside the network.
        """
        vocabulary = list(self.vocabulary or ())
        words = {
            "class_names": list(self.class_names),
            "vocabulary": vocabulary if tuple(vocabulary[: len(SPECIAL)]) == SPECIAL else None,
        }
        kept = {key: each for key, each in words.items() if each and len(json.dumps(each)) <= MOST_ABOUT}
        return {"data": self.name, "scaling": asdict(self.scaling) if self.scaling else None, **kept}
