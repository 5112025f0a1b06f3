"""Compiled: a function as machine code that lets go of Python's lock, kept on disk wherever a place can be written."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])
# By zero is divided as numpy does: a loop that asked first could not be made of vectors.
HOW: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}


def compiled(function: Function) -> Function:
    """The function compiled when first called.

    numba keeps it beside the package, or in the user's cache where the package cannot be written; where neither can,
    it refuses to keep it, and the function is compiled anew in every process.
    """
    try:
        kept: Any = njit(cache=True, **HOW)(function)
    except RuntimeError:
        kept = njit(**HOW)(function)
    else:
        # numba looks at a function's own file, but what it calls from others is compiled into it.
        index = kept._cache._cache_file
        here, there = Path(__file__).parent, Path(function.__code__.co_filename).parent
        index._source_stamp = (index._source_stamp, _sources(here), _sources(there))
    found: Function = kept
    return found


@cache
def _sources(folder: Path) -> str:
    """Names all code of a folder by its content."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
