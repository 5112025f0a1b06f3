"""Depth: whole layers of a network, such as the blocks of a transformer, that go and leave the rest to run.

    find_stacks(module, structure) -> (stacks, reasons)     which can go, and why others cannot
    layer_scores(module, ..., score) -> {stack: vector}
    bypassed(module, names)                                 inside, these layers give back what they are given
    thin(module, {stack: bool per element})                 they are gone, and those behind them move up

A layer can go where it is one of several of its kind in a `ModuleList` or `Sequential`, runs once, and gives the same
dimensions that it was given, because what it computes is added to what passes by. Numbers move up with the layers:
`blocks.3` becomes `blocks.2`, in names and in a `layer_idx` that its modules keep.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.checkpoint.prunable import assert_known
from secateurs.errors import RecipeError
from secateurs.groups.axes import Bools
from secateurs.groups.finding import Structure
from secateurs.groups.tracing import Run, call, evaluating, first_tensor
from secateurs.recipe import Recipe
from secateurs.structure.cutting import CHANGED
from secateurs.structure.unit_scores import Evidence

LAYERS = "_layers_by_shrink"  # {stack: the elements that are left}, where no stock configuration says it
INDEX = "layer_idx"  # what transformers calls the number of a layer inside it


@dataclass(frozen=True)
class Stack:
    """The elements of one list of modules that can go.

    places  where they stand in the list
    """

    name: str
    n_all: int
    places: tuple[int, ...]

    @property
    def n_units(self) -> int:
        """How many can go."""
        return len(self.places)

    def layers(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(_element(self.name, i) for i in self.places)


def find_stacks(module: nn.Module, structure: Structure, recipe: Recipe) -> tuple[list[Stack], dict[str, str]]:
    """Every stack with layers that can go and that the recipe's `skip` and `only` leave, and why others cannot.

    RecipeError where there is none, with the reasons.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    assert_known((*recipe.skip, *recipe.only), parameters, "parameter")
    stacks: list[Stack] = []
    reasons: dict[str, str] = {}
    for name, each in module.named_modules():
        if not isinstance(each, nn.ModuleList | nn.Sequential) or any(_is_under(name, stack.name) for stack in stacks):
            continue
        kinds = [type(child) for child in each]
        places = []
        for i, child in enumerate(each):
            layer = _element(name, i)
            if not any(child.children()) or not any(True for _ in child.parameters()) or kinds.count(kinds[i]) < 2:
                continue
            why = _why_not(structure.trace.steps.get(layer, []))
            own = [key for key in parameters if key.startswith(f"{layer}.")]
            if not why and (_matches(own, recipe.skip) or (recipe.only and not _matches(own, recipe.only))):
                why = "left out by name"
            if why:
                reasons[layer] = why
            else:
                places.append(i)
        if places:
            stacks.append(Stack(name, len(each), tuple(places)))
    if not stacks:
        said = "; ".join(f"'{layer}': {why}" for layer, why in list(reasons.items())[:6])
        raise RecipeError(
            "This network has no 'layer' that can be removed: one of several of a kind in a ModuleList or Sequential "
            f"that adds to what it is given. {said}"
        )
    return stacks, reasons


def _why_not(runs: Sequence[Run]) -> str:
    if len(runs) != 1:
        return f"it runs {len(runs)} times"
    run = runs[0]
    if [axis.size for axis in run.given] != [axis.size for axis in run.gave]:
        return "it changes the shape of what it is given"
    if any(a.size > 1 and a.find() is not b.find() for a, b in zip(run.given, run.gave, strict=True)):
        return "what it gives is not what it was given with something added"
    return ""


