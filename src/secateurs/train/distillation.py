"""Distillation: a network learns from the answers of a teacher, and from what the teacher thinks on the way.

    loss_with(module, distill, teacher, x) -> a function (positions of a batch in x, its inputs, its labels) -> loss

    loss = (1 - hardness) * cross-entropy + hardness * T^2 * KL(teacher / T || network / T)
           + hidden * distance + attention * KL(teacher's attention || network's)

The distance of hidden states is their squared difference by the teacher's squared size, averaged over the states; what
is said of attention is in attention.py.
Hinton et al. 2015, arXiv:1503.02531; hidden states: Jiao et al. 2019, arXiv:1909.10351.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateurs.errors import RecipeError
from secateurs.evaluating import evaluating, logits_of
from secateurs.layers import unwrap
from secateurs.settings import Settings
from secateurs.train.attention import Map, attention_loss, listening
from secateurs.words import a_number


class Distillation(Settings):
    """How much of the loss is the teacher's.

    hardness     share of the loss that comes from the teacher's answers instead of the labels; 1 hears no labels
    temperature  both networks' answers are divided by it, so that the teacher's doubts count
    hidden       weight of the hidden states' distance, beside the rest; for networks that have `hidden_names`
    attention    weight of the attentions' distance, beside the rest; for transformers with as many heads as the teacher
    """

    hardness: float = 0.9
    temperature: float = 2.0
    hidden: float = 0.0
    attention: float = 0.0

    @property
    def is_of_answers(self) -> bool:
        """Whether a teacher's answers are all that is learned from."""
        return not self.hidden and not self.attention

    def model_post_init(self, context: Any) -> None:
        """Numbers that can mean something."""
        a_number("The hardness of a distillation", self.hardness, 0.0, 1.0)
        a_number("The temperature of a distillation", self.temperature, 1e-3, 1e6)
        a_number("The weight of the hidden states", self.hidden, 0.0, 1e6)
        a_number("The weight of the attentions", self.attention, 0.0, 1e6)


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def loss_with(
    module: nn.Module,
    distill: Distillation | None,
    teacher: nn.Module | Tensor | None,
    x: Tensor,
    is_moving: bool = False,
) -> Loss:
    """The loss that trains `module`: cross-entropy, and what `distill` says of the teacher.

    teacher    a network, or its answers to x (n, classes), as `answers_of` gives them
    x          all training inputs: a teacher of answers alone answers them once, here
    is_moving  a batch differs from the inputs at its positions: the teacher answers every batch as it comes

    RecipeError where the two do not fit.
    """
    if (distill is None) != (teacher is None):
        raise RecipeError("A teacher and the training's 'distill' go together; found one without the other.")
    if distill is None or teacher is None:
        return lambda batch, inputs, labels: F.cross_entropy(module(inputs).float(), labels)
    if teacher is module:
        raise RecipeError("The teacher is the network that is trained. Give a copy of it: copy.deepcopy(module).")
    if isinstance(teacher, Tensor):
        if not distill.is_of_answers or is_moving or len(teacher) != len(x):
            raise RecipeError(
                "Answers alone, one for every training example, teach where inputs do not move and no hidden states or "
                "attentions are learned from. Give the network that teaches."
            )
        return _loss_by(module, distill, teacher)
    if distill.is_of_answers and not is_moving:
        return _loss_by(module, distill, answers_of(teacher, x))
    names = _hidden_names(module, teacher) if distill.hidden else ()
    hears = distill.attention > 0

    def loss(batch: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        logits, states, maps = _heard(module, names, hears, inputs)
        with torch.no_grad(), evaluating(teacher):
            answers, their_states, their_maps = _heard(teacher, names, hears, inputs)
        found = _loss_of(distill, logits, answers, labels)
        if names:
            found = found + distill.hidden * state_loss(states, their_states, names)
        if hears:
            found = found + distill.attention * attention_loss(maps, their_maps)
        return found

    return loss


def _loss_by(module: nn.Module, distill: Distillation, known: Tensor) -> Loss:
    def loss(batch: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        return _loss_of(distill, module(inputs), known[batch].to(inputs.device), labels)

    return loss


def _loss_of(distill: Distillation, logits: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
    taught = distill.hardness * answer_loss(logits, answers, distill.temperature)
    return (1.0 - distill.hardness) * F.cross_entropy(logits.float(), labels) + taught


def answer_loss(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean over examples of KL(teacher || network), both softened; never below 0.

    logits, answers  (batch, classes): the network's and the teacher's
    """
    if logits.shape != answers.shape:
        n, n_taught = logits.shape[-1], answers.shape[-1]
        raise RecipeError(f"The teacher knows {n_taught} classes, the network {n}. Take a teacher of the same classes.")
    mine, theirs = (F.log_softmax(each.float() / temperature, dim=1) for each in (logits, answers))
    # Rounding can put equal answers a hair below 0.
    return temperature**2 * F.kl_div(mine, theirs, reduction="batchmean", log_target=True).clamp_min(0.0)


def state_loss(states: Sequence[Tensor], theirs: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """Mean over hidden states of |state - teacher's|^2 / |teacher's|^2."""
    for name, state, other in zip(names, states, theirs, strict=True):
        if state.shape != other.shape:
            raise RecipeError(
                f"The hidden state '{name}' is {tuple(state.shape)}, the teacher's {tuple(other.shape)}. "
                "Take a teacher of the same shape, or hidden=0."
            )
    pairs = [(state.float(), other.float()) for state, other in zip(states, theirs, strict=True)]
    return torch.stack([(a - b).square().sum() / b.square().sum().clamp_min(1e-12) for a, b in pairs]).mean()


def _hidden_names(module: nn.Module, teacher: nn.Module) -> tuple[str, ...]:
    found = [tuple(getattr(unwrap(each), "hidden_names", ())) for each in (module, teacher)]
    if not found[0] or found[0] != found[1]:
        shown = [", ".join(names) or "none" for names in found]
        raise RecipeError(
            f"Distilling hidden states needs the same `hidden_names` in both networks; the network has {shown[0]}, "
            f"the teacher {shown[1]}. Use hidden=0 for the answers alone."
        )
    return found[0]


def answers_of(teacher: nn.Module, x: Tensor) -> Tensor:
    """The teacher's logits for all examples, beside them in memory: (n, classes)."""
    parts = [(which, logits.float().to(x.device)) for which, logits in logits_of(teacher, x)]
    order = torch.cat([which for which, _ in parts]).argsort()
    return torch.cat([logits for _, logits in parts])[order]


def _heard(
    module: nn.Module, names: Sequence[str], hears: bool, x: Tensor
) -> tuple[Tensor, list[Tensor], Sequence[Map]]:
    """The logits, what the submodules of these names gave on the way, and the attentions."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: Any, output: Any) -> None:
            found[name] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = [unwrap(module).get_submodule(name).register_forward_hook(keep(name)) for name in names]
    maps: Sequence[Map] = ()
    try:
        if hears:
            with listening() as maps:
                logits = module(x)
        else:
            logits = module(x)
    finally:
        for each in hooks:
            each.remove()
    return logits, [found[name] for name in names], maps
