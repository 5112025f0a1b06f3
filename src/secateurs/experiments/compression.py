"""Compression: what `compress` is asked to do, as one frozen value; and what it tries, in cells."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator
from torch import nn

from secateurs.budgets import per_layer, sparsity
from secateurs.data import Dataset, DataSpec
from secateurs.data.shape import as_tuple
from secateurs.errors import RecipeError
from secateurs.experiments.candidates import Candidate, Chains
from secateurs.experiments.cells import Cell
from secateurs.experiments.choosing import Goal, surely
from secateurs.experiments.sensitivity import allocate
from secateurs.layers import layers, owners_of
from secateurs.masks import Masks
from secateurs.models import ModelSpec, Network, trim_vocabulary
from secateurs.recipe import Recipe, with_words
from secateurs.settings import Settings
from secateurs.structure.shrinking import shrink
from secateurs.train.distillation import Distillation
from secateurs.train.training import Training

STUDENTS, SPARSITIES, PATTERNS = (0.0, 0.5), (0.8, 0.9, 0.95, 0.975), ("2:4",)
GENTLE = (0.5,)  # sparsities of a network whose units all stay, where little can be lost
LAMP = Recipe.parse("lamp element model sparsity(0.9)")
SPREADS = ("lamp", "sensitivity")
_Rate = Annotated[tuple[float, float], BeforeValidator(as_tuple)]


class Compression(Settings):
    """What the command `compress` is asked to do.

    training       of the dense network, where it is not given
    recovery       of a network after a cut; its epochs are chosen
    recovery_rates its learning rates where so much is zeroed, as (sparsity, rate); in between even in the logarithm of
                   the density, beyond as at the nearest. None given: the recovery's own, whatever is zeroed
    tuned_rates    learning rates of networks that learn with the few numbers of a codebook, and with int8 or int4
    distill        how the dense network teaches
    start_sha256   of the dense network's weights; None: it is trained here
    is_trimmed     whether tokens that the training data lack lose their embeddings, before anything else
    max_drop       of accuracy, in [0, 1]
    size_bytes     of the packed file at most
    latency_s      of one example at most, measured here
    max_time_s     of the whole, about
    epochs         of a candidate in the last rung; None: as many as the time allows, at most twice the training's
    """

    model: ModelSpec
    data: DataSpec
    training: Training
    recovery: Training
    recovery_rates: Annotated[tuple[_Rate, ...], BeforeValidator(as_tuple)] = ()
    tuned_rates: Annotated[tuple[float, float], BeforeValidator(as_tuple)] = (2e-4, 2e-4)
    distill: Distillation = Distillation()
    start_sha256: str | None = None
    is_trimmed: bool = False
    max_drop: float = 0.005
    size_bytes: float | None = None
    latency_s: float | None = None
    max_time_s: float = 1200.0
    epochs: float | None = None
    seed: int = 0

    def model_post_init(self, context: object) -> None:
        """Targets that can be met."""
        if not 0.0 <= self.max_drop < 1.0:
            raise RecipeError(f"max_drop is a share of the examples, from 0 to 1; got {self.max_drop}.")
        for name in ("size_bytes", "latency_s", "max_time_s", "epochs"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise RecipeError(f"{name} must be above 0; got {value}.")
        if not all(0.0 < rate < math.inf for rate in self.tuned_rates):
            raise RecipeError(f"tuned_rates are learning rates, above 0; got {self.tuned_rates}.")
        if not all(0.0 < s < 1.0 and 0.0 < rate < math.inf for s, rate in self.recovery_rates):
            raise RecipeError(f"recovery_rates are sparsities and rates, all above 0; got {self.recovery_rates}.")

    @property
    def goal(self) -> Goal:
        """What is asked for."""
        return Goal(self.max_drop, self.size_bytes, self.latency_s)


@dataclass(frozen=True)
class Ground:
    """A compression with the data and the network that the checks loaded.

    file_bytes  of the weights that were given, as they lay there; None where the network is trained here
    """

    asked: Compression
    data: Dataset
    network: Network
    file_bytes: int | None = None

    @property
    def dense(self) -> Cell:
        """The network as it is."""
        asked = self.asked
        if asked.start_sha256 is None:
            return self.cell(asked.training)
        return self.cell(self._untrained, weights=asked.start_sha256)

    @property
    def first(self) -> Cell:
        """What every candidate begins with."""
        if not self.asked.is_trimmed:
            return self.dense
        return self.cell(self._untrained, start=self.dense, is_trimmed=True)

    @property
    def _untrained(self) -> Training:
        return Training(**{**self.asked.training.values(), "epochs": 0.0})

    def cell(self, training: Training, **fields: Any) -> Cell:
        """A cell of this compression."""
        asked = self.asked
        return Cell(
            model=asked.model,
            data=asked.data,
            data_hash=self.data.fingerprint,
            training=training,
            seed=asked.seed,
            is_tested=False,
            **fields,
        )

    def chains(self, spread: Callable[[float], Recipe]) -> Chains:
        """What the candidates share; spread: how a sparsity is spread over the layers."""
        tables = [layer.name for layer in layers(self.network) if not layer.is_prunable and len(layer.shape) > 1]
        owners = owners_of(self.network)
        embedded = tuple(name for name in tables if isinstance(owners[name], nn.Embedding | nn.EmbeddingBag))
        # Of several the largest is the vocabulary's; the others are of positions and types.
        embedded = embedded and (max(embedded, key=lambda name: self.network.get_parameter(name).numel()),)
        biases = [name for name, each in self.network.named_parameters() if each.dim() == 1 and name.endswith("bias")]
        coarse = (*(name for name in tables if name not in embedded), *biases)
        buffers = tuple(name for name, each in self.network.named_buffers() if each.is_floating_point())
        asked = self.asked
        return Chains(
            self.cell,
            self.dense,
            self.first,
            asked.recovery,
            spread,
            coarse=coarse,
            embedded=embedded,
            exact=buffers,
            rates=asked.recovery_rates,
            tuned_rates=asked.tuned_rates,
            distill=asked.distill,
        )

    def shapes(self) -> tuple[list[Candidate], list[str]]:
        """What is tried first; and why other kinds are not."""
        chains, notes = self.chains(lambda s: with_words(LAMP, budget=sparsity(s))), []

        def is_possible(candidate: Candidate) -> bool:
            try:
                for how in chains.begun(candidate).shrink:
                    shrink(self.network, how, self.data.x_train[:2])
                recipe = chains.recipe_of(candidate, "one_shot")
                if recipe is not None and not Masks.make(self.network, recipe, is_trial=True):
                    raise RecipeError("No layer of this network takes it.")
            except RecipeError as error:
                notes.append(f"Not tried: {candidate.cut}. {error}")
                return False
            return True

        students = [s for s in STUDENTS if not s or is_possible(Candidate(s, 0.0))]
        found = [Candidate(0.0, s) for s in GENTLE]
        found += [Candidate(student, s) for student in students for s in SPARSITIES]
        found += [each for each in (Candidate(0.0, 0.5, pattern=p) for p in PATTERNS) if is_possible(each)]
        return found, notes

    def check(self) -> None:
        """Lay the recipe on the network; raises what cannot be done."""
        n = len(self.data.y_val)
        least = surely(n, 0, 0)  # of a network that changes no answer
        if self.asked.max_drop < least:
            raise RecipeError(
                f"On {n:,} validation examples not even an unchanged network can be shown to lose no more than "
                f"{100 * self.asked.max_drop:g} points: {100 * least:.2g} might be lost all the same. "
                "Allow more, or give more validation examples."
            )
        Masks.make(self.network, LAMP, is_trial=True)
        if self.asked.is_trimmed:
            if self.data.unknown is None:
                raise RecipeError("A vocabulary is trimmed where the data are texts; these are images. Leave it out.")
            trim_vocabulary(self.network, self.data.x_train[:1], self.data.unknown)


def spread_by(name: str, scanned: Mapping[str, Any], sizes: Mapping[str, float]) -> Callable[[float], Recipe]:
    """The recipe that spreads a sparsity over the layers in one of SPREADS.

    scanned, sizes  {layer: what `scan` found}, {layer: weights}
    """
    if name == "lamp":
        return lambda s: with_words(LAMP, budget=sparsity(s))

    def by_scan(s: float) -> Recipe:
        shares = allocate(scanned, {name: sizes[name] for name in scanned}, s)
        budget = per_layer({name: sparsity(round(min(each, 0.999), 5)) for name, each in shares.items()})
        return with_words(LAMP, score="magnitude", pool="layer", budget=budget)

    return by_scan
