"""Layers: which parameters of a network can be pruned, and why the others are left alone.

    layers(module, skip, only) -> [Layer(name, parameter, layout, reason), ...]     reason "" = prunable

Prunable by default: floating weights of two or more dimensions except embeddings, class tokens and position tables.
Tied weights are one layer, left alone if any of their names is: one parameter under two names, or two parameters
that are the same memory. The naming rules are those of files: checkpoint/prunable.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim.swa_utils import AveragedModel

from secateurs.checkpoint.prunable import VECTOR, assert_can, assert_known, names_reason, overlaps
from secateurs.errors import InputError
from secateurs.layout import PLAIN, Layout, layout_of

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


@dataclass(frozen=True, eq=False)
class Layer:
    """One parameter of a network, named as in `named_parameters` without wrappers' prefixes.

    aliases  the other names of a tied weight
    reason   why it is left alone; empty if it can be pruned
    """

    name: str
    parameter: nn.Parameter
    layout: Layout = PLAIN
    aliases: tuple[str, ...] = ()
    reason: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape; () where a lazy layer has none yet."""
        return () if isinstance(self.parameter, UninitializedParameter) else tuple(self.parameter.shape)

    @property
    def seen(self) -> tuple[int, ...]:
        """Its shape as (out, in, *kernel)."""
        return self.layout.seen(self.shape)

    @property
    def n(self) -> int:
        """How many weights."""
        return 0 if isinstance(self.parameter, UninitializedParameter) else self.parameter.numel()

    @property
    def is_prunable(self) -> bool:
        """Whether a recipe may touch it."""
        return not self.reason


def unwrap(module: nn.Module) -> nn.Module:
    """The network inside what torch.compile, DataParallel and moving averages put around it. InputError: it is none."""
    return list(wrapped(module))[-1]


def wrapped(module: nn.Module) -> Iterator[nn.Module]:
    """The module, what it wraps, what that wraps, and so on to the network."""
    if not isinstance(module, nn.Module):
        raise InputError(f"Expected a network, a torch.nn.Module; got {type(module).__name__}.")
    yield module
    inside = module.module if isinstance(module, _WRAPPERS) else getattr(module, "_orig_mod", module)
    if inside is not module:
        yield from wrapped(inside)


def named_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter by every name it has in the unwrapped network, tied ones included."""
    found = unwrap(module).named_parameters(remove_duplicate=False)
    return {name.replace("_orig_mod.", ""): parameter for name, parameter in found}


def whole(tensor: Tensor) -> Tensor:
    """The tensor; one that FSDP2 spread over processes is gathered, so all of them have to come here together."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local(tensor: Tensor) -> Tensor:
    """What this process holds of the tensor: the same memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def local_like(value: Tensor, parameter: Tensor) -> Tensor:
    """Of a whole tensor of the parameter's shape, the part that lies where `local(parameter)` lies."""
    if not hasattr(parameter, "placements"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    # No process asks another: all hold the same whole tensor.
    return local(distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None))


def layers(module: nn.Module, skip: Iterable[str] = (), only: Iterable[str] = ()) -> list[Layer]:
    """Every parameter of `module` once, in its order, each prunable or with the reason why not.

    skip, only  shell-style patterns of names

    RecipeError for a pattern that matches no parameter, or one of `only` that names a parameter which cannot be pruned
    ("*" and the vectors that a wildcard matches aside).
    """
    skip, only = tuple(skip), tuple(only)
    by_name = named_parameters(module)
    assert_known((*skip, *only), by_name, "parameter")
    owners = owners_of(module)
    names_of: dict[object, list[str]] = {}
    for name, parameter in by_name.items():
        names_of.setdefault(_identity(parameter), []).append(name)
    shared = overlaps(_spans({names[0]: by_name[names[0]] for names in names_of.values()}))
    found = []
    for names in names_of.values():
        parameter = by_name[names[0]]
        computed = next((why for name in names if (why := _computed(owners.get(name), name))), "")
        reason = _unfit(parameter) or computed or shared.get(names[0], "")
        assert_can(names, reason, _is_vector(parameter), skip, only)
        is_table = {name: isinstance(owners.get(name), nn.Embedding | nn.EmbeddingBag) for name in names}
        reason = reason or names_reason(is_table, skip, only)
        owner = owners.get(names[0])
        layout = layout_of(owner, names[0].rpartition(".")[2]) if owner is not None else PLAIN
        found.append(Layer(names[0], parameter, layout, tuple(names[1:]), reason))
    return found


