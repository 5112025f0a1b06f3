"""One thread, the same examples every time, and nothing slow unless asked."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

QUIET = {
    "deadline": None,  # a slow machine is not a failure
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "phases": [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
}
settings.register_profile("default", derandomize=True, max_examples=40, **QUIET)
settings.register_profile("thorough", max_examples=1000, **QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow (minutes)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(autouse=True)
def _same_torch_seed() -> Iterator[None]:
    """Every test draws the same random numbers, and leaves none of its own behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory of real data and models, named by $SECATEURS_DATA."""
    path = os.environ.get("SECATEURS_DATA")
    if not path:
        pytest.skip("needs real data: set SECATEURS_DATA to its directory")
    return Path(path)
