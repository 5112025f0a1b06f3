"""The made-up run that the tests of see/ share."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from synthetic_run import make_results


@pytest.fixture(scope="session")
def run():
    """(results, weights by stage and layer); treat both as read-only."""
    return make_results()
