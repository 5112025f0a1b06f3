"""Prepared: what every contender of one network reads, made once, in a folder: inputs, right answers, ONNX, examples.

inputs-K.npz, answer-K.npy     of size K: the inputs by name, and what torch fp32 says to them
model.onnx, model.int8.onnx    exported by torch, and quantized by ONNX Runtime
x_test.npy, y_test.npy         test examples, where the accuracy is asked for
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.checkpoint.opening import open_checkpoint
from secateurs.data import DataSpec
from secateurs.errors import InputError, RecipeError
from secateurs.exporting import cause_of, quantize_onnx, write_onnx
from secateurs.layers import layers
from secateurs.measure.drop import read_as
from secateurs.structure.opening import Opened, open_network

BATCHES, TOKENS = (1, 8, 64), (1, 16, 128)  # of images; of texts, one at a time

Size = tuple[int, int | None]  # examples, and tokens of each where that can be chosen


class Answering(nn.Module):
    """A network that takes its inputs in order and answers with one tensor: its first, which is logits or features."""

    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self.inside = opened.module
        self.names = tuple(named(opened.inputs(1, 1))) if opened.reference is None else ()
        config: Any = getattr(self.inside, "config", None)
        if hasattr(config, "use_cache"):
            config.use_cache = False  # no one reads it here, and not every runtime can return it

    def forward(self, *inputs: Tensor) -> Tensor:
        found = self.inside(**dict(zip(self.names, inputs, strict=True))) if self.names else self.inside(*inputs)
        out: Tensor = found if isinstance(found, Tensor) else found[0]
        return out


def named(inputs: Any) -> dict[str, Tensor]:
    """Example inputs by name."""
    return dict(inputs) if isinstance(inputs, dict) else {"input": inputs}


def sizes_of(opened: Opened, path: str, batches: Sequence[int], tokens: Sequence[int]) -> list[Size]:
    """What is run: each batch, for texts with each number of tokens; RecipeError for what it cannot read."""
    if opened.longest is None:
        if tokens:
            raise RecipeError(f"'{path}' reads images: leave --tokens out.")
        return [(batch, None) for batch in batches or BATCHES]
    if too_long := [n for n in tokens if n > opened.longest]:
        raise RecipeError(f"'{path}' reads at most {opened.longest:,} tokens; got --tokens {too_long[0]}.")
    chosen = tokens or sorted({min(n, opened.longest) for n in TOKENS})
    return [(batch, n) for batch in batches or (1,) for n in chosen]


def prepare(
    path: str,
    folder: str,
    batches: Sequence[int],
    tokens: Sequence[int],
    data: dict[str, Any] | None,
    onnx: Sequence[str],
    threads: int,
) -> dict[str, Any]:
    """Write the files, and say what the network is. InputError where it cannot be run.

    onnx  which of model.onnx and model.int8.onnx are needed
    """
    torch.set_num_threads(threads)
    opened, place = open_network(Path(path)), Path(folder)
    network = Answering(opened).float().eval()
    sizes, shapes, inputs = sizes_of(opened, path, batches, tokens), [], {}
    for k, (batch, n_tokens) in enumerate(sizes):
        inputs = named(opened.inputs(batch, n_tokens))
        np.savez(place / f"inputs-{k}.npz", **{name: tensor.numpy() for name, tensor in inputs.items()})  # type: ignore[arg-type]
        shapes.append({name: [*tensor.shape, str(tensor.dtype)] for name, tensor in inputs.items()})
        try:
            with torch.inference_mode():
                answer = network(*inputs.values())
        except Exception as error:
            raise InputError(f"'{path}' cannot be run on {shapes[-1]}: {type(error).__name__}: {error}") from error
        np.save(place / f"answer-{k}.npy", answer.numpy())
    prunable = [layer for layer in layers(opened.module) if layer.is_prunable]
    return {
        "sizes": sizes,
        "shapes": shapes,
        "n_parameters": sum(parameter.numel() for parameter in opened.module.parameters()),
        "n_prunable": sum(layer.n for layer in prunable),
        "n_zero": sum(layer.n - int(layer.parameter.count_nonzero()) for layer in prunable),
        "size_bytes": _size_bytes(path),
        "n_test": _examples(opened, path, place, data) if data is not None else None,
        "why_no_onnx": _export(network, opened, place, onnx),
    }


def _size_bytes(path: str) -> int:
    """Of the files that hold the weights."""
    with open_checkpoint(path) as checkpoint:
        home = Path(path) if Path(path).is_dir() else Path(path).parent
        return sum((home / name).stat().st_size for name in checkpoint.files)


def _examples(opened: Opened, path: str, place: Path, data: dict[str, Any]) -> int:
    if opened.reference is None:
        raise InputError(
            f"'{path}' is a network of transformers, for which data are not read here: leave --data out, and measure "
            "its accuracy with its own tools."
        )
    found = read_as(opened.reference, DataSpec(**data), Path(path))
    np.save(place / "x_test.npy", found.x_test.numpy())
    np.save(place / "y_test.npy", found.y_test.numpy())
    return len(found.y_test)


def _export(network: nn.Module, opened: Opened, place: Path, files: Sequence[str]) -> dict[str, str]:
    """{file: why there is none} of the files that could not be made."""
    if not files:
        return {}
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        return dict.fromkeys(files, f"torch exports with {missing[0]}, which is not installed: {PIP}")
    whole = place / "model.onnx"
    try:
        write_onnx(network, named(opened.example_inputs), whole)
    except Exception as error:
        return dict.fromkeys(files, f"torch.onnx.export: {cause_of(error)}")
    if "model.int8.onnx" not in files:
        return {}
    try:
        quantize_onnx(whole, place / "model.int8.onnx", is_per_row=False)
    except InputError as error:
        return {"model.int8.onnx": f"onnxruntime.quantization: {error}"}
    except Exception as error:
        return {"model.int8.onnx": f"onnxruntime.quantization: {cause_of(error)}"}
    return {}


PIP = "pip install 'secateurs[onnx]'"
