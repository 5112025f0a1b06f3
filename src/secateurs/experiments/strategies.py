"""Strategies: every way to a pruned network, as data.

A strategy is a function (ground, sparsity, seed) -> Cell. To add one: write it here and add its line to STRATEGIES; the
comparison, the command line and the docs find it there. All have the same training budget, the epochs of training and
fine-tuning together, of a network that is given those of fine-tuning; only `scratch-b` has twice as many, which is its
idea. What found the masks of a network that is trained from scratch is not in its budget.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from secateurs.budgets import Erk, erk, sparsity, threshold
from secateurs.experiments.cells import Cell, Recovery
from secateurs.experiments.exploration import HELD
from secateurs.recipe import Recipe, with_words
from secateurs.train.training import Training

OTHER_SEED = 1_000_000  # added to a seed for other first weights


@dataclass(frozen=True)
class Ground:
    """What all strategies share.

    cell       makes a cell of the experiment: cell(seed, training, **fields)
    training   of a network that is pruned afterwards
    fine_tune  after it was pruned
    recipe     its budget is replaced; its schedule is that of `gradual`
    n_rounds   of `iterative`
    weights    sha256 of the weights that every network begins with; None: fresh ones, and `training` comes first
    """

    cell: Callable[..., Cell]
    training: Training
    fine_tune: Training
    recipe: Recipe
    n_rounds: int
    weights: str | None = None

    @property
    def whole(self) -> Training:
        """The training budget of every strategy: training and fine-tuning together."""
        if self.weights is not None:
            return self.fine_tune
        return with_fields(self.training, epochs=self.training.epochs + self.fine_tune.epochs)

    @property
    def untrained(self) -> Training:
        """No training at all."""
        return with_fields(self.training, epochs=0.0, distill=None)

    @property
    def rewound(self) -> Training:
        """The last part of the training's rate curve, as long as the fine-tuning."""
        epochs = self.fine_tune.epochs
        return with_fields(self.training, epochs=epochs, rate_from=1.0 - epochs / self.training.epochs)

    @property
    def early(self) -> Training:
        """The part of the training before that."""
        p = 1.0 - self.fine_tune.epochs / self.training.epochs
        # With as long a fine-tuning as training, the weights go back to the first ones.
        return with_fields(self.training, epochs=p * self.training.epochs, rate_to=p or 1.0)

    def begun(self, seed: int, training: Training, **fields: object) -> Cell:
        """A network that begins with the weights that are given, or with fresh ones."""
        return self.cell(seed, training, weights=self.weights, **fields)

    def trained(self, seed: int) -> Cell:
        """The dense network that is pruned and trained on: the given one, as it is, or one that was trained."""
        return self.begun(seed, self.training if self.weights is None else self.untrained)

    def once(self, s: float, schedule: str = HELD) -> Recipe:
        """The recipe at one sparsity, all at once."""
        return with_words(at_sparsity(self.recipe, s), schedule=schedule)


Strategy = Callable[[Ground, float, int], Cell]


def dense(ground: Ground, s: float, seed: int) -> Cell:
    """Nothing is pruned: the baseline, trained as long as everything else."""
    return ground.begun(seed, ground.whole)


def one_shot(ground: Ground, s: float, seed: int) -> Cell:
    """The dense network is cut once; no training after it."""
    return _cut(ground, s, seed)


def batch_norm(ground: Ground, s: float, seed: int) -> Cell:
    """One-shot, then the statistics of its normalisations are measured anew."""
    return _cut(ground, s, seed, ("batch_norm",))


def repaired(ground: Ground, s: float, seed: int) -> Cell:
    """One-shot, then least squares fit the weights that are left, layer by layer, and normalisations are measured."""
    return _cut(ground, s, seed, ("repair", "batch_norm"))


def fine_tuned(ground: Ground, s: float, seed: int) -> Cell:
    """One-shot, then fine-tuning with the zeros held."""
    return ground.cell(seed, ground.fine_tune, recipe=ground.once(s), start=ground.trained(seed))


def repaired_tuned(ground: Ground, s: float, seed: int) -> Cell:
    """One-shot and repair, then fine-tuning with the zeros held."""
    mended = _cut(ground, s, seed, ("repair", "batch_norm"), start=ground.trained(seed))
    return ground.cell(seed, ground.fine_tune, recipe=ground.once(s), start=mended, masks=mended)


def iterative(ground: Ground, s: float, seed: int) -> Cell:
    """Cut and fine-tuned in rounds that each take the same share of what is left.

    Han et al. 2015, arXiv:1506.02626.
    """
    cell, n = ground.trained(seed), ground.n_rounds
    part = with_fields(ground.fine_tune, epochs=ground.fine_tune.epochs / n)
    for k in range(1, n + 1):
        kept = (1.0 - s) ** (k / n)
        cell = ground.cell(seed, part, recipe=ground.once(s if k == n else round(1.0 - kept, 12)), start=cell)
    return cell


