"""Masks: {parameter name: keep}, the only place sparsity lives.

masks = Masks.make(module, recipe)     decide; nothing is changed yet
masks.apply(module)                    zero what does not live
"""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from secateurs.budgets import Budget
from secateurs.checkpoint.survey_counts import How, count
from secateurs.checkpoint.torch_file import TORCH_DTYPES
from secateurs.checks import nearest, shown
from secateurs.cuttable import absolute, cuttable
from secateurs.durable import write_bytes
from secateurs.errors import CollapseWarning, InputError
from secateurs.exact.kinds import KINDS
from secateurs.exact.parts import PIECE
from secateurs.layer_report import Count, LayerReport, Status
from secateurs.layers import Layer, layers, local, local_like, named_parameters, whole
from secateurs.recipe import Recipe
from secateurs.selection import assert_among, select

_FORMAT = "secateurs.masks/1"
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError)  # what bad values lead to


@dataclass(frozen=True, eq=False)
class Masks(Mapping[str, Tensor]):
    """Which weights live: {parameter name: bool tensor of the parameter's shape, True = keep}, tied weights once."""

    keep: Mapping[str, Tensor]
    report: tuple[LayerReport, ...] = ()
    recipe: Recipe | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.keep[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keep)

    def __len__(self) -> int:
        return len(self.keep)

    @classmethod
    def make(
        cls,
        module: nn.Module,
        recipe: Recipe,
        *,
        budget: Budget | None = None,
        among: "Masks | None" = None,
        weights: Mapping[str, Tensor] | None = None,
        sigmas: Mapping[str, float] | None = None,
        evidence: Mapping[str, Mapping[str, Any]] | None = None,
        is_trial: bool = False,
    ) -> "Masks":
        """Masks for the weights of `module` as they are now; nothing is changed.

        budget    in place of the recipe's (a schedule's budget at some progress, thresholds already absolute)
        among     masks of which these must be a subset
        weights   {name: values} to judge in place of the parameters' own
        sigmas    {name: standard deviation} frozen earlier, in place of the weights' own
        evidence  {name: {what a score needs beyond the weight: value}}

        is_trial  only to see whether it can be done: a layer that would be emptied is not warned of

        Warns (CollapseWarning) of every layer that is left with nothing. Raises RecipeError where the recipe names
        nothing, PatternError where `only` names a layer that cannot be cut so, InputError for weights
        that are not finite, or where `among` lacks a layer.
        """
        budget = recipe.budget if budget is None else budget
        found = layers(module, recipe.skip, recipe.only)
        candidates, reasons = cuttable(found, recipe, budget)
        values = {layer.name: layer.layout.turn(_values(layer, weights)) for layer in candidates}
        frozen = sigmas or {}
        budget, taus, deviations = absolute(
            budget,
            {name: tuple(value.shape) for name, value in values.items()},
            lambda name: frozen[name] if name in frozen else sigma_of(values[name]),
        )
        alive = None
        if among is not None:
            assert_among(among, values)
            alive = {layer.name: layer.layout.turn(among[layer.name]) for layer in candidates}
        with torch.no_grad():
            # The scores have no name here, so that `select` can let go of each as soon as it is ranked.
            chosen = select(
                {
                    name: recipe.score(value, **{"name": name, **(evidence or {}).get(name, {})})
                    for name, value in values.items()
                },
                recipe.unit,
                recipe.pool,
                budget,
                recipe.min_keep,
                alive,
            )
        keep = {layer.name: layer.layout.back(chosen[layer.name]).contiguous() for layer in candidates}
        report = []
        for layer in found:
            n = layer.n
            status: Status = "skipped"
            reason = layer.reason
            if layer.name in keep:
                status = "pruned"
            elif not reason:
                status, reason = reasons[layer.name]
            n_pruned = n - int(keep[layer.name].count_nonzero()) if status == "pruned" else 0
            if status == "pruned" and n_pruned == n > 0 and not is_trial:
                warnings.warn(
                    f"Layer collapse: '{layer.name}' {layer.shape} loses all of its {n} weights under '{budget}'. "
                    "Ask for less, or give min_keep.",
                    CollapseWarning,
                    stacklevel=3,
                )
            tau, sigma = taus.get(layer.name), deviations.get(layer.name)
            report.append(LayerReport(layer.name, layer.shape, n, n_pruned, status, reason, layer.aliases, tau, sigma))
        return cls(keep, tuple(report), recipe)

    @classmethod
    def of_zeros(cls, module: nn.Module, recipe: Recipe | None = None) -> "Masks":
        """Masks of what is not zero now, in the layers that this recipe would prune; its `skip` and `only` count alone.

        To hold the zeros of a network that was pruned before, whatever chose them.
        """
        recipe = recipe or Recipe(pool="layer", budget="sparsity(0.0)")
        found = layers(module, recipe.skip, recipe.only)
        keep = {layer.name: layer.parameter.detach() != 0 for layer in found if layer.is_prunable}
        report = []
        for layer in found:
            status: Status = "pruned" if layer.name in keep else "skipped"
            n_pruned = layer.n - int(keep[layer.name].count_nonzero()) if layer.name in keep else 0
            report.append(LayerReport(layer.name, layer.shape, layer.n, n_pruned, status, layer.reason, layer.aliases))
        return cls(keep, tuple(report), recipe)

    def apply(self, module: nn.Module) -> None:
        """Set every weight that does not live to exactly zero, in place, under all names of a tied weight.

        `module` may be wrapped (compiled, averaged, data-parallel), and need not be tied where the network of the masks
        was. InputError if a name or shape is not there.
        """
        by_name = named_parameters(module)
        for name in self.keep:
            if name not in by_name:
                raise InputError(f"The masks name '{name}', which this network does not have. {nearest(name, by_name)}")
        # A network without one of the aliases has nothing to zero there.
        places = [(place, keep) for name, keep in self.items() for place in self.names_of(name) if place in by_name]
        for place, keep in places:
            if by_name[place].shape != keep.shape:
                raise InputError(
                    f"The mask of '{place}' is {tuple(keep.shape)}, the weight {tuple(by_name[place].shape)}."
                )
        with torch.no_grad():
            for place, keep in places:
                there = local(by_name[place])
                there.masked_fill_(~local_like(keep.to(there.device), by_name[place]), 0.0)

    def names_of(self, name: str) -> tuple[str, ...]:
        """All names of a layer: its own, then those it is tied under."""
        return (name, *next((line.aliases for line in self.report if line.name == name), ()))

    def nested_in(self, other: "Masks") -> bool:
        """Whether everything that lives here lives in `other` too."""
        return all(
            name in other and not bool((keep & ~other[name].to(keep.device)).any()) for name, keep in self.items()
        )

    def __eq__(self, other: object) -> bool:
        """Whether both name the same layers and keep the same weights."""
        if not isinstance(other, Masks):
            return NotImplemented
        return set(self) == set(other) and all(torch.equal(keep, other[n].to(keep.device)) for n, keep in self.items())

    __hash__ = None  # type: ignore[assignment]

    @property
    def n_weights(self) -> int:
        """Weights in the pruned layers, tied ones once."""
        return sum(keep.numel() for keep in self.keep.values())

    @property
    def n_kept(self) -> int:
        """Weights that live."""
        return sum(int(keep.count_nonzero()) for keep in self.keep.values())

    @property
    def sparsity(self) -> float:
        """Share of the weights in the pruned layers that do not live."""
        return (self.n_weights - self.n_kept) / self.n_weights if self.n_weights else 0.0

    def save(self, path: str | os.PathLike[str]) -> None:
        """One bit per weight in a safetensors file, with the recipe and the report in its metadata; durable."""
        bits = {name: np.packbits(keep.cpu().numpy().reshape(-1)) for name, keep in self.keep.items()}
        about = {
            "shapes": {name: list(keep.shape) for name, keep in self.keep.items()},
            "report": [asdict(line) for line in self.report],
            "recipe": None if self.recipe is None else self.recipe.values(),
        }
        text = json.dumps(about)
        # Keys in one value, because safetensors writes several in an order of its own: equal masks, equal bytes.
        header = {"format": _FORMAT, "about": text, "sha256": _checksum(text, bits)}
        write_bytes(Path(path), save(bits, {"secateurs": json.dumps(header)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Masks":
        """What `save` wrote; InputError for anything else."""
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {}).get("secateurs", "{}"))
                if (found := header.get("format")) != _FORMAT:
                    is_ours = isinstance(found, str) and found.startswith(_FORMAT.rpartition("/")[0] + "/")
                    what = "of another version: update secateurs" if is_ours else "not a masks file"
                    raise InputError(f"{path} is {what} ({_FORMAT} is read here); its format is {shown(found)}.")
                bits = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if header["sha256"] != _checksum(header["about"], bits):
                raise InputError(f"{path} is damaged: its checksum does not match its contents.")
        except FileNotFoundError as error:
            raise InputError(f"There is no file {path}.") from error
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OSError, RecursionError) as error:
            raise InputError(f"{path} is not a readable masks file: {error}") from error
        try:
            return cls._read(json.loads(header["about"]), bits)
        except (*_MALFORMED, RecursionError) as error:
            raise InputError(f"{path} does not hold masks: {type(error).__name__}: {error}") from error

    @classmethod
    def _read(cls, about: dict[str, Any], bits: "dict[str, np.ndarray[Any, Any]]") -> "Masks":
        """The masks of an `about` that may be malformed in any way; one of _MALFORMED if it is."""
        if set(about) != {"shapes", "report", "recipe"} or set(about["shapes"]) != set(bits):
            raise ValueError("the keys are not those of a masks file.")
        keep = {}
        for name, shape in about["shapes"].items():
            sizes = _SHAPE.validate_python(shape, strict=True)
            n = math.prod(sizes)
            if bits[name].dtype != np.uint8 or bits[name].shape != (-(-n // 8),):
                raise ValueError(f"the mask of '{name}' does not fit its shape {sizes}.")
            keep[name] = torch.from_numpy(np.unpackbits(bits[name], count=n).astype(bool)).view(sizes)
        recipe = None if about["recipe"] is None else Recipe(**about["recipe"])
        return cls(keep, tuple(LayerReport.read(line) for line in about["report"]), recipe)


_SHAPE = TypeAdapter(list[Count])


def _checksum(text: str, bits: "Mapping[str, np.ndarray[Any, Any]]") -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(bits):
        digest.update(name.encode())
        digest.update(bits[name].tobytes())
    return digest.hexdigest()


def _values(layer: Layer, weights: Mapping[str, Tensor] | None) -> Tensor:
    value = whole((layer.parameter if weights is None else weights[layer.name]).detach())
    if not bool(value.isfinite().all()):
        n_nan, n_inf = int(value.isnan().sum()), int(value.isinf().sum())
        raise InputError(
            f"'{layer.name}' {layer.shape} holds {n_nan} NaN and {n_inf} infinite of {value.numel()} weights: "
            "there is no order to prune by. Look for a diverged training or a broken file."
        )
    return value


def sigma_of(weight: Tensor) -> float:
    """Standard deviation of a layer's weights (population): the number that `inspect` and the pruning of files give."""
    plain = weight.detach().cpu().contiguous().view(-1)
    dtype = TORCH_DTYPES.get(str(plain.dtype).removeprefix("torch."), "")
    if dtype not in KINDS:
        return float(plain.double().std(correction=0)) if plain.numel() else 0.0
    stored = plain.view(torch.uint8).numpy().view(KINDS[dtype].storage)
    sigma = count(stored, KINDS[dtype], How(has_kernels=stored.size > PIECE)).sigma
    return math.nan if sigma is None and stored.size else sigma or 0.0
