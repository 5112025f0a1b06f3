"""Stats: the exact numbers that every chart and the page show; numpy only.

A GRID counts weights between edges step * k and keeps exact zeros apart, so that the share that any
edge would remove is an exact count and never an estimate.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateurs.errors import InputError

SIGMA_STEP = 0.05  # width of a bin of the sigma grid, in standard deviations of the layer
MAX_BINS = 2000  # beyond this many bins per side the last one is left open-ended


class Grid(TypedDict):
    """Counts of one weight between edges k = step * k (float64); `open`: the last bins have no upper edge."""

    step: float
    negative: list[int]
    positive: list[int]
    n_zero: int
    open: NotRequired[bool]


def _finite(weight: ArrayLike) -> NDArray[np.float64]:
    """The weight as float64, which holds every float32, float16 and bfloat16 value exactly."""
    values = np.asarray(weight, dtype=np.float64)
    if not np.isfinite(values).all():
        n_nan, n_inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        raise InputError(
            f"Cannot count weights that are not finite: found {n_nan} NaN and {n_inf} infinite of {values.size}. "
            "The training probably diverged; lower the learning rate or check the file."
        )
    return values


def grid(weight: ArrayLike, step: float) -> Grid:
    """Exact counts of a weight between the edges step * k, exact zeros (-0.0 too) apart.

        positive[k] = #{ step * k < w <= step * (k + 1) }      negative[k] the same for -w

    weight   any shape, any float type; empty is fine
    step     > 0
    returns  Grid; both sides reach the largest |w|, unless that takes more than 2000 bins: then the last
             bin of each side holds everything beyond its lower edge and the grid says "open": True
    Raises InputError for NaN or infinite weights, ValueError for a step that is not positive.

    >>> grid([0.0, 0.1, -0.25, 0.2], step=0.1)
    {'step': 0.1, 'negative': [0, 0, 1], 'positive': [1, 1, 0], 'n_zero': 1}
    """
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"The step of a grid must be a positive number; found {step!r}.")
    values = _finite(weight).ravel()
    size = np.abs(values)
    edges, is_open = grid_edges(float(size.max(initial=0.0)), step)
    n_bins = len(edges) - 1
    upper = np.minimum(np.searchsorted(edges, size, side="left"), n_bins)  # edges[upper - 1] < |w| <= edges[upper]
    counts = {
        side: np.bincount(upper[mask] - 1, minlength=n_bins).tolist()
        for side, mask in (("negative", values < 0), ("positive", values > 0))
    }
    found: Grid = {"step": float(step), **counts, "n_zero": int((values == 0).sum())}  # type: ignore[typeddict-item]
    if is_open:
        found["open"] = True
    return found


def grid_edges(largest: float, step: float) -> tuple[NDArray[np.float64], bool]:
    """The edges step * k of a grid that reaches the largest |w|, and whether its last bin must be left open."""
    n_bins = MAX_BINS + 1 if largest / step > MAX_BINS + 1 else math.ceil(largest / step)
    # The division rounds; the edges are what counts, so the last one is settled by them.
    while step * n_bins < largest and n_bins <= MAX_BINS:
        n_bins += 1
    while n_bins > 0 and step * (n_bins - 1) >= largest:
        n_bins -= 1
    return step * np.arange(min(n_bins, MAX_BINS) + 1, dtype=np.float64), n_bins > MAX_BINS


def n_edges(counted: Grid) -> int:
    """The last edge whose count is exact: all of them, or one fewer where the last bin is open."""
    return len(counted["positive"]) - bool(counted.get("open", False))


def removed(counted: Grid, edge: int) -> int:
    """How many weights tau = step * edge removes, exact zeros included: #{ |w| <= step * edge }, exactly.

    Raises ValueError for a negative edge, or one that lies inside an open last bin.
    """
    if edge < 0:
        raise ValueError(f"An edge counts from 0; found {edge}.")
    if counted.get("open", False) and edge > n_edges(counted):
        raise ValueError(f"Edge {edge} lies in the open last bin; the last exact edge is {n_edges(counted)}.")
    return counted["n_zero"] + sum(counted["positive"][:edge]) + sum(counted["negative"][:edge])


def absolute_step(sigmas: Iterable[float], largest: float) -> float:
    """One round step (1, 2 or 5 times a power of ten) that suits every layer of a run.

    At most a twentieth of the smallest positive sigma, coarser only where the largest |w| needs it to
    stay within 2000 bins.
    """
    usable = [sigma for sigma in sigmas if sigma > 0]
    wanted = min(usable) * SIGMA_STEP if usable else SIGMA_STEP
    rounds = [float(f"{digit}e{power}") for power in range(-12, 12) for digit in (1, 2, 5)]
    fine = [step for step in rounds if step <= wanted] or rounds[:1]
    return next((step for step in rounds if step >= fine[-1] and largest <= step * MAX_BINS), rounds[-1])


def describe(weight: ArrayLike, *, absolute_step: float, tau: float | None = None) -> dict[str, Any]:
    """Everything the page says of one layer at one stage, JSON-able.

    weight          (out, in) or (out, in, h, w)
    absolute_step   the run's common step of the absolute grid
    tau             the absolute tau that was applied to this layer, if one was
    returns         n, n_zero, mean, sigma (population, zeros included), min, max, tau, dead_rows,
                    dead_columns, n_rows, n_columns, within_0.001, sigma_grid, absolute_grid
    A layer without spread gets the step 0.05, as if sigma were 1.
    """
    values = _finite(weight)
    n_rows, n_columns = values.shape[:2] if values.ndim > 1 else (1, values.size)
    alive = values.reshape(n_rows, n_columns, math.prod(values.shape[2:])) != 0
    sigma = float(values.std()) if values.size else 0.0
    return {
        "n": int(values.size),
        "n_zero": int((values == 0).sum()),
        "mean": float(values.mean()) if values.size else 0.0,
        "sigma": sigma,
        "min": float(values.min()) if values.size else 0.0,
        "max": float(values.max()) if values.size else 0.0,
        "tau": None if tau is None else float(tau),
        "dead_rows": int((~alive.any(axis=(1, 2))).sum()),
        "dead_columns": int((~alive.any(axis=(0, 2))).sum()),
        "n_rows": int(n_rows),
        "n_columns": int(n_columns),
        "within_0.001": int((np.abs(values) <= 0.001).sum()),
        "sigma_grid": grid(values, sigma * SIGMA_STEP or SIGMA_STEP),
        "absolute_grid": grid(values, absolute_step),
    }


def shape_of(weight: ArrayLike) -> dict[str, float | None]:
    """The form of a distribution in three numbers, exact zeros left out; None where nothing is left to measure.

    kurtosis        excess kurtosis: 0 for a normal bell, -1.2 for a uniform, > 0 for heavy tails
    within_1_sigma  share within one sigma of 0: 0.683 for a bell, 0.577 for a uniform
    hole            density within 0.1 sigma of 0, divided by the highest density of any bin 0.2 sigma
                    wide: near 1 for a bell, near 0 where the middle is empty (two humps)
    """
    values = _finite(weight).ravel()
    values = values[values != 0]
    spread = float(np.sqrt(np.mean(values**2))) if values.size else 0.0
    if spread == 0.0:
        return {"kurtosis": None, "within_1_sigma": None, "hole": None}
    scaled = values / spread
    centred = scaled - scaled.mean()
    variance = float(np.mean(centred**2))
    bins = np.bincount(np.floor(np.abs(scaled) / 0.2 + 0.5).astype(int))  # bin 0 is the middle; others are two-sided
    density = np.concatenate([bins[:1], bins[1:] / 2])
    return {
        "kurtosis": float(np.mean(centred**4) / variance**2 - 3) if variance > 1e-12 else None,
        "within_1_sigma": float(np.mean(np.abs(scaled) <= 1)),
        "hole": float(density[0] / density.max()),
    }


class Bar(TypedDict):
    """One bar of a histogram: `count` weights in (x0, x1], or [x0, x1) left of zero."""

    x0: float
    x1: float
    count: int


def bars(counted: Grid, merge: int = 1, anchor: int = 0) -> list[Bar]:
    """The grid as bars from left to right, `merge` bins each; exact zeros are in none of them.

    anchor   an edge that no bar crosses (such as tau's); the two bars beside zero may then be narrower
    """
    step, n_bins, first = counted["step"], len(counted["positive"]), anchor % merge
    starts = [*([0] if first else []), *range(first, n_bins, merge)]
    found = list[Bar]()
    sides: tuple[tuple[Literal["negative", "positive"], int], ...] = (("negative", -1), ("positive", 1))
    for side, sign in sides:
        for k in starts:
            end = first if k < first else k + merge
            near, far = sign * step * k, sign * step * end
            found.append({"x0": min(near, far), "x1": max(near, far), "count": sum(counted[side][k:end])})
    return sorted(found, key=lambda bar: bar["x0"])


def reach(counted: Grid, share: float) -> float:
    """The smallest edge, as a weight, within which at least this share of all weights lies."""
    within = counted["n_zero"] + np.cumsum([0, *np.add(counted["positive"], counted["negative"]).tolist()])
    return counted["step"] * int(np.searchsorted(within, math.ceil(share * within[-1])))


def is_prunable(results: Mapping[str, Any], name: str) -> bool:
    """Whether the recipe prunes the layer of this name; results that do not say it prune every layer they list."""
    return all(layer.get("prunable", True) for layer in results["layers"] if layer["name"] == name)


def stage(results: Mapping[str, Any], stage_id: str) -> Mapping[str, Any]:
    """The stage with this id; KeyError that lists the known ones otherwise."""
    for found in results["stages"]:
        if found["id"] == stage_id:
            return found  # type: ignore[no-any-return]
    raise KeyError(f"No stage {stage_id!r} in these results; there are {[s['id'] for s in results['stages']]}.")
