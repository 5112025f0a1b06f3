"""Accelerating: layers of a network swapped by packed ones where measuring says that those are faster.

    accelerated = accelerate(model, x)        # x as the model will see it: its number of tokens decides
    print(accelerated)                        # every layer: what was tried, what it took, what was chosen
    accelerated.restore()

Layers are timed in turn, dense and packed one after the other, round after round: each finds in the caches what the
layers before it have left there, as in the network itself.
"""

import copy
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from secateurs.checks import first_line
from secateurs.errors import InputError, PatternError
from secateurs.evaluating import evaluating
from secateurs.formats import bitmask
from secateurs.layout import layout_of
from secateurs.measure.intervals import LEAST, Interval, paired_ratio
from secateurs.measure.memory import give_back, page_out
from secateurs.running import packed_conv2d
from secateurs.running.packed_conv2d import PackedConv2d
from secateurs.running.packed_linear import PackedLinear
from secateurs.running.ready import RUNNING

ROUNDS, WARM_UP = 15, 2
FORMATS = ("bitmask", "index", "blocks 32x32")
GROUP = 512 << 20  # bytes of dense weights that are timed together
DENSE = "dense"


@dataclass(frozen=True)
class Choice:
    """What was measured for one layer, and what came of it.

    shape      (outputs, inputs) of a product: of a convolution, all inputs that one position sees
    n_tokens   rows of its input in the example, or positions of its output
    seconds    {"dense" or the packed layer's name: median}
    chosen     one of these names; "" where the layer was not timed
    speed_up   of the fastest packed one over dense, with its interval; None where nothing was timed
    n_bytes    {name: bytes of the layer}
    reason     why it was not timed, or stayed dense
    """

    name: str
    shape: tuple[int, int]
    sparsity: float
    n_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    n_bytes: dict[str, int] = field(default_factory=dict)
    chosen: str = ""
    speed_up: Interval | None = None
    reason: str = ""

    def __str__(self) -> str:
        rows, columns = self.shape
        begun = f"{self.name} ({rows} x {columns}, {self.sparsity:.0%} zeros)"
        if self.speed_up is None:
            return f"{begun}: dense, {self.reason}"
        times = ", ".join(f"{name} {1e6 * each:.0f} us" for name, each in self.seconds.items())
        ratio = f"{self.speed_up.mean:.2f}x ({self.speed_up.low:.2f} to {self.speed_up.high:.2f})"
        return f"{begun}, {self.n_tokens} tokens: {self.chosen}; {times}; best packed {ratio}"


Swapped = tuple[nn.Module, str, nn.Module]  # (parent, name, the dense layer)


@dataclass(eq=False)
class Accelerated:
    """What `accelerate` did to a model."""

    choices: list[Choice]
    _swapped: list[Swapped] = field(default_factory=list, repr=False)

    def restore(self) -> None:
        """Put the dense layers back; InputError where they were not kept."""
        if not self._swapped and any(each.chosen not in ("", DENSE) for each in self.choices):
            raise InputError("The dense layers were not kept; load the model again.")
        for parent, name, dense in self._swapped:
            setattr(parent, name, dense)
        self._swapped.clear()
        self.choices = []

    def __str__(self) -> str:
        return "\n".join(map(str, self.choices))


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
    del parts  # what is swapped shall not stay in memory
    try:
        while groups:
            choices, chosen = _chosen(groups.pop(0), found, read, shared, allowed, formats, rounds, is_lossless)
            result.choices += choices
            _swap(model, chosen, result._swapped if is_reversible else None)
    except BaseException:
        if is_reversible:
            result.restore()
        raise
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
    swaps = [each for each in choices if each.chosen not in ("", DENSE)]
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


