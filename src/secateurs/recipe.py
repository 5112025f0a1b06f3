"""Recipe: the five words, and where they apply; one frozen value in Python, YAML, text and every output.

>>> print(Recipe(budget="sparsity(0.7)"))
magnitude element model sparsity(0.7) one_shot
"""

import re
from typing import Annotated, Any, Self

from pydantic import BeforeValidator

from secateurs.budgets import Budget, PerLayer, Threshold
from secateurs.checks import shown
from secateurs.errors import RecipeError
from secateurs.fit import check_words
from secateurs.pools import Pool, model
from secateurs.schedules import Schedule
from secateurs.scores import Score
from secateurs.settings import Settings
from secateurs.units import Unit, element
from secateurs.words import parse_argument, split_outside


def _patterns(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _plain_zero(value: object) -> object:
    return 0 if isinstance(value, float) and value == 0.0 else value


Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns)]


class Recipe(Settings):
    """How to prune: score, unit, pool, budget, schedule; and where: skip, only, min_keep.

    skip, only  shell-style patterns of parameter names; `only` overrides what is left alone by default (embeddings,
                class tokens, position tables), so only=["*"] is every floating weight of two or more dimensions
    min_keep    units (int) or share of units (float below 1) that every layer keeps whatever happens
    """

    score: Score = Score("magnitude")
    unit: Unit = element
    pool: Pool = model
    budget: Budget
    schedule: Schedule = Schedule("one_shot")
    skip: Patterns = ()
    only: Patterns = ()
    min_keep: Annotated[int | float, BeforeValidator(_plain_zero)] = 0

    def __init__(self, **values: Any) -> None:
        """Every word as a value or as its text: Recipe(budget=sparsity(0.7)), Recipe(budget="sparsity(0.7)")."""
        super().__init__(**values)

    def model_post_init(self, context: Any) -> None:
        """The words must fit each other, whatever the weights."""
        check_words(self.pool, self.budget, self.min_keep)
        self.pool.check_unit(self.unit)
        rules = [rule for _, rule in self.budget.rules] if isinstance(self.budget, PerLayer) else [self.budget]
        if self.score.name != "magnitude" and any(isinstance(b, Threshold) and b.per_sigma for b in rules):
            raise RecipeError(f"A threshold in sigmas is meant for magnitude; the score is '{self.score}'.")
        for pattern in (*self.skip, *self.only):
            if not re.fullmatch(r"[^\s,]+", pattern):
                raise RecipeError(f"{pattern!r} is not a pattern of parameter names.")
            split_outside(pattern, " ")

    def __str__(self) -> str:
        words = [self.score, self.unit, self.pool, self.budget, self.schedule]
        text = " ".join(str(word) for word in words)
        if self.skip:
            text += f" skip=[{', '.join(self.skip)}]"
        if self.only:
            text += f" only=[{', '.join(self.only)}]"
        return text + (f" min_keep={self.min_keep}" if self.min_keep else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The recipe that one line of text says: five words in any of their forms, then skip, only, min_keep.

        The schedule may be left out; a lone budget ("sparsity(0.7)") is a recipe too, and so is n:m ("2:4").
        """
        words = [word.strip() for word in split_outside(" ".join(text.split()), " ") if word.strip()]
        options: dict[str, Any] = {}
        while words and (match := re.fullmatch(r"(skip|only|min_keep)=(.+)", words[-1], re.DOTALL)):
            key, value = match.groups()
            if key in options:
                raise RecipeError(f"{text!r} says {key} twice.")
            if key == "min_keep":
                options[key] = parse_argument(value)
            else:
                inside = value[1:-1] if value.startswith("[") and value.endswith("]") else value
                options[key] = tuple(part.strip() for part in inside.split(","))
            words.pop()
        if len(words) == 1:
            if re.fullmatch(r"\d+:\d+", words[0]):
                n, m = n_of_m(words[0])
                return cls(pool=m, budget=f"top({n})", **options)
            return cls(budget=words[0], **options)
        if not 4 <= len(words) <= 5:
            raise RecipeError(
                f"{text!r} is not a recipe: expected 'score unit pool budget schedule', for example "
                "'magnitude element model sparsity(0.7) one_shot'."
            )
        names = ("score", "unit", "pool", "budget", "schedule")
        return cls(**dict(zip(names, words, strict=False)), **options)


def as_recipe(value: object) -> Recipe:
    """The recipe, or that of a line of text; RecipeError for anything else."""
    if isinstance(value, str):
        return Recipe.parse(value)
    if not isinstance(value, Recipe):
        raise RecipeError(f"A recipe is secateurs.Recipe(...), or a line of its words; got {type(value).__name__}.")
    return value


def n_of_m(pattern: str) -> tuple[int, int]:
    """The numbers of "2:4", n kept of every m neighbours; RecipeError where the text does not say that."""
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", pattern.strip())
    if found is None or not 0 < int(found[1]) <= int(found[2]):
        raise RecipeError(f"{shown(pattern)} is not n:m, n kept of every m neighbours, such as '2:4'.")
    return int(found[1]), int(found[2])


def with_words(recipe: Recipe, **words: Any) -> Recipe:
    """The recipe with some of its words replaced."""
    return Recipe(**{**{name: getattr(recipe, name) for name in Recipe.model_fields}, **words})
