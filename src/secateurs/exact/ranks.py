"""Ranks: one process alone, or several that share the work and add up their counts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


class Ranks:
    """One process alone; the interface that several processes implement."""

    index = 0
    n = 1

    def sum(self, counts: Any) -> Counts:
        """The counts of all ranks added up, the same on every rank."""
        return np.asarray(counts, np.int64)

    def wait(self) -> None:
        """Return when every rank has come here."""


ALONE = Ranks()
