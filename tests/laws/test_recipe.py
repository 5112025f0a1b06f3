"""Laws of recipes: one value in Python, YAML, text and hash; strict, frozen, helpful about typos."""

from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import secateurs as sc
from laws.strategies import fractions
from secateurs.budgets import BUDGETS
from secateurs.errors import RecipeError
from secateurs.pools import POOLS
from secateurs.schedules import SCHEDULES
from secateurs.scores import SCORES
from secateurs.units import UNITS

SIZES = st.integers(1, 64)
PATTERNS = st.sampled_from(["*", "head.*", "a.weight", "blocks.?.ffn.*", "layer[12]", "*_proj.weight"])
TAUS = st.floats(0, 1e6) | st.sampled_from(["1.2sigma", "0.95sigma", "2sigma", 0, 1e-7])


def simple_budgets():
    return st.one_of(
        fractions().map(sc.sparsity), TAUS.map(sc.threshold), st.integers(0, 9).map(sc.top), st.just(sc.sparsity(0))
    )


@st.composite
def schedules(draw):
    begin, end = sorted((draw(fractions()), draw(fractions())))
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    first = f"{draw(SIZES)}, " if name == "rounds" else ""
    return draw(st.sampled_from([f"{name}({first}{begin}, {end}, every={draw(SIZES)})", "one_shot", "cubic"]))


@st.composite
def recipes(draw):
    """Any recipe whose words fit each other."""
    unit = draw(st.sampled_from([sc.element, sc.row, sc.column, sc.block(2, 3), sc.block(1, 4)]))
    pools = [sc.layer, sc.model] + ([sc.row, 4, 8] if unit in (sc.element, sc.block(1, 4)) else [])
    pool = draw(st.sampled_from(pools))
    budget = draw(simple_budgets())
    if pool is not sc.model:
        own = st.dictionaries(PATTERNS, simple_budgets(), min_size=1, max_size=3).map(sc.per_layer)
        budget = draw(st.just(budget) | fractions().map(sc.erk) | own)
    in_sigmas = "sigma" in str(budget)
    return sc.Recipe(
        score="magnitude" if in_sigmas else draw(st.sampled_from(["magnitude", "lamp", "random", "random(7)"])),
        unit=unit,
        pool=pool,
        budget=budget,
        schedule=draw(schedules()),
        skip=draw(st.lists(PATTERNS, max_size=2).map(tuple)),
        only=draw(st.lists(PATTERNS, max_size=2).map(tuple)),
        min_keep=draw(st.sampled_from([0, 1, 7, 0.05, 0.0])),
    )


@given(recipes())
def test_yaml_and_back_is_the_same_recipe(recipe):
    text = recipe.to_yaml()
    assert sc.Recipe.from_yaml(text) == recipe
    assert sc.Recipe.from_yaml(text).to_yaml() == text
    assert isinstance(yaml.safe_load(text), dict)


@given(recipes())
def test_text_and_back_is_the_same_recipe(recipe):
    assert "\n" not in str(recipe)
    assert sc.Recipe.parse(str(recipe)) == recipe


@pytest.mark.parametrize("pattern", ["layer[12]", "[ab]*", "[]]", "a,b", "*.{x}", "w=1", "ä.*"])
@pytest.mark.parametrize("field", ["skip", "only"])
def test_odd_patterns_are_refused_or_survive_the_text_form(field, pattern):
    recipe = None
    with suppress(RecipeError):
        recipe = sc.Recipe(budget=sc.sparsity(0.5), **{field: ("a.*", pattern)})
    assert recipe is None or sc.Recipe.parse(str(recipe)) == recipe
    assert recipe is None or sc.Recipe.from_yaml(recipe.to_yaml()) == recipe


@given(recipes(), recipes())
def test_the_hash_is_equal_for_equal_recipes_only(recipe, other):
    assert (recipe.hash == other.hash) == (recipe == other)
    assert recipe.hash == sc.Recipe.from_yaml(recipe.to_yaml()).hash == sc.Recipe.parse(str(recipe)).hash


@pytest.mark.parametrize(
    ("this", "that"),
    [
        ({"min_keep": 0}, {"min_keep": 0.0}),
        ({"budget": sc.sparsity(0.0)}, {"budget": sc.sparsity(-0.0)}),
        ({"budget": sc.sparsity(1)}, {"budget": sc.sparsity(1.0)}),
        ({"budget": sc.threshold("1.2sigma")}, {"budget": "threshold(1.20 sigma)"}),
        ({"budget": {"a": sc.sparsity(0.5)}}, {"budget": sc.per_layer({"a": sc.sparsity(0.5)})}),
        ({"score": "random"}, {"score": "random(0)"}),
        ({"schedule": "cubic"}, {"schedule": "cubic(0.0, 1, every=1)"}),
        ({"pool": 4}, {"pool": "4"}),
    ],
)
def test_two_ways_of_saying_the_same_are_one_recipe(this, that):
    base = {"pool": "layer", "budget": sc.sparsity(0.5)}
    this, that = sc.Recipe(**{**base, **this}), sc.Recipe(**{**base, **that})
    assert this == that
    assert this.hash == that.hash
    assert hash(this) == hash(that)
    assert str(this) == str(that)


@given(recipes(), st.sampled_from(sorted(sc.Recipe.model_fields)))
def test_recipes_are_frozen(recipe, field):
    with pytest.raises(ValueError):
        setattr(recipe, field, getattr(recipe, field))


