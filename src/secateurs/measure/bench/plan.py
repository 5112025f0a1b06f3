"""Plan: what this machine would give at each sparsity, for each shape of linear layer and input, before pruning.

    for line in plan("model/", tokens=(1, 128)):
        line.shape, line.n_tokens, line.break_even, line.speedups[0.9]

Random weights with that many zeros are timed beside the dense product, in one process, call by call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.accelerating import time_layer
from secateurs.errors import InputError
from secateurs.evaluating import evaluating
from secateurs.measure.bench.prepared import sizes_of
from secateurs.measure.bench.results import size_text
from secateurs.measure.bench.running import Progress
from secateurs.measure.intervals import Interval
from secateurs.structure.opening import Opened, open_network

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
VALUES = ("fp32", "int8")


@dataclass(frozen=True)
class Line:
    """Layers of one shape at one size.

    names     the layers
    n_tokens  rows of its input at this size: examples times tokens
    speedups  {sparsity: dense seconds by packed seconds}
    """

    size: str
    shape: tuple[int, int]
    names: tuple[str, ...]
    n_tokens: int
    values: str
    speedups: dict[float, Interval]

    @property
    def break_even(self) -> float | None:
        """The least sparsity tried from which on packed is faster beyond noise; None where it never is."""
        found = None
        for sparsity in sorted(self.speedups, reverse=True):
            if self.speedups[sparsity].low <= 1:
                break
            found = sparsity
        return found

    def as_values(self) -> dict[str, Any]:
        """JSON-able."""
        ratios = {
            f"{sparsity:g}": {"median": each.mean, "low": each.low, "high": each.high}
            for sparsity, each in self.speedups.items()
        }
        plain = {key: value for key, value in vars(self).items() if key != "speedups"}
        return {**plain, "break_even": self.break_even, "speedups": ratios}


def plan(
    model: str | Path,
    *,
    batches: Sequence[int] = (),
    tokens: Sequence[int] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Line]:
    """A line for each distinct shape of linear layer, size and kind of values. InputError where there is no layer."""
    torch.set_num_threads(threads or torch.get_num_threads())
    opened = open_network(Path(model))
    sizes = sizes_of(opened, str(model), batches, tokens)
    groups: dict[tuple[str, tuple[int, int], int], list[str]] = {}
    for batch, n_tokens in sizes:
        for name, shape, n in _linear_layers(opened, opened.inputs(batch, n_tokens)):
            groups.setdefault((size_text(batch, n_tokens), shape, n), []).append(name)
    if not groups:
        raise InputError(f"'{model}' has no linear layer: there is nothing to plan.")
    progress = progress or Progress()
    jobs = list(dict.fromkeys((shape, n, values) for _, shape, n in groups for values in VALUES))
    progress.n_turns = len(jobs) * len(SPARSITIES)
    timed: dict[tuple[tuple[int, int], int, str], dict[float, Interval]] = {}
    for (rows, columns), n, values in jobs:
        found = timed.setdefault(((rows, columns), n, values), {})
        for sparsity in SPARSITIES:
            progress.text = f"{rows} × {columns} on {n} × {columns} inputs, {sparsity:.0%} zeros, {values}"
            if (ratio := time_layer(rows, columns, n, sparsity, values).speed_up) is not None:
                found[sparsity] = ratio
            progress.n_turns_done += 1
    return [
        Line(size, shape, tuple(names), n, values, timed[shape, n, values])
        for (size, shape, n), names in groups.items()
        for values in VALUES
    ]


@torch.inference_mode()
def _linear_layers(opened: Opened, inputs: Any) -> list[tuple[str, tuple[int, int], int]]:
    """(name, shape, rows of input) of each linear layer that a run uses, in the order of use."""
    found: dict[str, tuple[str, tuple[int, int], int]] = {}

    def look(name: str, layer: nn.Linear, x: Tensor) -> None:
        shape = layer.out_features, layer.in_features
        found[name] = (name, shape, x.numel() // layer.in_features)

    handles = [
        part.register_forward_pre_hook(lambda part, given, name=name: look(name, part, given[0]))
        for name, part in opened.module.named_modules()
        if isinstance(part, nn.Linear)
    ]
    try:
        with evaluating(opened.module):
            _ = opened.module(**inputs) if isinstance(inputs, dict) else opened.module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())
