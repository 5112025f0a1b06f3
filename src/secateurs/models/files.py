"""Networks in files: model.safetensors with every tensor, config.json with what is needed to build it again.

save_model(module, spec, shape, directory)      load_model(directory) -> module, config
load_weights(module, path)                      weights alone, into a network that is already built

The weights may also be packed: weights.packed.safetensors beside the same config.json.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from secateurs.data.shape import InputShape
from secateurs.data.tokenizing import has_tokenizer, save_tokenizer
from secateurs.durable import make_directory, write_bytes, write_json
from secateurs.errors import InputError, RecipeError
from secateurs.models.network import Network
from secateurs.models.table import PRETRAINED, ModelSpec, build
from secateurs.settings import Settings

SCHEMA: Literal["secateurs.model/1"] = "secateurs.model/1"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PACKED_SUFFIX = ".packed.safetensors"
PLACES = ("packed", "model")  # of the network, in what `compress` and `train` write
MAX_CONFIG_BYTES = 1 << 20
N_MISMATCHES_SHOWN = 5


class ModelConfig(Settings):
    """What config.json holds; `about` is free for whoever saves: input scaling, class names, accuracy.

    stock  the configuration of a pretrained network's encoder
    """

    schema_name: Literal["secateurs.model/1"] = Field(alias="schema")
    model: ModelSpec
    shape: InputShape
    n_parameters: int
    about: dict[str, Any] = Field(default_factory=dict)
    stock: dict[str, Any] | None = None

    def model_post_init(self, context: Any) -> None:
        """Only a pretrained network has a configuration inside, and it always has."""
        if (self.model.name == PRETRAINED) != (self.stock is not None):
            has = "lacks" if self.stock is None else "has"
            raise RecipeError(
                f"'{self.model.name}' {has} 'stock', the encoder's configuration of {PRETRAINED!r} alone."
            )


def save_model(
    module: nn.Module,
    spec: ModelSpec,
    shape: InputShape,
    directory: str | os.PathLike[str],
    about: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
) -> None:
    """Write model.safetensors, then config.json; each is either the old file or the complete new one.

    tokenizer  the directory of the tokenizer that the network reads by, which is written beside it

    OutputError where the directory cannot be written.
    """
    config = {
        "schema": SCHEMA,
        "model": spec.values(),
        "shape": shape.values(),
        "n_parameters": sum(parameter.numel() for parameter in module.parameters()),
        "about": dict(about or {}),
        **({} if (stock := getattr(module, "stock", None)) is None else {"stock": stock}),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    folder = Path(directory)
    make_directory(folder)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    write_bytes(folder / WEIGHTS_FILE, to_bytes(tensors, {"format": "pt"}))
    write_json(folder / CONFIG_FILE, config)


def load_model(directory: str | os.PathLike[str]) -> tuple[Network, ModelConfig]:
    """The network that `save_model` wrote, in evaluation mode, and its config; InputError if it cannot be read.

    directory  one with config.json and weights, plain or packed; or one that `secateurs compress` or `secateurs train`
               wrote: the network in its packed/ is read, else that in its model/
    """
    folder = network_directory(directory)
    config, file = config_of(folder), weights_file(folder)
    try:
        # First without memory, so that a config that does not describe the weights beside it allocates nothing.
        with torch.device("meta"):
            plan = build_again(config)
        _check_header(plan, file)
        module = build_again(config)
    except RecipeError as error:
        raise InputError(f"'{folder / CONFIG_FILE}' describes a network that cannot be built: {error}") from error
    load_weights(module, file)
    return module.eval(), config


def network_directory(directory: str | os.PathLike[str], marks: Sequence[str] = (CONFIG_FILE,)) -> Path:
    """Where in it the network lies: in its packed/ or model/ where only that holds one of the marks, else in itself."""
    folder = Path(directory)
    if not folder.is_dir():
        raise InputError(f"There is no model directory '{folder}'. Give the directory that holds {CONFIG_FILE}.")
    places = (folder, *(folder / name for name in PLACES))
    return next((each for each in places if any((each / mark).exists() for mark in marks)), folder)


def weights_file(directory: Path) -> Path:
    """The file of weights beside a config.json: model.safetensors, else the only packed one."""
    packed = sorted(directory.glob(f"*{PACKED_SUFFIX}"))
    if (directory / WEIGHTS_FILE).exists() or not packed:
        return directory / WEIGHTS_FILE
    if len(packed) > 1:
        raise InputError(f"'{directory}' has {len(packed)} packed files. Leave the one that belongs to {CONFIG_FILE}.")
    return packed[0]


def build_again(config: ModelConfig) -> Network:
    """The network that a config describes, with weights that are yet to be filled in."""
    return build(config.model, config.shape, seed=0, stock=config.stock)


def reading(config: ModelConfig, directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a DataSpec by which data are as the network of this directory learned to read them."""
    scaling = config.about.get("scaling")
    fields: dict[str, Any] = {key: tuple(scaling[key]) for key in ("mean", "std") if key in scaling} if scaling else {}
    if has_tokenizer(directory):
        fields |= {"tokenizer": os.fspath(directory), "max_length": config.shape.size[1]}
    return fields


