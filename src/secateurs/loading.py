"""Loading: the network of a directory, ready to answer, with packed layers where those are faster and lose nothing.

network = load_network("compressed/")                    # dense layers
network = load_network("compressed/", example_inputs=x)  # x as the network will see it
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateurs.accelerating import Accelerated, accelerate
from secateurs.structure.opening import open_network

VALUES = ("fp32", "bf16", "int8", "int4", "int4/32", "int4/64")  # that run, and that a packed file may hold


def load_network(
    directory: str | os.PathLike[str], example_inputs: Tensor | Mapping[str, Tensor] | None = None
) -> nn.Module:
    """The network of a directory (or of a packed file beside its config.json), in evaluation mode.

    directory       of `secateurs compress`, `train` or `shrink`, of `save_model`, or of a network of transformers
    example_inputs  a tensor, or {name: tensor} for a network of transformers: each linear layer is timed on it, dense
                    and packed, and swapped where packed is faster and has the same weights, bit for bit

    InputError where there is no network, or it is damaged.
    """
    module = open_network(Path(directory)).module.eval()
    if example_inputs is not None:
        accelerate_losslessly(module, example_inputs)
    return module


def accelerate_losslessly(module: nn.Module, inputs: Tensor | Mapping[str, Tensor]) -> Accelerated:
    """Swap the layers in place, as `load_network` does, and say what was measured."""
    options: dict[str, Any] = {"values": VALUES, "is_reversible": False, "is_lossless": True}
    if isinstance(inputs, Tensor):
        return accelerate(module, inputs, **options)
    return accelerate(module, **(options | dict(inputs)))
