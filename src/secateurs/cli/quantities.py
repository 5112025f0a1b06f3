"""Quantities: what people write on a command line, as numbers in plain units: 0.5pp, 5MB, 8ms, 30min."""

import math
import re

from secateurs.checks import shown
from secateurs.errors import RecipeError

UNITS: dict[str, dict[str, float]] = {
    "share": {"pp": 0.01, "%": 0.01},
    "bytes": {"B": 1.0, "KB": 1e3, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "seconds": {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
}
EXAMPLES = {"share": "0.5pp", "bytes": "5MB", "seconds": "8ms or 30min"}


def quantity(option: str, text: str, kind: str) -> float:
    """The number that a text says, at least 0, in shares, bytes or seconds; RecipeError for anything else.

    >>> quantity("--max-drop", "0.5pp", "share"), quantity("--target-size", "5 MB", "bytes")
    (0.005, 5000000.0)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z%]+)\s*", text)
    units = UNITS[kind]
    if found is None or found[2] not in units or not math.isfinite(float(found[1])):
        known = ", ".join(units)
        raise RecipeError(
            f"{option} takes a number with one of the units {known}, such as {EXAMPLES[kind]}; got {shown(text)}."
        )
    return float(found[1]) * units[found[2]]
