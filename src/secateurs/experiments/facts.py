"""Facts: what the results of every run say in the same words: data, network, values over the seeds, two speeds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.data import Dataset
from secateurs.durable import write_json
from secateurs.experiments.cells import read, same_environment
from secateurs.layers import layers, named_parameters
from secateurs.measure.environment import environment
from secateurs.measure.intervals import over_seeds
from secateurs.measure.seconds import side_by_side
from secateurs.models import ModelSpec, Network
from secateurs.see import stats
from secateurs.words import format_call

Weights = dict[str, "np.ndarray[Any, Any]"]


def about_data(data: Dataset) -> dict[str, Any]:
    """Name, source, sizes and fingerprint."""
    return {
        "name": data.name,
        "source": data.source,
        "n_train": len(data.y_train),
        "n_validation": len(data.y_val),
        "n_test": len(data.y_test),
        "n_classes": len(data.class_names),
        "fingerprint": data.fingerprint,
    }


def about_model(spec: ModelSpec, network: Network) -> dict[str, Any]:
    """Name, sizes, and how its first weights are drawn."""
    return {
        "name": short_name(spec),
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "n_prunable": sum(layer.n for layer in layers(network) if layer.is_prunable),
        "initialiser": network.initialiser,
        "tracked": dict(network.tracked),
    }


def short_name(spec: ModelSpec) -> str:
    """What people call it: of an encoder's directory its own name, without the fingerprint of its weights.

    >>> short_name(ModelSpec.parse("lenet-5"))
    'lenet-5'
    """
    shown = {name: value for name, value in spec.args.items() if name != "weights"}
    if "directory" in shown:
        shown["directory"] = Path(str(shown["directory"])).name
    return format_call(spec.name, (), shown)


def spread(values: Sequence[float], n_examples: int | None = None) -> dict[str, float | None]:
    """Mean and interval over the seeds; with n_examples, of a share of so many."""
    if n_examples is None:
        return over_seeds(values).values()
    return over_seeds(values, 1 / n_examples).within(0.0, 1.0).values()


def paired(first: Sequence[float], second: Sequence[float], n_examples: int) -> dict[str, Any]:
    """first - second, seed by seed: mean, interval, and whether that interval is off zero.

    n_examples  that both were measured on: equal differences of a few seeds are no surer than one example
    """
    gap = over_seeds([a - b for a, b in zip(first, second, strict=True)], 1 / n_examples)
    # Differences of shares are rounded: an interval that ends at zero may seem to end beside it.
    return {**gap.values(), "is_beyond_noise": gap.low > 1e-12 or gap.high < -1e-12}


def found_values(seeds: Sequence[int], accuracies: Sequence[float]) -> list[dict[str, float]]:
    """One value per seed."""
    return [{"seed": seed, "accuracy": value} for seed, value in zip(seeds, accuracies, strict=True)]


def weights_of(module: nn.Module, names: Sequence[str]) -> Weights:
    """{name: float32 values} of some parameters."""
    by_name = named_parameters(module)
    return {name: by_name[name].detach().float().cpu().numpy() for name in names}


def common_step(values: Mapping[str, Weights]) -> float:
    """One step of the absolute grid for every layer of every stage; "trained" is among the stages."""
    sigmas = [float(weight.std()) for weight in values["trained"].values()]
    sizes = [float(np.abs(weight).max(initial=0.0)) for weights in values.values() for weight in weights.values()]
    return stats.absolute_step(sigmas, max(sizes))


def latency(first: nn.Module, second: nn.Module, x: Tensor) -> dict[str, Any]:
    """Median seconds of both networks for a batch, interleaved, and how many times faster the second is."""
    first.eval(), second.eval()
    with torch.inference_mode():
        a, b, ratio = side_by_side(lambda: first(x), lambda: second(x), n_pairs=60)
    return {
        "dense_s": float(np.median(a)),
        "zeroed_s": float(np.median(b)),
        "ratio": ratio.mean,
        "low": ratio.low,
        "high": ratio.high,
        "n": ratio.n,
        "threads": torch.get_num_threads(),
        "batch": len(x),
    }


def measured_once(kept: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` gives: from the file that the same machine and versions kept, else measured now and kept."""
    if kept.exists() and same_environment((found := read(kept)).get("environment", {}), environment()):
        known: dict[str, Any] = found["measured"]
        return known
    measured = measure()
    write_json(kept, {"environment": environment(), "measured": measured})
    return measured
