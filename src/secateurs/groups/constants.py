"""Constants: what reaches each layer whatever the input, found by running the network on unknowns.

    inputs_that_are_known(module, example_inputs, names) -> {layer: vector}      NaN = depends on the input

Every input is NaN. A product gives a number only where all it adds up is a number or multiplied by an exact zero, so a
row of zeros gives its bias, and ReLU, BatchNorm, pooling and the rest carry it on; what arrives as a number in a
consumer is the constant that a dead unit contributes. Whole-number inputs keep their values, because they index tables,
but whatever is computed from them is unknown.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from secateurs.groups.operations import RULES, attention, convolution, linear, matrix_product, tensors_in
from secateurs.groups.tracing import by_feature, call, evaluating

_PRODUCTS = [name for name, rule in RULES.items() if rule in (linear, matrix_product, convolution)]
_ATTENTIONS = [name for name, rule in RULES.items() if rule is attention]


def inputs_that_are_known(module: nn.Module, example_inputs: Any, names: Iterable[str]) -> dict[str, Tensor]:
    """For each named layer, the value of each input feature where it is the same for all inputs and places, else NaN.

    The features are the last dimension of a layer with a matrix, the second of a convolution.
    """
    seen: dict[str, list[Tensor]] = {}

    def remember(name: str, layer: nn.Module, *given: Any) -> None:
        seen.setdefault(name, []).append(by_feature(layer, given).clone())

    layers = {name: module.get_submodule(name) for name in names}
    hooks = [
        layer.register_forward_pre_hook(partial(remember, name), with_kwargs=True) for name, layer in layers.items()
    ]
    mode = _Unknowns()
    unknown = tree_map(mode.unknown, example_inputs)
    try:
        with evaluating(module), torch.no_grad(), mode:
            call(module, unknown)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: common(torch.cat(values, 1)) for name, values in seen.items()}


def common(values: Tensor) -> Tensor:
    """The one value of each row; NaN where it has several, or a NaN."""
    low, high = values.amin(1), values.amax(1)
    return torch.where((high - low).abs() <= 1e-6 * high.abs(), high, torch.nan)


class _Unknowns(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._from_input = WeakTensorKeyDictionary()

    def unknown(self, value: Any) -> Any:
        """A tensor of the same shape that stands for any input."""
        if not isinstance(value, Tensor):
            return value
        if value.is_floating_point():
            return torch.full_like(value, torch.nan)
        copy = value.clone()
        self._from_input[copy] = True
        return copy

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        is_float = bool(args) and isinstance(args[0], Tensor) and args[0].is_floating_point()
        if name in _PRODUCTS and is_float:
            result = _product(func, args, kwargs)
        elif name in ("mul", "mul_"):
            result = _times_zero(func, args, kwargs)
        elif name in _ATTENTIONS:
            result = func(*args, **kwargs)
            value = args[2]
            constant = torch.where((value == value[:, :, :1]).all(2, keepdim=True), value[:, :, :1], torch.nan)
            heads = constant.repeat_interleave(result[0].shape[1] // value.shape[1], 1)
            result[0].copy_(heads.expand_as(result[0]))  # the shares of one and the same value add up to it
        else:
            result = func(*args, **kwargs)
        inputs = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        is_from_input = any(tensor in self._from_input for tensor in inputs)
        is_unknown = any(tensor.is_floating_point() and bool(tensor.isnan().any()) for tensor in inputs)
        for tensor in tensors_in(result):
            if is_from_input and tensor.is_floating_point():
                tensor.fill_(torch.nan)
            elif (is_from_input or is_unknown) and not tensor.is_floating_point():
                self._from_input[tensor] = True  # a comparison with NaN is False, which is not known to be
        return result


def _product(func: Any, args: Any, kwargs: Any) -> Any:
    """A product in which only an exact zero makes an unknown known."""
    name = func.overloadpacket.__name__
    places = (1, 2) if name in ("addmm", "baddbmm") else (0, 1)
    added = {"addmm": 0, "baddbmm": 0, "linear": 2, "convolution": 2}.get(name)
    a, b = (args[i] for i in places)
    known, left, right = list(args), list(args), list(args)
    for i in places:
        known[i] = args[i].nan_to_num(0.0)
    left[places[0]], left[places[1]] = a.isnan().to(a.dtype), (b != 0).to(a.dtype)
    right[places[0]], right[places[1]] = (a != 0).to(a.dtype), b.isnan().to(a.dtype)
    if added is not None and added < len(args) and args[added] is not None:
        left[added] = right[added] = args[added].isnan().to(a.dtype)
    is_unknown = (func(*left, **kwargs) > 0.5) | (func(*right, **kwargs) > 0.5)
    return func(*known, **kwargs).masked_fill_(is_unknown, torch.nan)


def _times_zero(func: Any, args: Any, kwargs: Any) -> Any:
    """A product of elements, in which zero times unknown is zero."""
    result = func(*args, **kwargs)
    for factor in args[:2]:
        if isinstance(factor, Tensor) and result.is_floating_point():
            result.masked_fill_((factor == 0).expand_as(result), 0.0)
    return result
