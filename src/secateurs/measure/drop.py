"""Drop: the accuracy of a network before and after it was packed, on the same test examples.

    drop = accuracy_drop("model/", "small.packed.safetensors", DataSpec(source="mnist", directory="data/"))
    drop.before, drop.after, drop.value, drop.interval

Both answer the same examples, so for the interval only those count that one gets right and the other wrong.
"""

import copy
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateurs.checkpoint.packing import load
from secateurs.data import Dataset, DataSpec, load_data
from secateurs.errors import InputError
from secateurs.measure.accuracy import Accuracy, correct
from secateurs.models import ModelSpec, build
from secateurs.models.files import ModelConfig, config_of, fill, reading
from secateurs.structure.files import ABOUT_FILE, load_shrunk, shrunk_config

Z = 1.959963984540054


@dataclass(frozen=True)
class Drop:
    """What packing cost.

    n_lost, n_gained  examples that only the network before gets right, and only the one after
    """

    before: Accuracy
    after: Accuracy
    n_lost: int
    n_gained: int

    @classmethod
    def of(cls, before: Tensor, after: Tensor) -> "Drop":
        """From which examples (n,) each gets right."""
        n = len(before)
        counts = (int((before & ~after).sum()), int((~before & after).sum()))
        return cls(Accuracy(int(before.sum()), n), Accuracy(int(after.sum()), n), *counts)

    @property
    def value(self) -> float:
        """Accuracy before minus accuracy after, in [-1, 1]: 0.005 is half a percentage point."""
        return (self.n_lost - self.n_gained) / self.before.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval; see `interval_of`."""
        return interval_of(self.value, self.error, self.before.n)

    @property
    def error(self) -> float:
        """Standard error of the drop, of one pair of networks: the examples might have been others."""
        return error_of(self.before.n, self.n_lost, self.n_gained)

    def values(self) -> dict[str, Any]:
        """JSON-able."""
        low, high = self.interval
        drop = {"value": self.value, "low": low, "high": high, "n_lost": self.n_lost, "n_gained": self.n_gained}
        return {"before": self.before.values(), "after": self.after.values(), "drop": drop}


def error_of(n: int, n_lost: int, n_gained: int) -> float:
    """Standard error of the difference of paired shares, half an example added to each cell: Agresti & Min 2005."""
    n, lost, gained = n + 2, n_lost + 0.5, n_gained + 0.5
    return math.sqrt(lost + gained - (lost - gained) ** 2 / n) / n


def interval_of(drop: float, error: float, n: int) -> tuple[float, float]:
    """95 % interval of the difference of paired shares, half an example added to each cell: Agresti & Min 2005.

    error  standard error of the drop, as `error_of` finds it
    """
    middle = drop * n / (n + 2)
    return middle - Z * error, middle + Z * error


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A network with its weights, and the test examples that it is evaluated on; made before anything is packed."""

    network: nn.Module
    data: Dataset
    is_right: Tensor  # (n,) bool, before

    def after(self, packed: str | os.PathLike[str]) -> Drop:
        """The drop of the network with the weights of a packed file, read again."""
        fill(self.network, load(packed), packed)
        return Drop.of(self.is_right, correct(self.network, self.data.x_test, self.data.y_test))


def accuracy_drop(
    source: str | os.PathLike[str] | nn.Module,
    packed: str | os.PathLike[str],
    data: DataSpec | Dataset,
    model: ModelSpec | str | None = None,
) -> Drop:
    """Test accuracy with the weights of `source`, and with those of the packed file that was made of it.

    source  a directory that `save_model` wrote, or that was pruned from one; any other checkpoint of a reference
            network that `model` names; or a live network, which stays as it is
    data    images are scaled as the network's config says; where it has none, by the mean and std of `data`

    InputError where network and data do not fit.
    """
    return evaluation_of(source, data, model).after(packed)


def evaluation_of(
    source: str | os.PathLike[str] | nn.Module, data: DataSpec | Dataset, model: ModelSpec | str | None = None
) -> Evaluation:
    """The network before, evaluated."""
    if isinstance(source, nn.Module):
        network, found = copy.deepcopy(source), data if isinstance(data, Dataset) else load_data(data)
    else:
        network, found = _network(Path(source), data, ModelSpec.parse(model) if isinstance(model, str) else model)
    network.eval()
    return Evaluation(network, found, correct(network, found.x_test, found.y_test))


def _network(source: Path, data: DataSpec | Dataset, model: ModelSpec | None) -> tuple[nn.Module, Dataset]:
    """The network of a checkpoint, filled, and the data as it reads them."""
    folder = source if source.is_dir() else source.parent
    if model is None and (folder / ABOUT_FILE).is_file():  # units were removed
        reference = shrunk_config(folder).reference
        if reference is None:
            raise InputError(f"'{source}' does not say how its network is built. Give the network itself, in Python.")
        return load_shrunk(folder), read_as(reference, data, source)
    config = None if model is not None else _config(source)
    data = read_as(config, data, source)
    spec = config.model if config is not None else model
    assert spec is not None
    network = build(spec, data.shape, seed=0, stock=config and config.stock)
    fill(network, load(source), source)
    return network, data


def read_as(config: ModelConfig | None, data: DataSpec | Dataset, source: Path) -> Dataset:
    """The data, with images scaled as the network of `source` was trained on them; InputError where they do not fit."""
    if isinstance(data, DataSpec):
        if config is not None and data.mean is None and data.tokenizer is None:
            data = DataSpec(**{**data.values(), **reading(config, source if source.is_dir() else source.parent)})
        data = load_data(data)
    if config is not None:
        check_reads(config, data, source)
    return data


def check_reads(config: ModelConfig, data: Dataset, source: str | Path) -> None:
    """InputError unless the data are such as the network of `source` was trained on."""
    if config.shape != data.shape:
        raise InputError(
            f"'{source}' reads {config.shape}; the data are {data.shape}. Give the data it was trained on."
        )
    scaling = config.about.get("scaling")
    found = json.loads(json.dumps(asdict(data.scaling))) if data.scaling is not None else None
    if scaling is not None and scaling != found:
        raise InputError(
            f"'{source}' was trained on pixels scaled by {scaling}, and the data are scaled by {found}: its accuracy "
            "would mean nothing. Leave mean and std out, and give pixels of the same range."
        )
    for key, what in (("class_names", "classes"), ("vocabulary", "words")):
        if key in config.about and config.about[key] != data.about.get(key):
            raise InputError(f"'{source}' knows other {what} than the data have. Give the data it was trained on.")


def _config(source: Path) -> Any:
    folder = source if source.is_dir() else source.parent
    try:
        return config_of(folder)
    except InputError as error:
        raise InputError(
            f"Which network '{source}' holds is not known: {error} Or name it: model='lenet-5' (--model lenet-5)."
        ) from error
