"""Plan: what this machine would give at each sparsity, for each shape of linear layer and input, before pruning.

    for line in plan("model/", tokens=(1, 128)):
        line.shape, line.n_tokens, line.break_even, line.speedups[0.9]

Random weights with that many zeros are timed beside the dense product, in one process, call by call.
"""

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.accelerating import is_known, time_layer
from secateurs.errors import InputError
from secateurs.evaluating import evaluating
from secateurs.evaluating import threads as threads_of
from secateurs.layout import layout_of
from secateurs.measure.bench.prepared import sizes_of
from secateurs.measure.bench.progress import Progress
from secateurs.measure.bench.results import SPARSITIES, Line, size_text
from secateurs.measure.intervals import Interval
from secateurs.running.packed_conv2d import why_not
from secateurs.structure.opening import Opened, open_network

VALUES = ("fp32", "int8")


def plan(
    model: str | Path,
    *,
    batches: Sequence[int] = (),
    tokens: Sequence[int] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Line]:
    """A line for each distinct shape of layer, size and kind of values. InputError where there is no layer.

    A convolution is planned as the product that it is, of what each position sees, without the gathering of that.
    """
    with threads_of(threads or torch.get_num_threads()):
        return _planned(model, batches, tokens, progress)


def _planned(model: str | Path, batches: Sequence[int], tokens: Sequence[int], progress: Progress | None) -> list[Line]:
    opened = open_network(Path(model))
    sizes = sizes_of(opened, str(model), batches, tokens)
    n_bytes = sum(4 * each.numel() for each in opened.module.parameters() if each.ndim > 1)
    groups: dict[tuple[str, tuple[int, int], int], list[str]] = {}
    for batch, n_tokens in sizes:
        for name, shape, n in _linear_layers(opened, opened.inputs(batch, n_tokens)):
            groups.setdefault((size_text(batch, n_tokens), shape, n), []).append(name)
    if not groups:
        raise InputError(f"'{model}' has no linear layer or convolution: there is nothing to plan.")
    progress = progress or Progress()
    jobs = list(dict.fromkeys((shape, n, values) for _, shape, n in groups for values in VALUES))
    progress.n_turns = len(jobs) * len(SPARSITIES)
    timed: dict[tuple[tuple[int, int], int, str], dict[float, Interval]] = {}
    for (rows, columns), n, values in jobs:
        found = timed.setdefault(((rows, columns), n, values), {})
        for sparsity in SPARSITIES:
            progress.text = f"{rows} × {columns} on {n} × {columns} inputs, {sparsity:.0%} zeros, {values}"
            if (ratio := time_layer(rows, columns, n, sparsity, values, n_bytes).speed_up) is not None:
                found[sparsity] = ratio
            progress.n_turns_done += 1
    return [
        Line(size, shape, tuple(names), n, values, timed[shape, n, values])
        for (size, shape, n), names in groups.items()
        for values in VALUES
    ]


@torch.inference_mode()
def _linear_layers(opened: Opened, inputs: Any) -> list[tuple[str, tuple[int, int], int]]:
    """(name, shape of its product, rows of input) of each layer that a run uses, in the order of use."""
    found: dict[str, tuple[str, tuple[int, int], int]] = {}

    def look(name: str, rows: int, columns: int) -> Callable[..., None]:
        def hook(part: nn.Module, given: Any, found_y: Tensor) -> None:
            found[name] = (name, (rows, columns), found_y.numel() // rows)

        return hook

    handles = []
    for name, part in opened.module.named_modules():
        if is_known(part) and not (isinstance(part, nn.Conv2d) and why_not(part)):
            rows, *of_row = layout_of(part, "weight").seen(tuple(part.get_parameter("weight").shape))
            handles.append(part.register_forward_hook(look(name, rows, prod(of_row))))
    try:
        with evaluating(opened.module):
            _ = opened.module(**inputs) if isinstance(inputs, dict) else opened.module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())
