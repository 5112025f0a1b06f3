"""Accelerating: layers of a network swapped by packed ones where measuring says that those are faster.

    accelerated = accelerate(model, x)        # x as the model will see it: its number of tokens decides
    print(accelerated)                        # every layer: what was tried, what it took, what was chosen
    accelerated.restore()

First every layer by itself, dense against packed (racing.py); then whole layers of transformers, as they are then
against packed blocks (fusing.py).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from secateurs.checks import first_line
from secateurs.errors import InputError, PatternError
from secateurs.evaluating import evaluating
from secateurs.formats import bitmask
from secateurs.fusing import blocks_of, fresh, fuse
from secateurs.layout import layout_of
from secateurs.measure.intervals import LEAST
from secateurs.measure.memory import give_back, page_out, trim
from secateurs.racing import DENSE, GROUP, ROUNDS, Choice, Contenders, Given, race
from secateurs.running import packed_conv2d
from secateurs.running.packed_block import Parts
from secateurs.running.packed_conv2d import PackedConv2d
from secateurs.running.packed_linear import PackedLinear
from secateurs.running.ready import RUNNING

FORMATS = ("bitmask", "index", "blocks 32x32")


Swapped = tuple[nn.Module, str, nn.Module]  # (parent, name, the dense layer)


@dataclass(eq=False)
class Accelerated:
    """What `accelerate` did to a model.

    choices  of every layer; of one in a fused block, `chosen` is the block's
    blocks   of every layer of a transformer
    """

    choices: list[Choice]
    blocks: list[Choice] = field(default_factory=list)
    _swapped: list[Swapped] = field(default_factory=list, repr=False)

    def restore(self) -> None:
        """Put the dense layers back; InputError where they were not kept."""
        if not self._swapped and any(each.is_swapped for each in self.choices):
            raise InputError("The dense layers were not kept; load the model again.")
        for parent, name, dense in reversed(self._swapped):
            setattr(parent, name, dense)
        self._swapped.clear()
        self.choices, self.blocks = [], []

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.choices, *self.blocks)))


def accelerate(
    model: nn.Module,
    *inputs: Any,
    values: str | Sequence[str] = "fp32",
    formats: Sequence[str] = FORMATS,
    rounds: int = ROUNDS,
    is_reversible: bool = True,
    is_lossless: bool = False,
    **keywords: Any,
) -> Accelerated:
    """Swap every nn.Linear, nn.Conv2d and transformers' Conv1D for which a packed one was faster; others stay dense.

    Then every layer of a transformer that is known (packed_block.KINDS) as one, where that is faster.

    inputs, keywords  what the model is called with, as in the use that shall be fast
    values            how kept weights may be stored: "fp32" (lossless), "bf16", "int8", "int4", "int4/64", or several;
                      "w8a8" and "w4a8" are int8 and int4 with inputs that may be rounded to 8 bits, too
    formats           the positions to try: "bitmask", "index", "nm", "rows", "blocks 32x32" or of other sizes
    rounds            how often everything is timed, at least LEAST times
    is_reversible     keep the dense layers in memory, for `restore`
    is_lossless       of each layer only those values that are its weights bit for bit, as after quantization

    A packed layer is taken where its whole 95 % interval of paired ratios is faster than dense. A layer whose weight is
    read by other code than its own stays dense, with that reason. InputError where no such layer was reached.
    """
    allowed = (values,) if isinstance(values, str) else tuple(values)
    _assert_known(allowed, formats)
    if rounds < LEAST:
        raise InputError(f"Of fewer than {LEAST} rounds nothing can be sure; got {rounds}.")
    if any(each.is_meta for each in model.parameters()):
        raise InputError(f"{type(model).__name__} is on the meta device: it has no weights that could run. Load them.")
    parts = {name: each for name, each in model.named_modules() if is_known(each)}
    shared, found = _shared(model), _inputs_of(model, parts, inputs, keywords)
    read = _read_from_outside(model, [name for name in found if name], inputs, keywords)
    groups, result = list(_groups(parts)), Accelerated([])
    call = partial(_call, model, inputs, keywords)
    blocks = blocks_of(model, call, partial(_why_no_block, shared))
    del parts  # what is swapped shall not stay in memory
    swapped = result._swapped if is_reversible else None
    try:
        while groups:
            choices, chosen = _chosen(groups.pop(0), found, read, shared, allowed, formats, rounds, is_lossless)
            result.choices += choices
            _swap(model, chosen, swapped)

        def values_of(parts: Parts) -> list[str]:
            linears = parts.all_linears
            return [v for v in allowed if not is_lossless or all(_is_lossless(each, v) for each in linears)]

        result.blocks = fuse(
            model,
            blocks,
            values_of,
            partial(_formats_of, formats),
            rounds,
            call,
            lambda chosen: _swap(model, chosen, swapped),
        )
        result.choices = [_of_block(each, result.blocks) for each in result.choices]
    except BaseException:
        if is_reversible:
            result.restore()
        raise
    del blocks
    give_back()
    return result


def _chosen(
    group: dict[str, nn.Module],
    found: Mapping[str, Tensor],
    read: set[str],
    shared: set[int],
    values: Sequence[str],
    formats: Sequence[str],
    rounds: int,
    is_lossless: bool,
) -> tuple[list[Choice], dict[str, PackedLinear | PackedConv2d]]:
    """What was measured of each layer of a group, and the packed layers that were faster; no other stays in memory."""
    choices, candidates = [], {}
    for name, part in group.items():
        weight: Any = part.weight
        n_zero = int((weight == 0).sum())
        rows, *of_row = layout_of(part, "weight").seen(tuple(weight.shape))
        begun: dict[str, Any] = {"name": name, "shape": (rows, prod(of_row))}
        begun["sparsity"] = n_zero / max(1, weight.numel())
        reason = _why_not(name, part, name in found, name in read, n_zero, id(weight) in shared)
        mine = [each for each in values if not is_lossless or _is_lossless(part, each)] if not reason else []
        packed = _packed(part, mine, formats)
        if packed:
            candidates[name] = (begun, part, found[name], packed)
        else:
            choices.append(Choice(**begun, reason=reason or "no packed format takes it"))
    choices += _timed(candidates, rounds)
    order = list(group)
    choices = sorted(choices, key=lambda choice: order.index(choice.name))
    swaps = [each for each in choices if each.is_swapped]
    return choices, {each.name: candidates[each.name][3][each.chosen] for each in swaps}


def _assert_known(values: Sequence[str], formats: Sequence[str]) -> None:
    """InputError for values or formats that no packed layer has, before anything is timed."""
    one = torch.eye(64)
    for each in values:
        PackedLinear.from_weight(one, None, "bitmask", each)
    for each in formats:
        format, _, size = each.partition(" ")
        if format not in RUNNING or (size and not re.fullmatch(r"\d+x\d+", size)):
            raise InputError(f"Formats that run are {', '.join(RUNNING)}, blocks also of a size, 32x32; got {each!r}.")


def _inputs_of(model: nn.Module, parts: dict[str, nn.Module], inputs: Any, keywords: Any) -> dict[str, Tensor]:
    """What each part gets in the example."""
    found: dict[str, Tensor] = {}

    def see(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: Any, named: Any) -> None:
            found.setdefault(name, (given[0] if given else next(iter(named.values()))).detach().clone())

        return hook

    hooks = [part.register_forward_pre_hook(see(name), with_kwargs=True) for name, part in parts.items()]
    try:
        _call(model, inputs, keywords)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = [str(tuple(each.shape)) for each in (*inputs, *keywords.values()) if isinstance(each, Tensor)]
        of = f", of shape {', '.join(shapes)}" if shapes else ""
        raise InputError(
            f"{type(model).__name__} does not take this example{of} ({first_line(error)}). Give what the network is "
            "called with."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise InputError("No linear layer or convolution was reached by the example; there is nothing to accelerate.")
    return found


def _call(model: nn.Module, inputs: Any, keywords: Any) -> Any:
    """What the model gives for the example; what it would change, such as a cache of keys and values, is a copy."""
    given, named = fresh((inputs, keywords))
    with evaluating(model), torch.inference_mode():
        return model(*given, **named)


class _Closed(nn.Module):
    """A layer that can be called and no more."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self._part = [part]  # in a list it is no submodule

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self._part[0](*inputs, **keywords)


