"""Moving: images shifted and mirrored anew in every step, so that a network cannot learn them by heart."""

import torch
from torch import Tensor


def moved(x: Tensor, shift: int, is_flipped: bool, generator: torch.Generator) -> Tensor:
    """The images, each by its own -shift to shift pixels down and right, the border repeated; half of them mirrored.

    x        (batch, channels, height, width)
    returns  the same shape
    """
    n, n_channels, height, width = x.shape
    by = torch.randint(-shift, shift + 1, (2, n, 1), generator=generator)
    rows = (torch.arange(height) + by[0]).clamp_(0, height - 1)  # (batch, height): where each row comes from
    columns = (torch.arange(width) + by[1]).clamp_(0, width - 1)
    if is_flipped:
        is_mirrored = torch.randint(2, (n, 1), generator=generator, dtype=torch.bool)
        columns = torch.where(is_mirrored, width - 1 - columns, columns)
    down = rows[:, None, :, None].expand(n, n_channels, height, width).to(x.device)
    right = columns[:, None, None, :].expand(n, n_channels, height, width).to(x.device)
    return x.gather(2, down).gather(3, right)
