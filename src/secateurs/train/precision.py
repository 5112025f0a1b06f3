"""Precision: what a training's forward and backward pass is computed in; weights and optimizer stay float32.

with computed_in("auto", device):
    loss = ...
"""

from contextlib import AbstractContextManager
from typing import Literal

import torch

from secateurs.measure.environment import multiplies_bfloat16

Precision = Literal["float32", "bfloat16", "auto"]


def computed_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """In it, torch computes in this precision; "auto" is bfloat16 where the device multiplies it, float32 elsewhere."""
    is_half = precision == "bfloat16" or (precision == "auto" and _is_quicker(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=is_half)


def _is_quicker(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and multiplies_bfloat16()
