"""Answers: what a network says to examples, how sure it is, and how long that takes; examples as people store them.

x = read_inputs("images.npy", config)        x = read_texts(["where is my card"], config, directory)
answers(network, x, batch_size=64)
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.data.images import Scaling, channels_first, standardise
from secateurs.data.texts import encode, pad
from secateurs.data.tokenizing import has_tokenizer, tokenize
from secateurs.errors import InputError
from secateurs.evaluating import evaluating
from secateurs.models.files import ModelConfig

N_TIMED = 5  # batches at least


@dataclass(frozen=True, eq=False)
class Answers:
    """The class of each example (n,), its probability (n,), and seconds per example: the median of the batches."""

    classes: Tensor
    probability: Tensor
    seconds: float


def answers(module: nn.Module, x: Tensor, batch_size: int) -> Answers:
    """Run the examples x (n, ...) through a network that gives logits (n, classes); InputError where there is none."""
    if not len(x):
        raise InputError("There are no examples to answer. Give at least one.")
    batches = torch.split(x, batch_size)
    found, seconds = [], []
    with evaluating(module), torch.inference_mode():
        module(batches[0])  # not counted: memory and caches are new to it
        for k in range(max(N_TIMED, len(batches))):
            batch = batches[k % len(batches)]
            start = time.perf_counter()
            logits = module(batch)
            took = time.perf_counter() - start
            if k < len(batches):
                found.append(logits.float().softmax(1).max(1))
            if len(batch) == len(batches[0]):  # the last may be smaller
                seconds.append(took / len(batch))
    return Answers(
        torch.cat([each.indices for each in found]), torch.cat([each.values for each in found]), median(seconds)
    )


def read_inputs(path: str | os.PathLike[str], config: ModelConfig) -> Tensor:
    """The examples of an .npy file: pixels as in the data, scaled here as the network learned to read them; or ids.

    Images (n, height, width), with their 1 or 3 channels before or after, or one image alone; token ids (n, length).
    InputError where they do not fit the network.
    """
    where, shape = Path(path), config.shape
    try:
        array = np.load(where, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"Cannot read '{where}' as an .npy file of numbers: {error}.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif":
        raise InputError(f"'{where}' holds no array of numbers. Save one with numpy.save.")
    if not array.size:
        raise InputError(f"'{where}' holds no examples. Give at least one.")
    if shape.kind == "tokens":
        return _ids(array, where, config)
    array = array[None] if array.ndim == 2 or (array.ndim == 3 and array.shape == shape.size) else array
    array = channels_first(array, f"'{where}'")
    if array.shape[1:] != shape.size:
        raise InputError(f"'{where}' holds images of {_sizes(array.shape[1:])}; the network reads {shape}.")
    if not np.isfinite(array).all():
        raise InputError(f"'{where}' contains NaN or infinite pixels. Clean it first.")
    scaling = config.about.get("scaling")
    if not scaling:
        return torch.from_numpy(np.array(array, np.float32))
    return standardise(array, Scaling(scaling["divisor"], tuple(scaling["mean"]), tuple(scaling["std"])))


def read_texts(texts: Sequence[str], config: ModelConfig, directory: Path) -> Tensor:
    """Texts as ids: by the tokenizer beside the network, else by the vocabulary in its config; InputError without."""
    words = config.about.get("vocabulary")
    if config.shape.kind == "tokens" and has_tokenizer(directory):
        return tokenize([texts], str(directory), config.shape.size[1])[0][0]
    if config.shape.kind != "tokens" or not words:
        what = "carries no vocabulary" if config.shape.kind == "tokens" else f"reads {config.shape}"
        raise InputError(f"The network {what}, so it cannot read a text. Give its inputs as an .npy file.")
    rows = encode(texts, words, config.shape.size[1])
    return pad(rows, max(1, max(map(len, rows), default=1)))


def _ids(array: Any, where: Path, config: ModelConfig) -> Tensor:
    n_words, longest = config.shape.size
    array = array[None] if array.ndim == 1 else array
    if array.dtype.kind == "f" or array.ndim != 2 or not 1 <= array.shape[1] <= longest:
        raise InputError(
            f"'{where}' holds {array.dtype} of shape {array.shape}; the network reads token ids (n, length), whole "
            f"numbers, at most {longest} of them."
        )
    if not 0 <= array.min() <= array.max() < n_words:
        raise InputError(
            f"'{where}' holds ids from {array.min()} to {array.max()}; the network knows 0 to {n_words - 1}."
        )
    return torch.from_numpy(np.array(array, np.int64))


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
