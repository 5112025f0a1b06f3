"""Backends: where cells run; joblib's own, by name, connected for as long as they are needed.

    with connected("dask"): cells.run(..., backend="dask")

To add one: its name and how it connects in CONNECT.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from secateurs.checks import extra


@contextmanager
def _dask() -> Iterator[None]:
    """The cluster at $DASK_SCHEDULER_ADDRESS, or one of this machine's processes where that is not set."""
    distributed = extra("distributed", "cluster")
    with distributed.Client(os.environ.get("DASK_SCHEDULER_ADDRESS")):
        yield


@contextmanager
def _ray() -> Iterator[None]:
    """The cluster at $RAY_ADDRESS, or this machine."""
    extra("ray", "cluster")
    extra("ray.util.joblib", "cluster").register_ray()
    yield


CONNECT: dict[str, Callable[[], AbstractContextManager[None]]] = {"loky": nullcontext, "dask": _dask, "ray": _ray}
BACKENDS = tuple(CONNECT)


def connected(backend: str) -> AbstractContextManager[None]:
    """A context in which joblib knows the backend."""
    return CONNECT[backend]()