def _call(model: nn.Module, inputs: Any, keywords: Any) -> None:
    """Run the example; what it would change, such as a cache of keys and values, is a copy."""
    fresh = {key: each if isinstance(each, Tensor) else copy.deepcopy(each) for key, each in keywords.items()}
    given = [each if isinstance(each, Tensor) else copy.deepcopy(each) for each in inputs]
    with evaluating(model), torch.inference_mode():
        model(*given, **fresh)


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
        weights: list[Any] = [model.get_submodule(name).weight for name in chosen]
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
    rows, *of_row = layout_of(part, "weight").seen(tuple(part.weight.shape))
    found = {}
    for each in values:
        for text in formats:
            format, _, size = text.partition(" ")
            sizes = dict(zip("hw", map(int, size.split("x")), strict=True)) if size else {}
            if sizes and not _is_in_blocks(part, rows, prod(of_row), **sizes):
                continue
            try:
                layer = make(part, format, each, **sizes)
            except (PatternError, InputError):  # this weight has no such pattern, or no such values
                continue
            found[layer.name] = layer
    return found


def _is_in_blocks(part: Any, rows: int, columns: int, h: int, w: int) -> bool:
    """Whether a tenth of such blocks is zero: zeros at random leave none."""
    if rows % h or columns % w:
        return False
    weight = part.weight.detach()
    weight = (weight.T if layout_of(part, "weight").is_turned else weight).reshape(rows // h, h, columns // w, w)
    return float((weight != 0).any(3).any(1).float().mean()) <= 0.9


Contenders = dict[str, dict[str, Any]]  # {layer: {DENSE or a packed layer's name: it}}
Seconds = dict[str, dict[str, list[float]]]


def _seconds(contenders: Contenders, candidates: dict[str, Candidate], rounds: int) -> Seconds:
    """Of every call, all layers in turn."""
    seconds: dict[str, dict[str, list[float]]] = {
        name: {each: [] for each in all_} for name, all_ in contenders.items()
    }
    kinds = sorted({each for all_ in contenders.values() for each in all_}, key=lambda each: each != DENSE)
    with torch.inference_mode():
        for i in range(WARM_UP + rounds):
            for kind in kinds if i % 2 else reversed(kinds):
                for name, all_ in contenders.items():
                    if kind not in all_:
                        continue
                    x = candidates[name][2]
                    start = time.perf_counter()
                    all_[kind](x)
                    if i >= WARM_UP:
                        seconds[name][kind].append(time.perf_counter() - start)
    return seconds


def _timed(candidates: dict[str, Candidate], rounds: int) -> list[Choice]:
    """Of each layer the fastest packed one; whether it is faster is decided in new rounds, as of many one is lucky."""
    contenders: Contenders = {name: {DENSE: part, **packed} for name, (_, part, _, packed) in candidates.items()}
    seconds = _seconds(contenders, candidates, rounds)
    bests = {name: min(of[3], key=lambda each: median(seconds[name][each])) for name, of in candidates.items()}
    again = {name: {key: contenders[name][key] for key in (DENSE, best)} for name, best in bests.items()}
    seconds = {name: {**seconds[name], **of} for name, of in _seconds(again, candidates, rounds).items()}
    choices = []
    for name, (begun, part, x, packed) in candidates.items():
        mine = {each: median(values) for each, values in seconds[name].items()}
        best = bests[name]
        speed_up = paired_ratio(seconds[name][DENSE], seconds[name][best])
        chosen = best if speed_up.low > 1.0 else DENSE
        n_bytes = {DENSE: _n_bytes(part), **{k: v.nbytes for k, v in packed.items()}}
        with torch.inference_mode():
            n_tokens = part(x).numel() // max(1, begun["shape"][0])
        reason = "" if chosen == best else "no packed format is faster beyond doubt"
        choices.append(
            Choice(
                **begun,
                n_tokens=n_tokens,
                seconds=mine,
                n_bytes=n_bytes,
                chosen=chosen,
                speed_up=speed_up,
                reason=reason,
            )
        )
    return choices


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
    rows: int, columns: int, n_tokens: int, sparsity: float, values: str = "fp32", rounds: int = ROUNDS, seed: int = 0
) -> Choice:
    """What this machine would give for one layer at a sparsity, before anything is pruned.

    Normal weights with zeros at random; as many copies, timed in turn, as make 64 MB of dense weights, so that a layer
    finds in the caches what it would find in a large network. The middle copy by its speed-up is returned.
    """
    draw = torch.Generator().manual_seed(seed)
    copies = []
    for _ in range(max(1, min(64, round(64e6 / (4 * rows * columns))))):
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