def owners_of(module: nn.Module) -> dict[str, nn.Module]:
    """The module that holds each parameter, by the parameter's name in `named_parameters`."""
    owners = {}
    for prefix, owner in unwrap(module).named_modules(remove_duplicate=False):
        for name in owner._parameters:
            owners[f"{prefix}.{name}".removeprefix(".").replace("_orig_mod.", "")] = owner
    return owners


def _has_memory(parameter: nn.Parameter) -> bool:
    is_plain = not isinstance(parameter, UninitializedParameter) and parameter.layout == torch.strided
    is_plain = is_plain and not hasattr(parameter, "placements")  # a process holds a part, at a place of its own
    return is_plain and not parameter.is_meta and parameter.numel() > 0


def _is_vector(parameter: nn.Parameter) -> bool:
    return not isinstance(parameter, UninitializedParameter) and parameter.dim() < 2


def _identity(parameter: nn.Parameter) -> object:
    """Equal for one parameter under two names, and for two parameters that are the same memory seen the same way."""
    place = parameter.data_ptr() if _has_memory(parameter) else 0
    if not place:
        return id(parameter)
    return (parameter.device, place, parameter.dtype, tuple(parameter.shape), parameter.stride())


def _spans(parameters: dict[str, nn.Parameter]) -> Iterator[tuple[str, int, int, str]]:
    """(device, start, end, name) of the memory of each parameter."""
    for name, parameter in parameters.items():
        if _has_memory(parameter) and (start := parameter.data_ptr()):
            last = sum((size - 1) * step for size, step in zip(parameter.shape, parameter.stride(), strict=True))
            yield str(parameter.device), start, start + (last + 1) * parameter.element_size(), name


def _computed(owner: nn.Module | None, name: str) -> str:
    """Why zeros in this parameter are no zeros of the weight that its layer computes from it, or ""."""
    if isinstance(owner, ParametrizationList):
        kinds = [type(each).__name__.lstrip("_") for each in owner]
        undo = "torch.nn.utils.parametrize.remove_parametrizations"
    elif owner is not None and any(type(hook).__name__ == "WeightNorm" for hook in owner._forward_pre_hooks.values()):
        kinds, undo = ["WeightNorm"], "torch.nn.utils.remove_weight_norm"
        if not name.endswith(("_g", "_v")):
            return ""
    else:
        return ""
    if kinds == ["SpectralNorm"]:  # the weight by a number
        return ""
    what = (
        "divides by the length of what is left of a row" if kinds == ["WeightNorm"] else "gives a weight without zeros"
    )
    return f"{' and '.join(kinds)} of it {what}; undo that first: {undo}"


def _unfit(parameter: nn.Parameter) -> str:
    """Why this parameter cannot be pruned whatever is asked, or ""."""
    if isinstance(parameter, UninitializedParameter):
        return "no values yet (lazy layer)"
    if parameter.dim() < 2:
        return VECTOR
    if not parameter.is_floating_point():
        return f"not floating point ({parameter.dtype})"
    if parameter.element_size() < 2:
        return f"no arithmetic in {parameter.dtype}"
    if parameter.is_meta:
        return "no values (meta device)"
    if parameter.layout != torch.strided:
        return f"not a strided tensor ({parameter.layout})"
    if any(step == 0 and size > 1 for step, size in zip(parameter.stride(), parameter.shape, strict=True)):
        return "its elements share memory (expanded)"
    return ""
