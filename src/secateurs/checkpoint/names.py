"""Names: what the files beside a checkpoint and the names in it say about how its tensors are stored."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateurs.checkpoint.plain_files import read_json, stays_inside
from secateurs.checkpoint.tensors import Entry
from secateurs.errors import InputError

CONFIG_FILE = "config.json"

# The networks of transformers whose layers are pytorch_utils.Conv1D, which stores (in, out).
_CONV1D_MODELS = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder"}
_CONV1D = re.compile(r"(^|\.)(attn|crossattention|mlp)\.(c_attn|q_attn|c_proj|c_fc)\.weight$")
_SHARED = re.compile(r"^(model\.|transformer\.)?shared\.weight$")


def read_config(directory: Path) -> dict[str, Any]:
    """What config.json in `directory` says; {} where there is none or it is no config."""
    path = directory / CONFIG_FILE
    if not path.is_file() or not stays_inside(path, directory):
        return {}
    try:
        found = read_json(path)
    except InputError:
        return {}  # a note about the weights; they can be read without it
    return found if isinstance(found, dict) else {}


def described(entries: Iterable[Entry], config: Mapping[str, Any]) -> tuple[Entry, ...]:
    """The entries with what their network's config says: which are stored turned, which are embeddings.

    Without a config, the biases tell: the bias of a Conv1D is as long as its weight's second dimension.
    """
    found = tuple(entries)
    parts = list(_parts(config))
    kinds = {str(part.get("model_type")) for part in parts}
    is_turned = bool(kinds & _CONV1D_MODELS) if kinds - {"None"} else _biases_say_turned(found)
    has_shared = any(part.get("is_encoder_decoder") is True for part in parts)
    if not is_turned and not has_shared:
        return found
    return tuple(
        replace(
            entry,
            is_turned=is_turned and len(entry.shape) == 2 and any(_CONV1D.search(name) for name in entry.names),
            is_table=has_shared and any(_SHARED.search(name) for name in entry.names),
        )
        for entry in found
    )


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The config and the configs of the networks in it ("decoder", "text_config", ...)."""
    yield config
    for part in config.values():
        if isinstance(part, dict) and "model_type" in part:
            yield part


def _biases_say_turned(entries: tuple[Entry, ...]) -> bool:
    shapes = {name: entry.shape for entry in entries for name in entry.names}
    votes = set()
    for name, shape in shapes.items():
        bias = shapes.get(f"{name.removesuffix('weight')}bias", ())
        if _CONV1D.search(name) and len(shape) == 2 and shape[0] != shape[1] and len(bias) == 1:
            votes.add(bias[0] == shape[1])
    return votes == {True}