def _read_from_outside(model: nn.Module, names: list[str], inputs: Any, keywords: Any) -> set[str]:
    """Which of these layers the model does not only call, but looks into, as torch's TransformerEncoderLayer does."""

    def runs_with_closed(closed: list[str]) -> bool:
        swapped: list[Swapped] = []
        _swap(model, {name: _Closed(model.get_submodule(name)) for name in closed}, swapped)
        try:
            _call(model, inputs, keywords)
        except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
            return False
        finally:
            for parent, last, part in swapped:
                setattr(parent, last, part)
        return True

    if runs_with_closed(names):
        return set()
    return {name for name in names if not runs_with_closed([name])}


def _swap(model: nn.Module, chosen: Mapping[str, nn.Module], swapped: list[Swapped] | None) -> None:
    """Put the packed layers into the model; the dense ones are kept in `swapped`, or let go."""
    if swapped is None:
        weights: list[Any] = [each for name in chosen for each in model.get_submodule(name).parameters()]
        page_out(weights)
        del weights
    for name, packed in chosen.items():
        parent, last = _parent(model, name)
        dense = getattr(parent, last)
        if swapped is not None:
            swapped.append((parent, last, dense))
        setattr(parent, last, packed)


def is_known(part: nn.Module) -> bool:
    """Whether it is a layer that has a packed one: nn.Linear, nn.Conv2d, transformers' Conv1D, and nothing derived."""
    is_conv1d = layout_of(part, "weight").is_turned and part.get_parameter("weight").ndim == 2
    return type(part) in (nn.Linear, nn.Conv2d) or is_conv1d


