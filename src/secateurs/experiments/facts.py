"""Facts: what the results of every run say in the same words: data, network, and values over the seeds."""

from collections.abc import Sequence
from typing import Any

from secateurs.data import Dataset
from secateurs.layers import layers
from secateurs.measure.intervals import over_seeds
from secateurs.models import ModelSpec, Network


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
        "name": str(spec),
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "n_prunable": sum(layer.n for layer in layers(network) if layer.is_prunable),
        "initialiser": network.initialiser,
    }


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
