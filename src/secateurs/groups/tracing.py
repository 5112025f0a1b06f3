"""Tracing: a network run once on example inputs, every operation seen, and what its axes are in the end.

    trace(module, example_inputs) -> Trace

The operations are those that reach torch's dispatcher, so whatever Python code the network is made of does not matter.
It runs in evaluation mode; nothing in it changes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from secateurs.errors import InputError
from secateurs.groups.axes import Axis, fix
from secateurs.groups.operations import RULES, Axes, attention, elementwise, shaped, tensors_in
from secateurs.layers import unwrap

FROM_OUTSIDE = "from outside the network"


@dataclass
class Run:
    """One run of a module: the axes of the tensor it was given first, and of the first it gave; its products."""

    given: Axes
    gave: Axes
    products: slice


@dataclass
class Trace:
    """What one run showed.

    axes       {name of a parameter or buffer: its axes}; a tied one under its first name
    aliases    {first name: the other names}
    consumed   {(name of a weight, dimension)}: its products sum over it
    products   the axes of each matrix product or convolution; their sizes multiplied are its multiply-adds
    pads       (name of a module, axis before, axis after): zeros it puts around an axis
    steps      {name of an element of a list of modules: each of its runs}
    """

    axes: dict[str, Axes] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    consumed: set[tuple[str, int]] = field(default_factory=set)
    products: list[tuple[Axis, ...]] = field(default_factory=list)
    pads: list[tuple[str, Axis, Axis]] = field(default_factory=list)
    steps: dict[str, list["Run"]] = field(default_factory=dict)

    def macs(self, kept: Mapping[Axis, int] | None = None) -> int:
        """Multiply-adds of the run, when of each leaf in `kept` only so many indices are left."""
        total = 0
        for axes in self.products:
            n = 1
            for axis in axes:
                n *= axis.n_kept(dict(kept or {}))
            total += n
        return total


def trace(module: nn.Module, example_inputs: Any) -> Trace:
    """Run the network on example inputs and see which dimensions of its parameters are one.

    example_inputs  a tensor, a tuple of arguments, or a mapping of named ones; a batch of 2 or more

    InputError where the network cannot be run on them.
    """
    module = unwrap(module)
    mode = _Mode(module)
    inputs = tree_leaves(example_inputs)
    for tensor in inputs:
        if isinstance(tensor, Tensor):
            mode.set(tensor, [Axis(size, "the network's input") for size in tensor.shape])
    with evaluating(module), torch.no_grad(), mode.naming(module), mode:
        output = call(module, example_inputs)
    for tensor in tree_leaves(output):
        if isinstance(tensor, Tensor):
            for axis in mode.axes(tensor):
                fix(axis, "the network's output")
    return mode.trace


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module as it was afterwards."""
    was_training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        yield
    finally:
        for each in was_training:
            each.training = True


def call(module: nn.Module, example_inputs: Any) -> Any:
    """The network's outputs; InputError where it refuses the inputs."""
    try:
        if isinstance(example_inputs, Mapping):
            return module(**example_inputs)
        return module(*example_inputs) if isinstance(example_inputs, list | tuple) else module(example_inputs)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise InputError(
            f"{type(module).__name__} does not run on the example inputs: {error} Give a tensor, a tuple of arguments, "
            "or a mapping of named arguments that the network takes."
        ) from error


def first_tensor(values: Any) -> Tensor:
    """The first tensor of nested values."""
    return next(value for value in tree_leaves(values) if isinstance(value, Tensor))


