"""Fusing: whole layers of transformers swapped by packed blocks, where that is faster than their layers one by one.

    blocks = blocks_of(model, call, why_not)        # before anything is swapped
    choices = fuse(model, blocks, ...)              # after their layers were

Between the products of a layer torch starts a dozen operations by itself; for few tokens they take most of the time.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.errors import InputError, PatternError
from secateurs.evaluating import evaluating
from secateurs.measure.memory import trim
from secateurs.racing import GROUP, LAYERS, Choice, Contenders, race
from secateurs.running.packed_block import PackedBlock, Parts, parts_of

Example = tuple[tuple[Any, ...], dict[str, Any]]
Swap = Callable[[Mapping[str, nn.Module]], None]


@dataclass(frozen=True, eq=False)
class Block:
    """A layer of a transformer.

    parts    as it was before anything was swapped
    example  what it is called with
    reason   why it cannot be fused; else ""
    """

    parts: Parts
    example: Example
    reason: str


def blocks_of(model: nn.Module, call: Callable[[], Any], why_not: Callable[[nn.Module], str]) -> dict[str, Block]:
    """The layers of transformers that are known here and are reached.

    call     runs the model's example
    why_not  why a linear layer or a norm cannot be packed, else ""
    """
    found = {name: parts for name, each in model.named_modules() if name and (parts := parts_of(each)) is not None}
    examples: dict[str, Example] = {}

    def see(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: Any, named: Any) -> None:
            examples.setdefault(name, (tuple(map(_kept, given)), {key: _kept(each) for key, each in named.items()}))

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(see(name), with_kwargs=True) for name in found]
    try:
        if found:
            call()
    finally:
        for each in hooks:
            each.remove()
    blocks = {}
    for name, parts in found.items():
        if name in examples:
            inside = [each for each in model.get_submodule(name).modules() if not isinstance(each, nn.Dropout)]
            reasons = (why for each in inside if (why := why_not(each)))
            reason = next(reasons, "") or ("" if _n_zero(parts) else "nothing in it is zero")
            blocks[name] = Block(parts, examples[name], reason)
    return blocks


def _kept(given: Any) -> Any:
    return given.detach().clone() if isinstance(given, Tensor) else copy.deepcopy(given)


def fresh(example: Example) -> Example:
    """The same again; what a call would change, such as a cache of keys and values, is a copy."""
    inputs, named = example
    return (
        tuple(each if isinstance(each, Tensor) else copy.deepcopy(each) for each in inputs),
        {key: each if isinstance(each, Tensor) else copy.deepcopy(each) for key, each in named.items()},
    )


def fuse(
    model: nn.Module,
    blocks: Mapping[str, Block],
    values_of: Callable[[Parts], Sequence[str]],
    formats_of: Callable[[Tensor], Sequence[str]],
    rounds: int,
    call: Callable[[], Any],
    swap: Swap,
) -> list[Choice]:
    """Swap those that are faster as one; returns what was measured of each.

    values_of   how the weights of a layer may be stored
    formats_of  the formats that may take a weight, the best first
    call        runs the model's example
    swap        puts modules into the model by name
    """
    choices, left = [], dict(blocks)
    while left:
        group = _group(left)
        for name in group:
            del left[name]
        found, chosen = _raced(model, group, values_of, formats_of, rounds)
        if chosen:
            before = {name: model.get_submodule(name) for name in chosen}
            was = _shapes(call())
            swap(chosen)
            if not _still_gives(was, call):
                swap(before)
                reason = "the model looks into its layers, or gives something else without them"
                found = [
                    Choice(each.name, each.shape, each.sparsity, each.n_tokens, reason=reason, stays=LAYERS)
                    if each.is_swapped
                    else each
                    for each in found
                ]
        choices += found
    return choices


def _raced(
    model: nn.Module,
    blocks: Mapping[str, Block],
    values_of: Callable[[Parts], Sequence[str]],
    formats_of: Callable[[Tensor], Sequence[str]],
    rounds: int,
) -> tuple[list[Choice], dict[str, PackedBlock]]:
    """What was measured of each block of a group, and those that are faster fused."""
    begun, contenders, given, fused = {}, Contenders(), {}, {}
    for name, block in blocks.items():
        parts, (inputs, named) = block.parts, block.example
        n = sum(each.weight.numel() for each in parts.all_linears)
        n_tokens = next((each[..., 0].numel() for each in (*inputs, *named.values()) if isinstance(each, Tensor)), 0)
        of: dict[str, Any] = {"shape": parts.wide, "sparsity": _n_zero(parts) / max(1, n), "n_tokens": n_tokens}
        begun[name] = {"name": name, "stays": LAYERS, **of}
        reason = block.reason
        candidates = {} if reason else _candidates(parts, values_of(parts), formats_of)
        if candidates:
            try:
                inputs, named = fresh(block.example)
                with torch.inference_mode():
                    next(iter(candidates.values()))(*inputs, **named)
            except InputError as error:
                reason, candidates = str(error), {}
        if candidates:
            contenders[name] = {LAYERS: model.get_submodule(name), **candidates}
            given[name], fused[name] = partial(fresh, block.example), candidates
        else:
            begun[name]["reason"] = reason or "no packed format takes it"
    with evaluating(model):
        races = race(contenders, given, rounds)
    choices, chosen = [], {}
    for name, of in begun.items():
        if name not in races:
            choices.append(Choice(**of))
            continue
        found = races[name]
        n_bytes = {each: layer.nbytes for each, layer in fused[name].items()}
        picked = found.best if found.is_won else LAYERS
        reason = "" if found.is_won else "fused is not faster beyond doubt"
        choices.append(
            Choice(**of, seconds=found.seconds, n_bytes=n_bytes, chosen=picked, speed_up=found.speed_up, reason=reason)
        )
        if found.is_won:
            chosen[name] = fused[name][found.best]
    return choices, chosen


def _candidates(
    parts: Parts, values: Sequence[str], formats_of: Callable[[Tensor], Sequence[str]]
) -> dict[str, PackedBlock]:
    """{name: a packed block}, of every way to store its values and of the formats that take all of its weights."""
    found: dict[str, PackedBlock] = {}
    formats = [formats_of(weight) for weight, _ in parts.weights()]
    # Where a product has fewer choices than another, its last stands beside the other's last.
    ways = [[each[min(k, len(each) - 1)] for each in formats] for k in range(max(map(len, formats)))]
    for each in values:
        for way in ways if all(formats) else []:
            try:
                block = parts.kind(parts, way, each)
            except (PatternError, InputError):  # this weight has no such pattern, or no such values
                continue
            found.setdefault(block.name, block)
    trim()  # what lies between those that stay
    return found


def _group(blocks: Mapping[str, Block]) -> dict[str, Block]:
    """The first of GROUP bytes together."""
    group: dict[str, Block] = {}
    n_bytes = 0
    for name, block in blocks.items():
        group[name] = block
        n_bytes += sum(each.weight.nbytes for each in block.parts.all_linears)
        if n_bytes > GROUP:
            break
    return group


def _n_zero(parts: Parts) -> int:
    return sum(int((each.weight == 0).sum()) for each in parts.all_linears)


def _still_gives(was: list[tuple[int, ...]], call: Callable[[], Any]) -> bool:
    """Whether the model runs, and gives as many tensors as before, of these shapes."""
    try:
        return _shapes(call()) == was
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError, InputError):
        return False


def _shapes(found: Any) -> list[tuple[int, ...]]:
    """Those of all tensors in what a model gives."""
    if isinstance(found, Tensor):
        return [tuple(found.shape)]
    if isinstance(found, Mapping):
        found = tuple(found.values())
    return [shape for each in found for shape in _shapes(each)] if isinstance(found, tuple | list) else []
