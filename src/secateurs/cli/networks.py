"""Networks that a command is given: the name of a reference network, or the directory that holds one, and its data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateurs.data import Dataset, DataSpec, load_data
from secateurs.errors import RecipeError
from secateurs.experiments.presets import Preset, data_for, preset
from secateurs.measure.drop import check_reads, read_as
from secateurs.models import ModelConfig, ModelSpec, Network, build, load_model
from secateurs.models.files import CONFIG_FILE, network_directory, reading
from secateurs.structure.files import ABOUT_FILE


@dataclass(frozen=True, eq=False)
class Given:
    """A network with the data it reads.

    is_new  whether it has first weights; else those of its directory
    """

    spec: ModelSpec
    network: Network
    data_spec: DataSpec
    data: Dataset
    preset: Preset
    is_new: bool


def named(model: str, source: str, data_dir: str | None, seed: int, **read_by: Any) -> Given:
    """A reference network with first weights; read_by: fields of its DataSpec that are not the preset's."""
    spec = ModelSpec.parse(model)
    chosen, data_spec = preset(spec.name), data_for(spec, source=source, directory=data_dir, **read_by)
    data = load_data(data_spec)
    return Given(spec, build(spec, data.shape, seed), data_spec, data, chosen, True)


def opened(directory: str, source: str, data_dir: str | None) -> Given:
    """The network of a directory, and the data as it learned to read them."""
    if (network_directory(directory, (CONFIG_FILE, ABOUT_FILE)) / ABOUT_FILE).exists():
        raise RecipeError(
            f"Units were removed from the network in {directory}, and training begins with whole networks. Give the "
            "directory of the network before that."
        )
    network, config = load_model(directory)
    read_by = reading(config, network_directory(directory))
    data_spec = data_for(config.model, source=source, directory=data_dir, **read_by)
    data = load_data(data_spec)
    check_reads(config, data, directory)
    return Given(config.model, network, data_spec, data, preset(config.model.name), False)


def data_of(config: ModelConfig, directory: Path, source: str, data_dir: str | None) -> Dataset:
    """The data as the network of a directory reads them; split as `train` splits them: a part is what it was then."""
    return read_as(config, DataSpec(source=source, directory=data_dir, **preset(config.model.name).data), directory)