def _groups(parts: dict[str, nn.Module]) -> Iterator[dict[str, nn.Module]]:
    """Neighbours of GROUP bytes together: enough to empty the caches, and their candidates fit into memory."""
    group: dict[str, nn.Module] = {}
    for name, part in parts.items():
        group[name] = part
        if sum(_n_bytes(each) for each in group.values()) > GROUP:
            yield group
            group = {}
    if group:
        yield group


# What is known of a layer, itself, its input in the example, and what may replace it.
Candidate = tuple[dict[str, Any], nn.Module, Tensor, dict[str, PackedLinear | PackedConv2d]]


def _n_bytes(part: nn.Module) -> int:
    return sum(each.nbytes for each in part.parameters())


def _why_not(name: str, part: Any, is_reached: bool, is_read: bool, n_zero: int, is_shared: bool) -> str:
    if not name:
        return "it is the model itself, in nothing that could hold another: PackedLinear.from_linear gives one"
    if not is_reached:
        return "not reached by the example"
    if _is_hooked(part):
        return "it has hooks, which a packed layer would not call"
    if is_read:
        return "the module around it reads its weight"
    if part.weight.dtype == torch.float64:
        return "its weights are float64, which no packed format computes in"
    if is_shared:
        return "its weight is another layer's too"
    if part.weight.device.type != "cpu":
        return f"its weight is on {part.weight.device}"
    if isinstance(part, nn.Conv2d) and (why := packed_conv2d.why_not(part)):
        return why
    return "" if n_zero else "nothing in it is zero"


def _why_no_block(shared: set[int], part: nn.Module) -> str:
    """Why a layer of a transformer with this part in it cannot be fused."""
    if _is_hooked(part):
        return "something in it has hooks, which a fused block would not call"
    for each in part.parameters(recurse=False):
        if each.dtype == torch.float64:
            return "its weights are float64, which no packed format computes in"
        if id(each) in shared:
            return "a weight in it is another layer's too"
        if each.device.type != "cpu":
            return f"its weights are on {each.device}"
    return ""


def _formats_of(formats: Sequence[str], weight: Tensor) -> list[str]:
    """Those that a weight of a fused block may have, the best first: blocks where it is in blocks, else the others."""
    in_blocks = []
    for text in formats:
        size = text.partition(" ")[2]
        if size and _is_in_blocks(weight, **dict(zip("hw", map(int, size.split("x")), strict=True))):
            in_blocks.append(text)
    return in_blocks or [each for each in formats if " " not in each]


def _of_block(choice: Choice, blocks: Sequence[Choice]) -> Choice:
    """The choice of a layer, with its block's where that is fused."""
    for each in blocks:
        if each.is_swapped and choice.name.startswith(f"{each.name}."):
            return replace(choice, chosen=each.chosen, reason=f"part of {each.name}, which is fused")
    return choice


def _is_hooked(part: nn.Module) -> bool:
    """Whether anything but torch's own pruning, which makes the weight, waits for its calls."""
    hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    return any(not isinstance(each, BasePruningMethod) for each in hooks)


def _is_lossless(part: Any, values: str) -> bool:
    """Whether the weight, stored so, comes back bit for bit, but for the signs of zeros."""
    weight = part.weight.detach().float()
    weight = (weight.T if layout_of(part, "weight").is_turned else weight).flatten(1)
    if values.startswith("w"):  # its inputs are rounded, too
        return False
    if values in ("fp32", "bf16"):
        return values == "fp32" or bool(torch.equal(weight.bfloat16().float(), weight))
    try:
        packed = bitmask.pack(weight, weight != 0, values)
    except (PatternError, InputError):  # in groups that do not fit, or not finite
        return False
    return bool(torch.equal(bitmask.unpack(packed), weight))