def rate_rewound(ground: Ground, s: float, seed: int) -> Cell:
    """One-shot, then the last part of the training's rate curve again.

    Renda et al. 2020, arXiv:2003.02389.
    """
    return ground.cell(seed, ground.rewound, recipe=ground.once(s), start=ground.trained(seed))


def weight_rewound(ground: Ground, s: float, seed: int) -> Cell:
    """As rate-rewound, from the weights of the moment when that part began.

    The masks are those of the trained network, as in `rate-rewound`. Frankle et al. 2020, arXiv:1912.05671.
    """
    start = ground.cell(seed, ground.early)
    return ground.cell(seed, ground.rewound, recipe=ground.once(s), start=start, masks=ground.trained(seed))


def in_loop(ground: Ground, s: float, seed: int) -> Cell:
    """In the loop: after every step all |w| up to c sigma of their layer are zeroed, and may grow back.

    c is what removes s of a normal distribution, so the sparsity that is reached is another, and is what is shown.
    """
    c = round(NormalDist().inv_cdf((1.0 + s) / 2.0), 4)
    recipe = with_words(ground.recipe, score="magnitude", unit="element", pool="layer", budget=threshold(f"{c}sigma"))
    return ground.begun(seed, with_fields(ground.whole, revive="forget"), recipe=recipe)


def gradual(ground: Ground, s: float, seed: int) -> Cell:
    """In the loop, more and more by the recipe's schedule; what is zero stays.

    Zhu & Gupta 2017, arXiv:1710.01878.
    """
    return ground.begun(seed, ground.whole, recipe=at_sparsity(ground.recipe, s))


def regrown(ground: Ground, s: float, seed: int) -> Cell:
    """Gradual, with a dense copy from which weights may return.

    Guo et al. 2016, arXiv:1608.04493.
    """
    recipe = at_sparsity(ground.recipe, s)
    return ground.begun(seed, with_fields(ground.whole, revive="dense"), recipe=recipe)


def random_masks(ground: Ground, s: float, seed: int) -> Cell:
    """Control: as many weights of every layer as one-shot leaves, at random places, trained from the start."""
    return ground.begun(seed, ground.whole, recipe=ground.once(s), masks=dense(ground, s, seed), is_shuffled=True)


def scratch_e(ground: Ground, s: float, seed: int) -> Cell:
    """Control: one-shot's masks on other first weights, trained from the start.

    Liu et al. 2019, arXiv:1810.05270.
    """
    return _scratch(ground, s, seed, ground.whole)


def scratch_b(ground: Ground, s: float, seed: int) -> Cell:
    """As scratch-e, with twice the epochs, for the operations that the zeros save in theory."""
    return _scratch(ground, s, seed, with_fields(ground.whole, epochs=2 * ground.whole.epochs))


STRATEGIES: dict[str, Strategy] = {
    "one-shot": one_shot,
    "batch-norm": batch_norm,
    "repaired": repaired,
    "fine-tuned": fine_tuned,
    "repaired-tuned": repaired_tuned,
    "iterative": iterative,
    "rate-rewound": rate_rewound,
    "weight-rewound": weight_rewound,
    "in-loop": in_loop,
    "gradual": gradual,
    "regrown": regrown,
    "random": random_masks,
    "scratch-e": scratch_e,
    "scratch-b": scratch_b,
}
# Those that need to know how a network was trained from its first weights on.
FROM_FIRST_WEIGHTS = ("rate-rewound", "weight-rewound", "scratch-e", "scratch-b")


def at_sparsity(recipe: Recipe, s: float) -> Recipe:
    """The recipe with this sparsity in place of its budget's; spread by ERK where that was."""
    return with_words(recipe, budget=erk(s) if isinstance(recipe.budget, Erk) else sparsity(s))


def with_fields(training: Training, **fields: object) -> Training:
    """The training with some fields replaced, checked again."""
    return Training(**{**training.values(), **fields})


def _cut(ground: Ground, s: float, seed: int, recover: tuple[Recovery, ...] = (), start: Cell | None = None) -> Cell:
    start = start or dense(ground, s, seed)
    return ground.cell(seed, ground.untrained, recipe=ground.once(s, "one_shot"), start=start, recover=recover)


def _scratch(ground: Ground, s: float, seed: int, training: Training) -> Cell:
    start = ground.cell(seed + OTHER_SEED, ground.untrained)
    return ground.cell(seed, training, recipe=ground.once(s), start=start, masks=dense(ground, s, seed))
