"""Targets as people write them."""

import pytest

from secateurs.cli.quantities import quantity
from secateurs.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("0.5pp", "share", 0.005),
        ("1 %", "share", 0.01),
        ("5MB", "bytes", 5e6),
        ("1.5KiB", "bytes", 1536.0),
        ("8ms", "seconds", 0.008),
        ("30 min", "seconds", 1800.0),
        (".5s", "seconds", 0.5),
    ],
)
def test_a_number_with_a_unit(text: str, kind: str, found: float) -> None:
    assert quantity("--x", text, kind) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("5", "bytes"), ("0.5", "share"), ("-1ms", "seconds"), ("8 apples", "bytes"), ("", "share"), ("5MB", "seconds")],
)
def test_anything_else_is_told_what_would_do(text: str, kind: str) -> None:
    with pytest.raises(RecipeError, match=r"--x takes a number with one of the units .*, such as \d"):
        quantity("--x", text, kind)
