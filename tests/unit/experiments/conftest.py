"""A small cell: a CLS transformer of one narrow block on a few digits."""

from collections.abc import Callable

import pytest

from secateurs.data import DataSpec, load_data
from secateurs.experiments.cells import Cell
from secateurs.models import ModelSpec
from secateurs.train.training import Training

DATA = DataSpec(limit_train=40, limit_validation=20, limit_test=20)


@pytest.fixture(scope="session")
def data_hash() -> str:
    return load_data(DATA).fingerprint


@pytest.fixture
def cell(data_hash: str) -> Callable[..., Cell]:
    """Makes one, with some fields changed."""

    def make(**fields: object) -> Cell:
        values: dict[str, object] = {
            "model": ModelSpec.parse("cls-transformer(dim=8, depth=1, heads=2, patch=4)"),
            "data": DATA,
            "data_hash": data_hash,
            "training": Training(epochs=1.0, batch_size=16),
            "seed": 0,
        }
        return Cell(**{**values, **fields})

    return make