def by_feature(layer: nn.Module, given: Any) -> Tensor:
    """What a layer was given first: (features, all else); a convolution's are dimension 1, of others the last one."""
    dim = 1 if isinstance(layer, nn.modules.conv._ConvNd) else -1
    return first_tensor(given).detach().transpose(0, dim).flatten(1)


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation and applies its rule; is the `Flow` of the rules."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self.running: list[str] = []
        self._starts: list[int] = []
        self._axes = WeakTensorKeyDictionary()
        self._weight_names = WeakTensorKeyDictionary()
        for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]:
            if tensor in self._weight_names:
                self.trace.aliases.setdefault(self._weight_names[tensor], []).append(name)
                continue
            axes = [Axis(size) for size in tensor.shape]
            self.trace.axes[name] = axes
            self.set(tensor, axes)
            self._weight_names[tensor] = name

    @contextmanager
    def naming(self, module: nn.Module) -> Iterator[None]:
        """Know inside which module is running."""
        hooks = []
        lists = {name for name, each in module.named_modules() if isinstance(each, nn.ModuleList | nn.Sequential)}
        for name, each in module.named_modules():
            if name.rpartition(".")[0] in lists and name:
                hooks.append(each.register_forward_pre_hook(self._arrive))
                hooks.append(each.register_forward_hook(partial(self._step, name), with_kwargs=True))
            hooks.append(each.register_forward_pre_hook(lambda *_, name=name: self.running.append(name)))
            hooks.append(each.register_forward_hook(lambda *_: self._leave(), always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _leave(self) -> None:
        self.running.pop()

    def _arrive(self, *_: Any) -> None:
        self._starts.append(len(self.trace.products))

    def _step(self, name: str, _: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        products = slice(self._starts.pop(), len(self.trace.products))
        given, gave = (
            next((self.axes(t) for t in tree_leaves(v) if isinstance(t, Tensor)), []) for v in ((args, kwargs), output)
        )
        self.trace.steps.setdefault(name, []).append(Run(given, gave, products))

    def set(self, tensor: Tensor, axes: Axes) -> None:
        """These are the axes of a tensor."""
        self._axes[tensor] = axes

    def axes(self, tensor: Tensor) -> Axes:
        """The axes of a tensor; fixed ones for one that no operation here has made."""
        if tensor not in self._axes:
            self._axes[tensor] = [Axis(size, FROM_OUTSIDE) for size in tensor.shape]
        found: Axes = self._axes[tensor]
        return found

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether it is a parameter or a view of one."""
        return tensor in self._weight_names

    def multiply(self, axes: Sequence[Axis], weight: Tensor | None = None, summed: Axis | None = None) -> None:
        """Count a product, and which dimension of a weight it sums over."""
        self.trace.products.append(tuple(axes))
        if weight is not None and summed is not None and weight in self._weight_names:
            name = self._weight_names[weight]
            own = self.trace.axes[name]
            dims = [d for d, axis in enumerate(own) if axis is summed]
            dims = dims or [d for d, axis in enumerate(own) if axis.find() is summed.find()]
            if not dims:
                fix(summed, f"'{name}' is reshaped before it is multiplied")
            self.trace.consumed |= {(name, d) for d in dims}

    def pad(self, before: Axis, after: Axis) -> None:
        """Remember who pads."""
        self.trace.pads.append((self.running[-1] if self.running else "", before, after))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        named = [value for value in (kwargs or {}).values() if isinstance(value, Tensor)]
        inputs = [*tensors_in(args), *named]
        rule = RULES.get(name)
        if rule is None:
            where = f"'{name}' in '{self.running[-1] if self.running else ''}' is not understood"
            for tensor in inputs:
                for axis in self.axes(tensor):
                    fix(axis, where)
            found = shaped(result, where)
        else:
            if rule not in (elementwise, attention):
                for tensor in named:
                    for axis in self.axes(tensor):
                        fix(axis, f"an option of '{name}'")
            found = rule(self, [*args, *named], result)
        results = tensors_in(result)
        for tensor, axes in zip(results, found, strict=True):
            assert [axis.size for axis in axes] == list(tensor.shape), (name, axes, tensor.shape)
            if not any(tensor is each for each in inputs):
                self.set(tensor, axes)
        if len(results) == 1 and len(inputs) == 1 and inputs[0] in self._weight_names:
            self._weight_names[results[0]] = self._weight_names[inputs[0]]
        return result
