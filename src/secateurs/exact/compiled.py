"""Compiled: a function as machine code that lets go of Python's lock, kept on disk wherever a place can be written."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function compiled when first called.

    numba keeps it beside the package, or in the user's cache where the package cannot be written; where neither can,
    it refuses to keep it, and the function is compiled anew in every process.
    """
    try:
        kept: Any = njit(nogil=True, cache=True, boundscheck=False)(function)
    except RuntimeError:
        kept = njit(nogil=True, boundscheck=False)(function)
    found: Function = kept
    return found