def config_of(directory: str | os.PathLike[str]) -> ModelConfig:
    """What `save_model` wrote into config.json; InputError where there is none, or another tool's."""
    path = Path(directory) / CONFIG_FILE
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"Cannot read '{path}': {error.strerror or error}. Give a directory that save_model, `secateurs train` or "
            "`secateurs compress` wrote."
        ) from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise InputError(f"'{path}' is larger than {MAX_CONFIG_BYTES:,} bytes; it is not a config of this package.")
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise InputError(f"'{path}' is not JSON: {error}.") from error
    found = value.get("schema") if isinstance(value, dict) else None
    if found != SCHEMA:
        raise InputError(
            f"'{path}' does not say schema {SCHEMA!r} (found {found!r}): another tool or version wrote it. "
            "Build the network by name and use load_weights for its model.safetensors."
        )
    try:
        return ModelConfig(**value)
    except RecipeError as error:
        raise InputError(f"'{path}': {error}") from error


def load_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Fill the module from a safetensors file, plain or packed (or its directory), with exactly its names and shapes.

    InputError lists the first mismatches, and nothing is changed. Batch counters (`num_batches_tracked`) may be
    missing; NaN and infinite values are refused.
    """
    file = Path(path)
    if file.is_dir():
        file = weights_file(file)
    names = _check_header(module, file)
    if _is_packed(file):
        from secateurs.checkpoint.packing import load

        fill(module, load(file, names), file)
        return
    with _open(file) as weights:
        fill(module, {name: weights.get_tensor(name) for name in names}, file)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: str | os.PathLike[str]) -> None:
    """As `load_weights`, with tensors that were read already, from `where`."""
    _assert_fits(module, {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}, where)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            n_bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(f"'{where}': {n_bad:,} of {tensor.numel():,} values of {name!r} are NaN or infinite.")
    module.load_state_dict(tensors, strict=False)  # names and shapes are already checked


def _is_packed(path: Path) -> bool:
    return path.name.endswith(PACKED_SUFFIX) and path.exists()


def _open(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt")
    except FileNotFoundError as error:
        raise InputError(
            f"There is no file '{path}'. Give a model.safetensors or the directory that holds it."
        ) from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"'{path}' is not a readable safetensors file: {error}.") from error


def _check_header(module: nn.Module, path: Path) -> list[str]:
    """The names in the file, once they and their shapes are those of the module; reads no tensor."""
    if _is_packed(path):
        from secateurs.checkpoint.opening import open_checkpoint

        with open_checkpoint(path) as packed:
            found = {name: (entry.shape, entry.dtype) for entry in packed.entries for name in entry.names}
    else:
        with _open(path) as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 - not a mapping
            found = {name: (tuple(piece.get_shape()), str(piece.get_dtype())) for name, piece in slices.items()}
    _assert_fits(module, found, path)
    return list(found)


def _assert_fits(
    module: nn.Module, found: Mapping[str, tuple[tuple[int, ...], str | torch.dtype]], where: str | os.PathLike[str]
) -> None:
    """InputError unless these names, shapes and kinds of dtype are those of the module."""
    wanted = dict(module.state_dict())
    problems = [
        f"{name!r} is missing" for name in wanted if name not in found and not name.endswith("num_batches_tracked")
    ]
    problems += [f"{name!r} is not a tensor of this network" for name in found if name not in wanted]
    for name, (size, dtype) in found.items():
        if name not in wanted:
            continue
        is_floating = dtype.is_floating_point if isinstance(dtype, torch.dtype) else dtype.startswith(("F", "BF"))
        if size != tuple(wanted[name].shape):
            problems.append(f"{name!r} is {size} in the file and {tuple(wanted[name].shape)} in the network")
        elif wanted[name].is_floating_point() != is_floating:
            problems.append(f"{name!r} is {dtype} in the file and {wanted[name].dtype} in the network")
    if problems:
        shown = "; ".join(problems[:N_MISMATCHES_SHOWN])
        more = f"; and {len(problems) - N_MISMATCHES_SHOWN} more" if len(problems) > N_MISMATCHES_SHOWN else ""
        raise InputError(
            f"'{where}' does not hold the weights of this network ({type(module).__name__}): {shown}{more}. "
            "Build the network that these weights belong to."
        )
