"""Words: the small language recipes are written in, `name` or `name(0.7, every=50)`; data, never code.

>>> parse_call("block(4, 4)")
('block', (4, 4), {})
>>> format_call("cubic", (0.1,), {"every": 50})
'cubic(0.1, every=50)'
"""

import re
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from secateurs.checks import nearest, shown
from secateurs.errors import RecipeError

Argument = int | float | str

_CALL = re.compile(r"\s*([A-Za-z0-9_.][\w.\-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)
_PLAIN = re.compile(r"[^,()=\s][^,()=]*")


def parse_argument(text: str) -> Argument:
    """A number where the text is one, else the text itself without its quotes."""
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")


def parse_call(text: str) -> tuple[str, tuple[Argument, ...], dict[str, Argument]]:
    """(name, positional arguments, named arguments) of `name(a, b, key=c)`; RecipeError if it is not one."""
    match = _CALL.fullmatch(text)
    if match is None:
        raise RecipeError(f"{text!r} is not a word of a recipe. Write it as name or name(value, key=value).")
    name, inside = match.groups()
    positional: list[Argument] = []
    named: dict[str, Argument] = {}
    for part in (inside or "").split(",") if (inside or "").strip() else []:
        key, is_named, value = part.partition("=")
        if not _PLAIN.fullmatch((value if is_named else key).strip()):
            raise RecipeError(f"{text!r}: cannot read the argument {part.strip()!r}.")
        if is_named and key.strip() in named:
            raise RecipeError(f"{text!r}: {key.strip()!r} is given twice.")
        if is_named:
            named[key.strip()] = parse_argument(value)
        elif named:
            raise RecipeError(f"{text!r}: {part.strip()!r} stands after a named argument; give it a name too.")
        else:
            positional.append(parse_argument(key))
    return name, tuple(positional), named


def format_call(name: str, positional: tuple[Argument, ...], named: Mapping[str, Argument]) -> str:
    """The text that `parse_call` reads back."""
    parts = [str(value) for value in positional]
    parts += [f"{key}={value}" for key, value in named.items()]
    return f"{name}({', '.join(parts)})" if parts else name


def by_name(
    text: str, known: Iterable[str], positional: tuple[Argument, ...], named: Mapping[str, Argument]
) -> dict[str, Argument]:
    """All arguments by their names, those without one in the order of `known`; RecipeError where one comes twice."""
    given = dict(zip(known, positional, strict=False))
    for key in named:
        if key in given:
            raise RecipeError(f"{text!r}: {key!r} is given twice, once without its name.")
    return given | dict(named)


def split_outside(text: str, separator: str) -> list[str]:
    """The parts of `text` between separators that no bracket encloses; RecipeError where brackets do not match.

    >>> split_outside("a(1, 2), b", ",")
    ['a(1, 2)', ' b']
    """
    parts, open_brackets, start = [], "", 0
    for i, letter in enumerate(text):
        if letter in "([{":
            open_brackets += ")]}"["([{".index(letter)]
        elif letter in ")]}":
            if not open_brackets.endswith(letter):
                raise RecipeError(f"{text!r}: a {letter!r} too many, or in the wrong place.")
            open_brackets = open_brackets[:-1]
        elif letter == separator and not open_brackets:
            parts.append(text[start:i])
            start = i + 1
    if open_brackets:
        raise RecipeError(f"{text!r}: {open_brackets[-1]!r} is missing.")
    return [*parts, text[start:]]


def call(kind: str, makers: Mapping[str, Callable[..., Any]], text: str) -> Any:
    """What `makers[name](*arguments)` gives for the call written in `text`; one clear error if it cannot.

    kind  what is being read, for the message ("budget")
    """
    name, positional, named = parse_call(text)
    if name not in makers:
        raise RecipeError(f"Unknown {kind} {name!r}. {nearest(name, makers)}")
    try:
        return makers[name](*positional, **named)
    except TypeError as error:
        raise RecipeError(f"{kind} {text.strip()!r}: {error}") from error


def a_number(what: str, value: object, low: float, high: float) -> float:
    """`value` as a float if it is a number in [low, high], else a RecipeError that names it."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
        raise RecipeError(f"{what} must be a number from {low} to {high}; got {shown(value)}.")
    return float(value) + 0.0  # -0.0 becomes 0.0


def a_count(what: str, value: object, low: int) -> int:
    """`value` if it is an int of at least `low`, else a RecipeError that names it."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise RecipeError(f"{what} must be a whole number of at least {low}; got {shown(value)}.")
    return int(value)


class Word:
    """Interface of a recipe's words: `parse` reads text or a value, `str` writes the text that reads back."""

    examples: ClassVar[Iterable[str]] = ()
    json_types: ClassVar[tuple[str, ...]] = ("string",)

    @classmethod
    def parse(cls, value: object) -> Self:
        """The word that `value` says; RecipeError if it says none."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.to_string_ser_schema(when_used="always")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        types = cls.json_types[0] if len(cls.json_types) == 1 else list(cls.json_types)
        return {
            "type": types,
            "description": (cls.__doc__ or "").split("\n")[0],
            "examples": [*cls.examples],
        }
