"""Opening: the network of a directory, live, with inputs to run it on: one of ours, or one of transformers.

    open_network(directory) -> Opened(module, example_inputs, reference)

What a directory of transformers is built from is the class that its config.json names, which must be one of the
installed library: no code of the directory runs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateurs.checks import extra
from secateurs.data.shape import InputShape
from secateurs.errors import InputError
from secateurs.models.files import CONFIG_FILE, SCHEMA, ModelConfig, load_model

BATCH, TOKENS = 2, 16


@dataclass(frozen=True, eq=False)
class Opened:
    """A network, inputs of its shape (random numbers), and, where it is one of ours, how it is built."""

    module: nn.Module
    example_inputs: Any
    reference: ModelConfig | None


def open_network(directory: Path) -> Opened:
    """The network in a directory; InputError where there is none, MissingExtraError without transformers."""
    try:
        config = json.loads((directory / CONFIG_FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{directory}' has no readable {CONFIG_FILE}: {error}. Give the directory of a network that save_model, "
            "or save_pretrained of transformers, wrote."
        ) from error
    if isinstance(config, dict) and config.get("schema") == SCHEMA:
        network, about = load_model(directory)
        return Opened(network, _inputs(about.shape), about)
    transformers: Any = extra("transformers", "hf")
    names = config.get("architectures") if isinstance(config, dict) else None
    name = names[0] if isinstance(names, list) and names else None
    found: Any = getattr(transformers, str(name), None)
    is_network = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if not is_network:
        raise InputError(
            f"'{directory / CONFIG_FILE}' names the architecture {name!r}, which the installed transformers lacks."
        )
    module: Any = found.from_pretrained(directory, local_files_only=True).eval()
    return Opened(module, _stock_inputs(module), None)


def _inputs(shape: InputShape) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if shape.kind == "image":
        return torch.randn(BATCH, *shape.size, generator=generator)
    return torch.randint(1, shape.size[0], (BATCH, shape.size[1]), generator=generator)


def _stock_inputs(module: Any) -> dict[str, torch.Tensor]:
    """Random images or token ids, by what the network says it takes first."""
    config, generator = module.config, torch.Generator().manual_seed(0)
    if module.main_input_name == "pixel_values":
        side = config.image_size
        height, width = side if isinstance(side, list | tuple) else (side, side)
        return {"pixel_values": torch.randn(BATCH, config.num_channels, height, width, generator=generator)}
    if module.main_input_name != "input_ids":
        raise InputError(
            f"{type(module).__name__} takes {module.main_input_name!r}, for which no example can be made here. Use "
            "secateurs.shrink in Python with example inputs of your own."
        )
    n = min(TOKENS, getattr(config, "max_position_embeddings", TOKENS))
    return {"input_ids": torch.randint(1, config.vocab_size, (BATCH, n), generator=generator)}
