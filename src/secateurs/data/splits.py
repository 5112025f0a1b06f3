"""Splits: which examples are set aside, each class in proportion; a function of labels and seed alone."""

import numpy as np
import torch
from torch import Tensor

from secateurs.data.parts import Array, Part
from secateurs.errors import InputError, RecipeError

TEST_SHARE = 0.2
TEST_SEED = 20_000  # the carved test split is the same for ever, whatever split_seed is


def stratified(y: Array, n: int, seed: int, keep_both: bool) -> Array:
    """Sorted positions of n examples drawn from every class in proportion (largest remainders).

    y          (examples,) class numbers
    keep_both  every class keeps an example on either side, so that n is only met as far as that allows

    The permutation is numpy's RandomState, whose stream is frozen: the same split on every version and machine.
    """
    classes, counts = np.unique(y, return_counts=True)
    exact = counts * (n / len(y))
    share = np.floor(exact).astype(np.int64)
    low, high = (1, counts - 1) if keep_both else (0, counts)
    # A stable order: of equal remainders the lower class is served first.
    for i in np.argsort(share - exact, kind="stable")[: n - int(share.sum())]:
        share[i] += 1
    share = np.clip(share, low, high)
    random = np.random.RandomState(seed)
    chosen = []
    for label, k in zip(classes, share, strict=True):
        members = np.flatnonzero(y == label)
        chosen.append(random.permutation(members)[:k])
    return np.sort(np.concatenate(chosen))


def in_proportion(y: Tensor, n: int) -> Tensor:
    """Sorted positions of n examples at most, classes in proportion: the first n may all be of one class.

    y  (examples,) class numbers
    """
    if len(y) <= n:
        return torch.arange(len(y))
    return torch.from_numpy(stratified(np.asarray(y), n, seed=0, keep_both=False))


def carve(part: Part, n: int, seed: int, split: str, where: str, names: tuple[str, ...]) -> tuple[Part, Part]:
    """(the rest, the n carved examples); InputError where a class has too few examples for both sides."""
    counts = np.bincount(part.y, minlength=len(names))
    rare = int(counts.argmin())
    if counts[rare] < 2:
        n_rare = int((counts < 2).sum())
        raise InputError(
            f"{where}: cannot carve a {split} split, because {n_rare} class(es) have fewer than 2 training examples "
            f"(first: {names[rare]!r} with {counts[rare]}). Add examples, or bring a {split} split of your own."
        )
    taken = stratified(part.y, n, seed, keep_both=True)
    rest = np.setdiff1d(np.arange(len(part)), taken, assume_unique=True)
    return part.take(rest), part.take(taken)


def limit(part: Part, n: int | None, seed: int, split: str, every_class: bool) -> Part:
    """At most n examples, classes in proportion; with `every_class`, none of them may vanish."""
    if n is None or n >= len(part):
        return part
    n_classes = len(np.unique(part.y))
    if every_class and n < n_classes:
        raise RecipeError(f"limit_{split}={n} is less than one example for each of {n_classes} classes. Raise it.")
    if not every_class:
        return part.take(stratified(part.y, n, seed, keep_both=False))
    return part.take(_one_each(part.y, n, seed))


def _one_each(y: Array, n: int, seed: int) -> Array:
    """n positions in proportion, at least one per class: one of each first, the rest stratified."""
    random = np.random.RandomState(seed)
    first = np.array([random.permutation(np.flatnonzero(y == label))[0] for label in np.unique(y)])
    rest = np.setdiff1d(np.arange(len(y)), first)
    more = n - len(first)
    if more == 0:
        return np.sort(first)
    return np.sort(np.concatenate([first, rest[stratified(y[rest], more, seed, keep_both=False)]]))
