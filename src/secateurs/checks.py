"""Checks: small questions about input that every floor asks, answered with one clear error."""

import difflib
import importlib
import reprlib
from collections.abc import Iterable
from types import ModuleType

from secateurs.errors import MissingExtraError

MOST_NAMES = 24  # of a list in a message


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that lists the known names, nearest first: "Did you mean 'lamp'? Known: ..."."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"{hint}Known: {', '.join(names[:MOST_NAMES])}{more}."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 8, 8, 200, 200


def shown(value: object) -> str:
    """`repr` for a message: short whatever the value, which may be a document of a few bytes that names billions."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not print an int of thousands of digits
        return f"a {type(value).__name__} too long to show"


def first_line(error: BaseException) -> str:
    """What the error of another library says first; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def extra(module: str, name: str) -> ModuleType:
    """The optional module, or an error that says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"This needs '{module.split('.')[0]}', which is not installed. Run: pip install 'secateurs[{name}]'"
        ) from error
