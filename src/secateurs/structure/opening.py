"""Opening: the network of a path, live, with inputs to run it on: one of ours, or one of transformers.

    open_network(path) -> Opened(module, reference); .inputs(batch, tokens), .example_inputs

A path is a directory with config.json and weights, one that `save_shrunk`, `compress` or `train` wrote, or a file of
weights (a packed one, too) beside its config.json. What a directory of transformers is built from is the class that its
config.json names, which must be one of the installed library: no code of the directory runs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from secateurs.checkpoint.packing import load
from secateurs.checks import extra, first_line
from secateurs.data.shape import InputShape
from secateurs.errors import InputError
from secateurs.models.files import (
    CONFIG_FILE,
    SCHEMA,
    ModelConfig,
    build_again,
    config_of,
    fill,
    load_model,
    network_directory,
    weights_file,
)
from secateurs.structure.files import ABOUT_FILE, load_shrunk, shrunk_config

BATCH, TOKENS = 2, 16
SIDE = 224  # of an image, where a configuration has no size for it


@dataclass(frozen=True, eq=False)
class Opened:
    """A network, and, where it is one of ours, how it is built."""

    module: nn.Module
    reference: ModelConfig | None

    @property
    def example_inputs(self) -> Any:
        """A small batch of inputs."""
        return self.inputs(BATCH)

    @property
    def longest(self) -> int | None:
        """The most tokens that it reads; None where it reads images."""
        if self.reference is not None:
            return self.reference.shape.size[1] if self.reference.shape.kind == "tokens" else None
        module: Any = self.module
        if module.main_input_name == "input_ids":
            return int(_said(module.config, "text_config", "max_position_embeddings") or 1 << 20)
        return None

    def inputs(self, batch: int, tokens: int | None = None) -> Any:
        """Random images or token ids, the same every time: a tensor, or {name: tensor} for one of transformers.

        tokens  of each text; by default 16, or, for one of ours, the most that it reads

        InputError where it takes something else.
        """
        generator = torch.Generator().manual_seed(0)
        if self.reference is not None:
            return _inputs(self.reference.shape, batch, tokens, generator)
        return _stock_inputs(self.module, batch, tokens, generator)


def open_network(path: Path) -> Opened:
    """The network of a path; InputError where there is none, MissingExtraError without transformers."""
    if not path.exists():
        raise InputError(f"There is no file or directory '{path}'. Check the path.")
    if path.is_dir():
        path = place_of(path)
    if (path / ABOUT_FILE).is_file():
        return Opened(load_shrunk(path), shrunk_config(path).reference)
    folder = path if path.is_dir() else path.parent
    if _config(folder).get("schema") == SCHEMA:
        return _ours(path, folder)
    found = stock_class(folder)
    tensors = None if path.is_dir() else load(path)
    try:
        if tensors is None:
            return Opened(found.from_pretrained(path, local_files_only=True).eval(), None)
        config = found.config_class.from_pretrained(folder, local_files_only=True)
        return Opened(found.from_pretrained(None, config=config, state_dict=tensors).eval(), None)
    except (OSError, SafetensorError) as error:
        raise InputError(f"transformers cannot open '{path}': {first_line(error)}") from error


def place_of(path: Path) -> Path:
    """The directory in which the config of a network, or of a file of weights, lies."""
    return network_directory(path, (CONFIG_FILE, ABOUT_FILE)) if path.is_dir() else path.parent


def stock_class(directory: Path) -> Any:
    """The class of transformers that a config.json names; None where the network is one of ours."""
    config = _config(directory)
    if config.get("schema") == SCHEMA:
        return None
    transformers: Any = extra("transformers", "hf")
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    found: Any = getattr(transformers, str(name), None)
    is_network = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if not is_network:
        raise InputError(
            f"'{directory / CONFIG_FILE}' names the architecture {name!r}, which the installed transformers lacks."
        )
    return found


def _config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / CONFIG_FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{directory}' has no readable {CONFIG_FILE}: {error}. Give the directory of a network that save_model, "
            "or save_pretrained of transformers, wrote."
        ) from error
    return config if isinstance(config, dict) else {}


def _ours(path: Path, folder: Path) -> Opened:
    if path.is_dir() and weights_file(path).is_file():
        return Opened(*load_model(path))
    about = config_of(folder)
    network = build_again(about)
    fill(network, load(path), path)
    return Opened(network.eval(), about)


def _inputs(shape: InputShape, batch: int, tokens: int | None, generator: torch.Generator) -> torch.Tensor:
    if shape.kind == "image":
        return torch.randn(batch, *shape.size, generator=generator)
    return torch.randint(1, shape.size[0], (batch, tokens or shape.size[1]), generator=generator)


def _stock_inputs(module: Any, batch: int, tokens: int | None, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """By what the network says it takes first."""
    config = module.config
    if module.main_input_name == "pixel_values":
        side = _said(config, "vision_config", "image_size") or SIDE
        height, width = side if isinstance(side, list | tuple) else (side, side)
        n_channels = _said(config, "vision_config", "num_channels") or 3
        return {"pixel_values": torch.randn(batch, n_channels, height, width, generator=generator)}
    n_words = _said(config, "text_config", "vocab_size")
    if module.main_input_name != "input_ids" or n_words is None:
        raise InputError(
            f"{type(module).__name__} takes {module.main_input_name!r}, for which no example can be made here. Use "
            "secateurs.shrink in Python with example inputs of your own."
        )
    n = tokens or min(TOKENS, _said(config, "text_config", "max_position_embeddings") or TOKENS)
    return {"input_ids": torch.randint(1, n_words, (batch, n), generator=generator)}


def _said(config: Any, part: str, name: str) -> Any:
    """What a configuration says, itself or in its part for texts or images; None where neither does."""
    return getattr(config, name, None) or getattr(getattr(config, part, None), name, None)
