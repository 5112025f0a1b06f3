"""Cells on a real local Dask cluster give the bytes that they give here."""

import warnings
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest

from secateurs.errors import MissingExtraError
from secateurs.experiments.backends import BACKENDS, connected
from secateurs.experiments.cells import Cell, run
from secateurs.experiments.perform import perform
from secateurs.recipe import Recipe

Make = Callable[..., Cell]


def test_this_machine_needs_no_connection() -> None:
    assert BACKENDS == ("loky", "dask", "ray")
    with connected("loky"):
        assert joblib.Parallel(n_jobs=1)([joblib.delayed(abs)(-1)]) == [1]


def test_a_process_that_was_replaced_as_it_grew_is_no_news(recwarn: pytest.WarningsRecorder) -> None:
    def replaced() -> None:
        warnings.warn("A worker stopped while some jobs were given to the executor.", UserWarning, stacklevel=1)

    with connected("loky"):
        replaced()
    assert not recwarn.list
    with pytest.warns(UserWarning, match="A worker stopped"):
        replaced()


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_missing_cluster_library_says_what_to_install(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match=rf"pip install 'secateurs\[{backend}\]'"), connected(backend):
        pass


# Dask's own clean-up may leave sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning")
def test_a_dask_cluster_makes_the_same_bytes(cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    after = [
        cell(recipe=Recipe(budget="sparsity(0.7)", schedule="one_shot(end=0.0)"), start=cell(seed=seed), seed=seed)
        for seed in (0, 1)
    ]
    here = run(after, tmp_path / "here", perform, n_jobs=1)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        with connected("dask"):
            there = run(after, tmp_path / "there", perform, n_jobs=2)
    assert here == there
    for each in here:
        a, b = (each.directory(tmp_path / name) / "model.safetensors" for name in ("here", "there"))
        assert a.read_bytes() == b.read_bytes()
