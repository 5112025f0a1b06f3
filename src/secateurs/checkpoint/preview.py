"""Preview: what a run would do, found by choosing and not writing: per tensor what would go, bytes, memory, time."""

import time
from dataclasses import dataclass
from typing import Any

from secateurs.checkpoint.cutting import STRETCH, Cutter, copied
from secateurs.checkpoint.plan import Plan, make_plan
from secateurs.checkpoint.shards import shards_of
from secateurs.checkpoint.streamed import AHEAD
from secateurs.checkpoint.tensors import Checkpoint
from secateurs.exact.parts import PIECE
from secateurs.exact.threads import n_threads
from secateurs.recipe import Recipe

PROCESS_BYTES = 80_000_000  # Python, numpy and numba
TORCH_BYTES = 150_000_000  # more, where a recipe's score or pool needs it


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    layers        {"name", "shape", "dtype", "n", "n_pruned", "status", "reason"} of every tensor
    size_bytes    what would be written
    memory_bytes  an upper estimate of the process's own memory; the files are mapped and do not count
    seconds       an estimate without the disk's part: choosing took so long now, zeroing by the speed of one stretch
    """

    recipe: str
    layers: tuple[dict[str, Any], ...]
    size_bytes: int
    memory_bytes: int
    seconds: float


def preview(checkpoint: Checkpoint, recipe: Recipe) -> Preview:
    """Choose as a run would, and write nothing. Raises what a run raises before it writes."""
    start = time.monotonic()
    plan = make_plan(checkpoint, recipe)
    size = sum(shard.n_bytes for shard in shards_of(checkpoint))
    cutter = Cutter(checkpoint, plan)
    cutter.prepare()
    rows = []
    for each in plan.tensors:
        n_pruned = cutter.knife(each).n_pruned if each.status == "pruned" else 0
        rows.append(
            {
                "name": each.name,
                "shape": list(each.entry.shape),
                "dtype": each.entry.dtype,
                "n": each.entry.n,
                "n_pruned": n_pruned,
                "status": each.status,
                "reason": each.reason,
                "tau": cutter.taus.get(each.name),
                "sigma": cutter.sigmas.get(each.name),
            }
        )
    choosing = time.monotonic() - start
    return Preview(str(recipe), tuple(rows), size, _memory(plan), choosing + _seconds_to_zero(cutter, plan))


def _memory(plan: Plan) -> int:
    largest = max((each.entry.n_bytes for each in plan.cut), default=0)
    width = max((each.kind.item_size for each in plan.cut), default=4)
    n = max((each.entry.n for each in plan.cut), default=0)
    # Stretches on their way to the disk, and the pieces that threads look at.
    total = PROCESS_BYTES + (AHEAD + 3) * min(largest, STRETCH * width) + 6 * n_threads() * PIECE * width
    if any(each.entry.is_turned for each in plan.cut):
        total += largest
    score, unit, pool = plan.recipe.score.name, str(plan.recipe.unit), plan.recipe.pool.kind
    if score == "lamp" and unit == "element" and pool == "model" and width < 8:
        return total + largest + 80 * PIECE
    if score != "magnitude" or (unit != "element" and (pool not in ("layer", "model") or width == 8)):
        return total + TORCH_BYTES + 24 * n
    if unit != "element":
        return total + 32 * PIECE + 2 * max((plan.n_units(each) for each in plan.cut), default=0)
    return total


def _seconds_to_zero(cutter: Cutter, plan: Plan) -> float:
    """From copying and zeroing a stretch of the largest tensor."""
    each = max(plan.cut, key=lambda each: each.entry.n)
    stored = cutter.checkpoint.stored(each.entry)[:STRETCH]
    if not stored.size:
        return 0.0
    start = time.monotonic()
    copied(stored)
    return (time.monotonic() - start) * 3 * sum(each.entry.n for each in plan.cut) / stored.size
