"""Backends: where cells run; joblib's own, by name, connected for as long as they are needed.

    with connected("dask"): cells.run(...)

A cluster's machines must see the run's directory under the same name. To add one: how it connects, in CONNECT.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import joblib

from secateurs.checks import extra


@contextmanager
def _loky() -> Iterator[None]:
    """Processes of this machine. That joblib replaces one which has grown is no news for whoever waits."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        yield


@contextmanager
def _dask() -> Iterator[None]:
    """The cluster at $DASK_SCHEDULER_ADDRESS, or processes of this machine where that is not set."""
    distributed = extra("distributed", "dask")
    with distributed.Client(os.environ.get("DASK_SCHEDULER_ADDRESS")):
        yield


def _ray() -> AbstractContextManager[None]:
    """The cluster at $RAY_ADDRESS, or this machine."""
    extra("ray.util.joblib", "ray").register_ray()
    return nullcontext()


CONNECT: dict[str, Callable[[], AbstractContextManager[None]]] = {"loky": _loky, "dask": _dask, "ray": _ray}
BACKENDS = tuple(CONNECT)


@contextmanager
def connected(backend: str) -> Iterator[None]:
    """joblib runs its work there inside the block."""
    with CONNECT[backend](), joblib.parallel_config(backend=backend):
        yield
