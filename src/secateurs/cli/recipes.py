"""Recipes on the command line: a YAML file or one line of words."""

import os
from pathlib import Path
from typing import Any

from secateurs.errors import InputError
from secateurs.recipe import Recipe, with_words


def read_recipe(text: str, more: dict[str, Any] | None = None) -> Recipe:
    """The recipe that a file or a line says, with what `more` says beyond it."""
    if text.endswith((".yaml", ".yml")) or os.path.isfile(text):  # Path.is_file raises for a long text
        recipe = Recipe.from_yaml(read_text(text))
    else:
        recipe = Recipe.parse(text)
    return with_words(recipe, **{word: value for word, value in (more or {}).items() if value})


def read_text(path: str) -> str:
    """A text file; InputError where it cannot be read."""
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}.") from error