def _packed(part: Any, values: Sequence[str], formats: Sequence[str]) -> dict[str, PackedLinear | PackedConv2d]:
    make = PackedConv2d.from_convolution if isinstance(part, nn.Conv2d) else PackedLinear.from_linear
    weight = part.weight.detach()
    weight = (weight.T if layout_of(part, "weight").is_turned else weight).flatten(1)
    found = {}
    for each in values:
        for text in formats:
            format, _, size = text.partition(" ")
            sizes = dict(zip("hw", map(int, size.split("x")), strict=True)) if size else {}
            if sizes and not _is_in_blocks(weight, **sizes):
                continue
            try:
                layer = make(part, format, each, **sizes)
            except (PatternError, InputError):  # this weight has no such pattern, or no such values
                continue
            found[layer.name] = layer
    trim()  # what lies between those that stay
    return found


def _is_in_blocks(weight: Tensor, h: int, w: int) -> bool:
    """Whether a tenth of such blocks of a weight (out, in) is zero: zeros at random leave none."""
    rows, columns = weight.shape
    if rows % h or columns % w:
        return False
    return float((weight.reshape(rows // h, h, columns // w, w) != 0).any(3).any(1).float().mean()) <= 0.9


def _timed(candidates: dict[str, Candidate], rounds: int) -> list[Choice]:
    """Of each layer the fastest packed one, where it is faster than dense."""
    contenders: Contenders = {name: {DENSE: part, **packed} for name, (_, part, _, packed) in candidates.items()}
    given: dict[str, Given] = {name: partial(_only, x) for name, (_, _, x, _) in candidates.items()}
    choices = []
    for name, found in race(contenders, given, rounds).items():
        begun, part, x, packed = candidates[name]
        with torch.inference_mode():
            n_tokens = part(x).numel() // max(1, begun["shape"][0])
        choices.append(
            Choice(
                **begun,
                n_tokens=n_tokens,
                seconds=found.seconds,
                n_bytes={DENSE: _n_bytes(part), **{each: layer.nbytes for each, layer in packed.items()}},
                chosen=found.best if found.is_won else DENSE,
                speed_up=found.speed_up,
                reason="" if found.is_won else "no packed format is faster beyond doubt",
            )
        )
    return choices


def _only(x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (x,), {}


def _shared(model: nn.Module) -> set[int]:
    """Ids of the parameters that more than one module has."""
    seen: dict[int, int] = {}
    for _, part in model.named_modules(remove_duplicate=False):
        for parameter in part.parameters(recurse=False):
            seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    return {key for key, n in seen.items() if n > 1}


def _parent(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    before, _, last = name.rpartition(".")
    return model.get_submodule(before), last


def time_layer(
    rows: int,
    columns: int,
    n_tokens: int,
    sparsity: float,
    values: str = "fp32",
    n_bytes: int = 64_000_000,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Choice:
    """What this machine would give for one layer at a sparsity, before anything is pruned.

    n_bytes  of dense weights of the network that it is part of; more than 64 MB count as 64 MB

    Normal weights with zeros at random; as many copies, timed in turn, as make these bytes, so that a layer finds in
    the caches what it would find in the network. The middle copy by its speed-up is returned.
    """
    draw = torch.Generator().manual_seed(seed)
    copies = []
    for _ in range(max(1, min(64, round(min(n_bytes, 64e6) / (4 * rows * columns))))):
        weight = torch.randn(rows, columns, generator=draw)
        part = nn.Linear(columns, rows, bias=False)
        part.weight = nn.Parameter(weight * (torch.rand(rows, columns, generator=draw) >= sparsity))
        copies.append(part)
    found = accelerate(_Beside(copies), torch.randn(n_tokens, columns, generator=draw), values=values, rounds=rounds)
    timed = [each for each in found.choices if each.speed_up is not None]
    if not timed:
        return found.choices[0]
    return sorted(timed, key=lambda each: each.speed_up.mean if each.speed_up else 0.0)[len(timed) // 2]


class _Beside(nn.Module):
    """Layers that all see the same input."""

    def __init__(self, parts: list[nn.Linear]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> None:
        for part in self.parts:
            part(x)
