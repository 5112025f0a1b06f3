"""Layer report: what became of one weight, and why; of a live network and of a file alike."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

Count = Annotated[int, Field(ge=0)]
Status = Literal["pruned", "skipped", "impossible"]


@dataclass(frozen=True)
class LayerReport:
    """What became of one parameter.

    status  "pruned", "skipped" or "impossible"; the last two with a reason
    tau     the absolute threshold on the unit's score, where the budget was one
    sigma   standard deviation of the layer's weights when the masks were made
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    name: str
    shape: tuple[Count, ...]
    n: Count
    n_pruned: Count
    status: Status
    reason: str = ""
    aliases: tuple[str, ...] = ()
    tau: float | None = None
    sigma: float | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "LayerReport":
        """From what `dataclasses.asdict` gave, after JSON or before; ValueError or TypeError if it is not that."""
        return _REPORT.validate_json(json.dumps(dict(values)))

    @property
    def sparsity(self) -> float:
        """Share of this layer's weights that go."""
        return self.n_pruned / self.n if self.n else 0.0


_REPORT = TypeAdapter(LayerReport)