def _matches(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def macs_of(structure: Structure, layers: Iterable[str]) -> int:
    """The multiply-adds of the run that these layers do."""
    products = structure.trace.products
    at = [products[run.products] for layer in layers for run in structure.trace.steps[layer]]
    return sum(int(np.prod([axis.size for axis in axes])) for found in at for axes in found)


def n_parameters_of(module: nn.Module, layers: Sequence[str]) -> int:
    """The parameters that nothing but these layers holds."""
    inside = tuple(f"{layer}." for layer in layers)
    alive = {id(p) for name, p in module.named_parameters(remove_duplicate=False) if not name.startswith(inside)}
    return sum(p.numel() for p in module.parameters() if id(p) not in alive)


def layer_scores(
    module: nn.Module, stacks: Sequence[Stack], recipe: Recipe, evidence: Evidence, batches: Sequence[Any]
) -> dict[str, Tensor]:
    """How much each layer is worth keeping, by stack.

    magnitude, l2  mean |w|, or root mean square, of its matrices
    taylor         |sum of weight times gradient|
    activation     1 - cosine of what comes in and what goes out: how much it changes what passes. Men et al. 2024,
                   arXiv:2403.03853
    """
    name = recipe.score.name
    if name == "random":
        return {stack.name: recipe.score(torch.empty(stack.n_units), name=stack.name) for stack in stacks}
    changes = _changes(module, stacks, batches) if name == "activation" else {}
    names = {id(p): key for key, p in module.named_parameters()}  # a tied one is known by its first

    def worth(layer: str) -> float:
        inside = {names[id(p)]: p.detach().double() for p in module.get_submodule(layer).parameters()}
        sizes = torch.cat([p.flatten() for p in inside.values() if p.dim() > 1])
        return {
            "magnitude": lambda: float(sizes.abs().mean()),
            "l2": lambda: float(sizes.square().mean().sqrt()),
            "taylor": lambda: abs(sum(float((p * evidence.gradients[key]).sum()) for key, p in inside.items())),
            "activation": lambda: changes[layer],
        }[name]()

    if name not in ("magnitude", "l2", "taylor", "activation"):
        raise RecipeError(f"The score '{name}' is not one of layers: use activation, taylor, magnitude, l2, or random.")
    return {stack.name: torch.tensor([worth(layer) for layer in stack.layers()]) for stack in stacks}


def _changes(module: nn.Module, stacks: Sequence[Stack], batches: Sequence[Any]) -> dict[str, float]:
    """For each layer 1 - cosine of its input and output, the mean over all places and batches."""
    found: dict[str, list[float]] = defaultdict(list)

    def look(layer: str, _: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        before, after = (first_tensor(each).detach().double() for each in ((args, kwargs), output))
        across = 1 if before.dim() == 4 else -1  # the channels of images, the width of tokens
        found[layer].append(1.0 - float(torch.cosine_similarity(before, after, dim=across).mean()))

    layers = [layer for stack in stacks for layer in stack.layers()]
    with _hooks(module, layers, look), evaluating(module), torch.no_grad():
        for batch in batches:
            call(module, batch)
    return {layer: sum(each) / len(each) for layer, each in found.items()}


@contextmanager
def bypassed(module: nn.Module, layers: Iterable[str]) -> Iterator[None]:
    """These layers give back what they are given."""

    def give_back(_: str, __: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        given = first_tensor((args, kwargs))
        return given if isinstance(output, Tensor) else (given, *output[1:])

    with _hooks(module, layers, give_back):
        yield


@contextmanager
def _hooks(module: nn.Module, layers: Iterable[str], hook: Callable[..., Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for layer in layers:
            handle = module.get_submodule(layer).register_forward_hook(partial(hook, layer), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def thin(module: nn.Module, left: Mapping[str, Sequence[int]], is_said: bool = False) -> None:
    """Of each list of modules named, only these elements are left, in place.

    is_said  a stock configuration says how many there are; otherwise the network remembers which
    """
    changed = module.__dict__.setdefault(CHANGED, {})
    remembered = module.__dict__.setdefault(LAYERS, {})
    for name, places in left.items():
        old = module.get_submodule(name)
        assert isinstance(old, nn.ModuleList | nn.Sequential)
        children = list(old)
        new = {_element(name, was): _element(name, now) for now, was in enumerate(places)}
        for values in (changed, remembered):
            _renumber(values, name, new)
        if not is_said:
            earlier = remembered.get(name, list(range(len(children))))
            remembered[name] = [earlier[i] for i in places]
        for i in reversed(range(len(children))):
            if i not in places:
                del old[i]
        for now, was in enumerate(places):
            for each in children[was].modules():
                if getattr(each, INDEX, None) == was:
                    setattr(each, INDEX, now)


def _element(stack: str, i: int) -> str:
    return f"{stack}.{i}" if stack else str(i)


def _renumber(values: dict[str, Any], stack: str, new: Mapping[str, str]) -> None:
    """Keys under the layers of a stack, by their new names; those of layers that are gone go."""
    old = dict(values)
    values.clear()
    n = stack.count(".") + 2 if stack else 1
    for key, value in old.items():
        layer = ".".join(key.split(".")[:n])
        if not _is_under(key, stack) or key == stack:
            values[key] = value
        elif layer in new:
            values[new[layer] + key.removeprefix(layer)] = value


def _is_under(key: str, stack: str) -> bool:
    return not stack or key.startswith(f"{stack}.")


def left_of(stacks: Sequence[Stack], gone: Mapping[str, Bools]) -> dict[str, list[int]]:
    """Which elements of each list are left."""
    found = {}
    for stack in stacks:
        out = {place for place, is_gone in zip(stack.places, gone[stack.name], strict=True) if is_gone}
        if out:
            found[stack.name] = [i for i in range(stack.n_all) if i not in out]
    return found
