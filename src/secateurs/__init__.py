"""secateurs: pruning shears for neural networks.

See what pruning does, keep exactly the zeros you asked for, and get numbers you can trust.

    import secateurs as sc
    masks = sc.prune(model, sc.Recipe(budget=sc.sparsity(0.7)))

Names are loaded when first used, so that `import secateurs` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateurs.accelerating import accelerate
    from secateurs.budgets import erk, per_layer, sparsity, threshold, top
    from secateurs.checkpoint.compliance import compliance
    from secateurs.checkpoint.difference import diff
    from secateurs.checkpoint.opening import open_checkpoint
    from secateurs.checkpoint.packed_directory import pack_beside
    from secateurs.checkpoint.packing import load, pack, unpack
    from secateurs.checkpoint.streamed import prune_checkpoint
    from secateurs.checkpoint.survey import inspect
    from secateurs.checkpoint.verifying import verify
    from secateurs.column_order import permutation
    from secateurs.errors import SecateursError
    from secateurs.exporting import export_onnx, onnx_answers, quantize_onnx
    from secateurs.loading import load_network
    from secateurs.masks import Masks
    from secateurs.measure.bench.running import bench
    from secateurs.measure.drop import accuracy_drop
    from secateurs.permuting import permute
    from secateurs.pools import layer, model, neighbours
    from secateurs.pruning import prune, zero_out
    from secateurs.quantizing import quantize
    from secateurs.recipe import Recipe
    from secateurs.running.packed_conv2d import PackedConv2d
    from secateurs.running.packed_linear import PackedLinear
    from secateurs.schedules import Schedule
    from secateurs.scores import lamp, magnitude, random
    from secateurs.selection import select
    from secateurs.structure.files import load_shrunk, save_shrunk
    from secateurs.structure.shrinking import shrink
    from secateurs.train.in_rounds import shrink_in_rounds
    from secateurs.train.pruner import Pruner
    from secateurs.train.quantizer import Quantizer
    from secateurs.train.sharing import Sharing
    from secateurs.units import block, column, element, row

__version__ = "0.1.0"

_HOME = {
    "secateurs.accelerating": ("accelerate",),
    "secateurs.budgets": ("erk", "per_layer", "sparsity", "threshold", "top"),
    "secateurs.checkpoint.compliance": ("compliance",),
    "secateurs.checkpoint.difference": ("diff",),
    "secateurs.checkpoint.opening": ("open_checkpoint",),
    "secateurs.checkpoint.streamed": ("prune_checkpoint",),
    "secateurs.checkpoint.survey": ("inspect",),
    "secateurs.checkpoint.verifying": ("verify",),
    "secateurs.checkpoint.packed_directory": ("pack_beside",),
    "secateurs.checkpoint.packing": ("load", "pack", "unpack"),
    "secateurs.column_order": ("permutation",),
    "secateurs.errors": ("SecateursError",),
    "secateurs.exporting": ("export_onnx", "onnx_answers", "quantize_onnx"),
    "secateurs.loading": ("load_network",),
    "secateurs.masks": ("Masks",),
    "secateurs.measure.bench.running": ("bench",),
    "secateurs.measure.drop": ("accuracy_drop",),
    "secateurs.permuting": ("permute",),
    "secateurs.pools": ("layer", "model", "neighbours"),
    "secateurs.pruning": ("prune", "zero_out"),
    "secateurs.quantizing": ("quantize",),
    "secateurs.recipe": ("Recipe",),
    "secateurs.running.packed_conv2d": ("PackedConv2d",),
    "secateurs.running.packed_linear": ("PackedLinear",),
    "secateurs.schedules": ("Schedule",),
    "secateurs.scores": ("lamp", "magnitude", "random"),
    "secateurs.selection": ("select",),
    "secateurs.structure.files": ("load_shrunk", "save_shrunk"),
    "secateurs.structure.shrinking": ("shrink",),
    "secateurs.train.in_rounds": ("shrink_in_rounds",),
    "secateurs.train.pruner": ("Pruner",),
    "secateurs.train.quantizer": ("Quantizer",),
    "secateurs.train.sharing": ("Sharing",),
    "secateurs.units": ("block", "column", "element", "row"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Masks",
    "PackedConv2d",
    "PackedLinear",
    "Pruner",
    "Quantizer",
    "Recipe",
    "Schedule",
    "SecateursError",
    "Sharing",
    "accelerate",
    "accuracy_drop",
    "bench",
    "block",
    "column",
    "compliance",
    "diff",
    "element",
    "erk",
    "export_onnx",
    "inspect",
    "lamp",
    "layer",
    "load",
    "load_network",
    "load_shrunk",
    "magnitude",
    "model",
    "neighbours",
    "onnx_answers",
    "open_checkpoint",
    "pack",
    "pack_beside",
    "per_layer",
    "permutation",
    "permute",
    "prune",
    "prune_checkpoint",
    "quantize",
    "quantize_onnx",
    "random",
    "row",
    "save_shrunk",
    "select",
    "shrink",
    "shrink_in_rounds",
    "sparsity",
    "threshold",
    "top",
    "unpack",
    "verify",
    "zero_out",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'secateurs' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
