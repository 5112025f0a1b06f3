"""Pruning a live network, once: choose what goes and zero it in place."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import increment_version

from secateurs.checkpoint.cutting import Cutter
from secateurs.checkpoint.dtypes import storage_of
from secateurs.checkpoint.live import open_module
from secateurs.checkpoint.plan import make_plan
from secateurs.layer_report import LayerReport
from secateurs.layers import layers
from secateurs.masks import Masks
from secateurs.recipe import Recipe, as_recipe


def prune(module: nn.Module, recipe: Recipe | str, *, evidence: Mapping[str, Mapping[str, Any]] | None = None) -> Masks:
    """Zero the weights that the recipe's final budget does not keep; returns the masks, with their report.

    recipe  or the line of text that says it. The schedule is for training (`Pruner`); here the whole budget applies at
            once

    Raises what `Masks.make` raises, before anything is changed.
    """
    masks = Masks.make(module, as_recipe(recipe), evidence=evidence)
    masks.apply(module)
    return masks


def zero_out(module: nn.Module, recipe: Recipe) -> tuple[LayerReport, ...]:
    """The same zeros as `prune`, without masks: for a network that is only just held in memory.

    Works as the pruning of files does, for recipes whose score needs only weights: a global threshold takes about
    20 MB beyond the network on a CPU, where masks take a byte a weight. Everything is decided before anything is
    changed. Raises what `prune` raises.
    """
    layers(module, recipe.skip, recipe.only)  # its patterns mean parameters, and never buffers
    checkpoint = open_module(module)
    plan = make_plan(checkpoint, recipe)
    cutter = Cutter(checkpoint, plan)
    cutter.prepare()
    knives = cutter.knives()
    with torch.no_grad():
        for each in plan.cut:
            tensor, storage = checkpoint.tensors[each.name].detach(), storage_of(each.entry.dtype)
            if tensor.device.type == "cpu" and tensor.is_contiguous() and not each.entry.is_turned:
                knives[each.name].zero(tensor.view(-1).view(torch.uint8).numpy().view(storage), 0)
                increment_version(tensor)  # so that autograd knows what numpy wrote
                continue
            start, flat = 0, torch.empty(tensor.numel(), dtype=tensor.dtype)
            bits = flat.view(torch.uint8).numpy().view(storage)
            for buffer, _, _ in cutter.pruned(each, knives[each.name]):
                bits[start : start + buffer.size] = buffer
                start += buffer.size
            tensor.copy_(flat.view(tensor.shape))
    report = []
    for each in plan.tensors:
        n_pruned = knives[each.name].n_pruned if each.name in knives else 0
        tau, sigma = cutter.taus.get(each.name), cutter.sigmas.get(each.name)
        entry = each.entry
        report.append(
            LayerReport(entry.name, entry.shape, entry.n, n_pruned, each.status, each.reason, entry.aliases, tau, sigma)
        )
    return tuple(report)