def test_words_and_values_are_the_same_recipe():
    spoken = sc.Recipe(score="magnitude", unit="row", pool="layer", budget="top(2)", schedule="rounds(5)")
    built = sc.Recipe(score="magnitude", unit=sc.row, pool=sc.layer, budget=sc.top(2), schedule="rounds(n=5)")
    assert spoken == built
    assert sc.Recipe(budget="sparsity(0.7)") == sc.Recipe(
        score="magnitude", unit="element", pool="model", budget=sc.sparsity(0.7), schedule="one_shot"
    )


def test_the_tables_have_the_promised_words():
    assert {"element", "row", "column", "block"} <= set(UNITS)
    assert {"row", "layer", "model"} <= set(POOLS)
    assert {"sparsity", "threshold", "top", "erk"} <= set(BUDGETS)


SETTINGS = {"block": "(2, 2)", "rounds": "(3)", "sparsity": "(0.5)", "threshold": "(0.5)", "top": "(1)", "erk": "(0.5)"}
WORDS = [
    *[("score", word) for word in SCORES],
    *[("unit", word) for word in UNITS],
    *[("pool", word) for word in POOLS],
    *[("budget", word) for word in BUDGETS],
    *[("schedule", word) for word in SCHEDULES],
]


@pytest.mark.parametrize(("field", "word"), WORDS)
def test_every_word_of_every_table_makes_a_recipe(field, word):
    spoken = word + SETTINGS.get(word, "")
    recipe = sc.Recipe(**{"pool": "layer", "budget": "sparsity(0.5)", field: spoken})
    assert str(getattr(recipe, field)).startswith(word)
    assert sc.Recipe.parse(str(recipe)) == recipe


@pytest.mark.parametrize(("field", "word"), WORDS)
def test_a_typo_suggests_the_word_that_was_meant(field, word):
    typo = word[:-1] + "_" + word[-1]
    with pytest.raises(RecipeError, match=f"Did you mean '{word}'"):
        sc.Recipe(**{field: typo + SETTINGS.get(word, "")})


def test_an_unknown_key_is_refused_and_the_right_one_suggested():
    with pytest.raises(RecipeError, match="budget"):
        sc.Recipe(budgett=sc.sparsity(0.5))
    with pytest.raises(RecipeError, match="schedule"):
        sc.Recipe.from_yaml("budget: sparsity(0.5)\nschedul: cubic\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "just words",
        "budget: [1",
        "budget: 3",
        "budget: sparsity(1.5)",
        "budget: sparsity(nan)",
        "budget: sparsity('0.5')",
        "budget: sparsity(0.5, 0.6)",
        "budget: sparsity(share=0.5)",
        "budget: sparsity",
        "budget: threshold(-1)",
        "budget: threshold(inf)",
        "budget: threshold(1.2sigmas)",
        "budget: top(1.5)",
        "budget: top(-1)",
        "budget: __import__('os')",
        "budget: !!python/object/apply:os.getcwd []",
        "budget: {a.*: sparsity(0.5), b.*: }",
        'budget: "{a.*: sparsity(0.5), b.*: nonsense}"\npool: layer',
        "unit: block(0, 4)",
        "unit: block(2)",
        "unit: element(3)",
        "pool: 0",
        "pool: -4",
        "pool: 2.5",
        "pool: true",
        "schedule: rounds",
        "schedule: cubic(0.9, 0.1)",
        "min_keep: -1",
        "min_keep: 1.5",
        "min_keep: many",
        "skip: 3",
    ],
)
def test_what_means_nothing_is_one_recipe_error(text):
    with pytest.raises(RecipeError) as caught:
        sc.Recipe.from_yaml(text)
    assert str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "magnitude",
        "magnitude element",
        "magnitude element model",
        "magnitude element model sparsity(0.5) one_shot more",
        "magnitude element model sparsity(0.5) cubic(0.1",
        "magnitude element model sparsity(0.5) cubic(0.1))",
        "sparsity(0.5) skip=[a]]",
        "sparsity(0.5) skip=[a",
        "sparsity(0.5) min_keep=1 min_keep=2",
        "magnitude element layer {a: sparsity(0.5), b: nonsense}",
        "magnitude element layer {a: sparsity(0.5), b}",
        "magnitude element layer {a: sparsity(0.5), a: sparsity(0.9)}",
        "magnitude element layer {}",
    ],
)
def test_no_part_of_a_text_is_dropped(text):
    """Half-read text would prune otherwise than it says."""
    with pytest.raises(RecipeError):
        sc.Recipe.parse(text)


@pytest.mark.parametrize(
    "words",
    [
        {"pool": "model", "budget": sc.erk(0.5)},
        {"pool": "model", "budget": {"*": sc.sparsity(0.5)}},
        {"pool": "row", "unit": "row", "budget": sc.sparsity(0.5)},
        {"pool": 4, "unit": "column", "budget": sc.sparsity(0.5)},
        {"pool": 4, "unit": "block(2, 2)", "budget": sc.top(1)},
        {"score": "lamp", "budget": sc.threshold("1.2sigma")},
    ],
)
def test_words_that_do_not_fit_each_other_are_refused_before_any_weight(words):
    with pytest.raises(RecipeError):
        sc.Recipe(**words)
