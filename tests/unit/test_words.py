"""The small language of recipes: read, written, read back the same; never code."""

from collections.abc import Callable

import pytest
from pydantic import TypeAdapter

from secateurs.budgets import Budget
from secateurs.errors import RecipeError
from secateurs.models import ModelSpec
from secateurs.schedules import Schedule
from secateurs.scores import Score
from secateurs.words import a_count, a_number, call, format_call, parse_argument, parse_call, split_outside


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("row", ("row", (), {})),
        ("4", ("4", (), {})),
        ("row()", ("row", (), {})),
        (" block( 4 ,4 ) ", ("block", (4, 4), {})),
        ("sparsity(0.7)", ("sparsity", (0.7,), {})),
        ("threshold(1.2sigma)", ("threshold", ("1.2sigma",), {})),
        ("cubic(0.1, every=50)", ("cubic", (0.1,), {"every": 50})),
        ("net(patch='2x8')", ("net", (), {"patch": "2x8"})),
        ("cls-transformer(dim=64, lr=1e-3)", ("cls-transformer", (), {"dim": 64, "lr": 0.001})),
    ],
)
def test_a_call_is_read_and_reads_back(text: str, said: tuple[str, tuple[object, ...], dict[str, object]]) -> None:
    assert parse_call(text) == said
    assert parse_call(format_call(*parse_call(text))) == said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a word of a recipe"),
        ("block(4", "is not a word of a recipe"),
        ("__import__('os').system('x')", "cannot read the argument"),
        ("block(4,,4)", "cannot read the argument ''"),
        ("block(4,)", "cannot read the argument ''"),
        ("cubic(every=)", "cannot read the argument 'every='"),
        ("cubic(every=50, 0.1)", "'0.1' stands after a named argument; give it a name too"),
        ("sparsity(s=0.7, s=0.1)", "'s' is given twice"),
        ("f(g(1))", r"cannot read the argument 'g\(1\)'"),
    ],
)
def test_what_is_not_a_call_is_one_recipe_error(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_call(text)


def test_an_argument_is_a_number_where_it_is_one() -> None:
    values = [parse_argument(text) for text in (" 4 ", "4.0", "1e-3", "4x4", "'4'")]
    assert values == [4, 4.0, 0.001, "4x4", "4"]
    assert [type(value) for value in values] == [int, float, float, str, str]


def test_text_is_split_only_outside_brackets() -> None:
    assert split_outside("a(1, 2), [b, c], d", ",") == ["a(1, 2)", " [b, c]", " d"]
    with pytest.raises(RecipeError, match=r"a '\)' too many"):
        split_outside("a(1)), b", ",")
    with pytest.raises(RecipeError, match=r"'\]' is missing"):
        split_outside("[a, b", ",")
    with pytest.raises(RecipeError, match="in the wrong place"):
        split_outside("(a]", ",")


def test_a_word_of_a_table_is_called_and_errors_name_it() -> None:
    makers = {"block": lambda h, w: (h, w), "row": lambda: "row"}
    assert call("unit", makers, "block(2, w=3)") == (2, 3)
    with pytest.raises(RecipeError, match=r"Unknown unit 'blok'\. Did you mean 'block'\? Known: block, row\."):
        call("unit", makers, "blok(2, 3)")
    with pytest.raises(RecipeError, match=r"unit 'block\(2\)': .*missing"):
        call("unit", makers, "block(2)")


@pytest.mark.parametrize("value", [True, "1", None, -0.1, 1.1, float("nan"), float("inf")])
def test_a_number_out_of_range_is_named(value: object) -> None:
    with pytest.raises(RecipeError, match=r"tau must be a number from 0\.0 to 1\.0; got "):
        a_number("tau", value, 0.0, 1.0)


def test_a_number_within_range_is_a_float_and_zero_has_no_sign() -> None:
    assert a_number("tau", 1, 0.0, 1.0) == 1.0
    assert str(a_number("tau", -0.0, 0.0, 1.0)) == "0.0"


@pytest.mark.parametrize("value", [True, 1.0, "1", 0])
def test_a_count_is_a_whole_number(value: object) -> None:
    with pytest.raises(RecipeError, match="every must be a whole number of at least 1; got "):
        a_count("every", value, 1)


def test_words_have_a_schema_that_documents_them() -> None:
    schema = TypeAdapter(Schedule).json_schema()
    assert schema["type"] == "string"
    assert "cubic(0.1, 0.75, every=50)" in schema["examples"]
    assert schema["description"].startswith("When the budget is reached")


@pytest.mark.parametrize(
    ("parse", "text", "name"),
    [
        (Schedule.parse, "cubic(0.1, 0.6, end=0.9)", "end"),
        (Schedule.parse, "rounds(3, n=4)", "n"),
        (Score.parse, "random(7, seed=8)", "seed"),
        (Budget.parse, "sparsity(s=0.7, s=0.1)", "s"),
        (ModelSpec.parse, "cls-transformer(dim=32, dim=64)", "dim"),
    ],
)
def test_an_argument_that_is_given_twice_is_refused(parse: Callable[[str], object], text: str, name: str) -> None:
    """Bug: the last one counted, without a word."""
    with pytest.raises(RecipeError, match=f"'{name}' is given twice"):
        parse(text)
