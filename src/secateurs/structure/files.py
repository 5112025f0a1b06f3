"""Files of shrunk networks: a stock directory where a stock configuration says the sizes, else weights and shapes.

    save_shrunk(shrunk, directory)            load_shrunk(directory, into) -> network

A stock directory is what transformers' `save_pretrained` writes; `from_pretrained` opens it. The other kind holds
weights.shrunk.safetensors, never model.safetensors (stock loaders fill what does not fit with random weights), and
shrunk.json: the shapes, and the few attributes that were changed beside them. It is read into a freshly built network
of the original sizes, which is made smaller first; no pickle, and no code is named, except a class of transformers.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from secateurs.checkpoint.packing import load
from secateurs.checks import extra
from secateurs.durable import make_directory, write_bytes, write_json
from secateurs.errors import InputError, RecipeError
from secateurs.layers import unwrap
from secateurs.models.files import PACKED_SUFFIX, ModelConfig, build_again
from secateurs.settings import Settings
from secateurs.structure.cutting import Attributes, resize
from secateurs.structure.depth import thin
from secateurs.structure.shrinking import Shrunk
from secateurs.structure.stock import is_stock

SCHEMA: Literal["secateurs.shrunk/1"] = "secateurs.shrunk/1"
ABOUT_FILE = "shrunk.json"
WEIGHTS_FILE = "weights.shrunk.safetensors"
Size = Annotated[int, Field(ge=0)]


class ShrunkConfig(Settings):
    """What shrunk.json holds.

    shapes        of every tensor, tied ones under each name
    attributes    {module: {attribute: value}} changed beside the shapes
    layers        {list of modules: which of its elements are left}, where whole layers are gone
    transformers  the class of transformers, with its original configuration
    reference     the reference network, as its config.json says it
    """

    schema_name: Literal["secateurs.shrunk/1"] = Field(alias="schema")
    shapes: dict[str, list[Size]]
    attributes: dict[str, dict[str, Size | list[Size]]]
    layers: dict[str, list[Size]] = Field(default_factory=dict)
    transformers: dict[str, Any] | None = None
    reference: ModelConfig | None = None


def save_shrunk(shrunk: Shrunk, directory: str | os.PathLike[str], reference: ModelConfig | None = None) -> list[str]:
    """Write the network; returns the names of the files. OutputError where the directory cannot be written.

    reference  what `load_model` gave with the network that was shrunk, so that it can be built again
    """
    folder = Path(directory)
    module: Any = unwrap(shrunk.module)
    make_directory(folder)
    if is_stock(module) and not shrunk.why_not_stock:
        module.save_pretrained(folder)
        return sorted(path.name for path in folder.iterdir())
    shapes = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    about: dict[str, Any] = {"schema": SCHEMA, "shapes": shapes, "attributes": shrunk.attributes}
    if shrunk.layers:
        about["layers"] = shrunk.layers
    if is_stock(module):
        about["transformers"] = {"class": type(module).__name__, "config": module.config.to_dict()}
    if reference is not None:
        about["reference"] = json.loads(reference.model_dump_json(by_alias=True))
    return _write(module, about, folder)


def save_trained(module: nn.Module, before: str | os.PathLike[str], directory: str | os.PathLike[str]) -> list[str]:
    """As `save_shrunk`, for a network that `load_shrunk` read from the directory `before` and that was trained since.

    InputError where `before` holds none, or one of other shapes.
    """
    about, module = shrunk_config(Path(before)), unwrap(module)
    _assert_fits(module, about, Path(before))
    return _write(module, json.loads(about.model_dump_json(by_alias=True)), Path(directory))


def _write(module: nn.Module, about: dict[str, Any], folder: Path) -> list[str]:
    """The weights, each tied one once, and last what says their shapes."""
    tensors, seen = {}, set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach().cpu().contiguous()
    make_directory(folder)
    write_bytes(folder / WEIGHTS_FILE, save(tensors, {"format": "pt"}))
    write_json(folder / ABOUT_FILE, about)
    return [ABOUT_FILE, WEIGHTS_FILE]


def load_shrunk(directory: str | os.PathLike[str], into: nn.Module | None = None) -> nn.Module:
    """The network that `save_shrunk` wrote, in evaluation mode.

    into  a freshly built network of the original sizes, which is changed; not needed for reference networks and those
          of transformers

    InputError where the files are missing, damaged or of another network.
    """
    folder = Path(directory)
    about = shrunk_config(folder)
    module = unwrap(into) if into is not None else _build(about, folder)
    _thin(module, about, folder)
    for name in about.shapes:
        prefix, _, own = name.rpartition(".")
        with suppress(AttributeError):  # names that are not the network's are told of below
            module.get_submodule(prefix)._non_persistent_buffers_set.discard(own)
    _assert_fits(module, about, folder)
    try:
        resize(module, {name: tuple(shape) for name, shape in about.shapes.items()}, _attributes(about))
        tensors = _tensors(folder)
        for name, tensor in module.state_dict(keep_vars=True).items():
            if name in tensors and tensor.is_floating_point() and tensors[name].is_floating_point():
                tensor.data = tensor.data.to(tensors[name].dtype)
        missing, unexpected = module.load_state_dict(tensors, strict=False)
    except (SafetensorError, OSError, RuntimeError, AttributeError) as error:
        raise InputError(f"'{folder / WEIGHTS_FILE}' cannot be loaded: {error}") from error
    filled = {id(tensor) for name, tensor in module.state_dict(keep_vars=True).items() if name in tensors}
    lost = [name for name in missing if id(module.state_dict(keep_vars=True)[name]) not in filled]
    if lost or unexpected:
        raise InputError(f"'{folder / WEIGHTS_FILE}' lacks {lost[:5]} and has {unexpected[:5]} too many.")
    return module.eval()


def _tensors(folder: Path) -> dict[str, Tensor]:
    """The weights beside shrunk.json: plain, or where there are none the only packed ones."""
    packed = sorted(folder.glob(f"*{PACKED_SUFFIX}"))
    if (folder / WEIGHTS_FILE).exists() or len(packed) != 1:
        with safe_open(str(folder / WEIGHTS_FILE), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return load(packed[0])


def shrunk_config(folder: Path) -> ShrunkConfig:
    """What `save_shrunk` wrote into shrunk.json; InputError where there is none, or it is damaged."""
    if not (folder / ABOUT_FILE).is_file():
        raise InputError(
            f"'{folder}' holds no {ABOUT_FILE}. If it holds config.json and model.safetensors, it is a stock "
            "directory: open it with from_pretrained."
        )
    try:
        return ShrunkConfig(**json.loads((folder / ABOUT_FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecipeError) as error:
        raise InputError(f"'{folder / ABOUT_FILE}' does not describe a shrunk network: {error}") from error


def _attributes(about: ShrunkConfig) -> Attributes:
    """With pairs as the tuples that they were."""
    return {
        name: {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        for name, values in about.attributes.items()
    }


def _build(about: ShrunkConfig, folder: Path) -> nn.Module:
    if about.reference is not None:
        return build_again(about.reference)
    if about.transformers is None:
        raise InputError(
            f"'{folder}' holds shapes and weights, not code: give load_shrunk a freshly built network of the original "
            "sizes as `into`."
        )
    transformers: Any = extra("transformers", "hf")
    found: Any = getattr(transformers, str(about.transformers.get("class")), None)
    is_network = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if not is_network:
        raise InputError(f"'{folder}' is of {about.transformers.get('class')!r}, which is no network of transformers.")
    made: Any = found(found.config_class.from_dict(about.transformers["config"]))
    if hasattr(made, "pooler") and not any(name.startswith("pooler.") for name in about.shapes):
        made.pooler = None  # add_pooling_layer=False, which the configuration does not say
    network: nn.Module = made
    return network


def _thin(module: nn.Module, about: ShrunkConfig, folder: Path) -> None:
    """Take away the layers that are gone."""
    modules = dict(module.named_modules())
    for name, places in about.layers.items():
        found = modules.get(name)
        n = len(found) if isinstance(found, nn.ModuleList | nn.Sequential) else 0
        if places != sorted(set(places)) or not places or places[-1] >= n:
            raise InputError(f"'{folder}' keeps the layers {places} of '{name}', which this network does not have.")
    thin(module, about.layers)


def _assert_fits(module: nn.Module, about: ShrunkConfig, folder: Path) -> None:
    """The names must be the network's, and no shape larger than its own: nothing declared is allocated blindly."""
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    odd = sorted(set(own) ^ set(about.shapes))
    larger = [
        name
        for name, shape in about.shapes.items()
        if name in own and (len(shape) != len(own[name]) or any(a > b for a, b in zip(shape, own[name], strict=True)))
    ]
    if odd or larger:
        raise InputError(
            f"'{folder}' is not of this network ({type(module).__name__}): "
            f"{', '.join(map(repr, (odd or larger)[:5]))} {'do not match' if odd else 'would have to grow'}. Build the "
            "network that was shrunk."
        )
    modules = dict(module.named_modules())
    for name, values in _attributes(about).items():
        for attribute, value in values.items():
            if type(getattr(modules.get(name), attribute, None)) is not type(value):
                raise InputError(f"'{folder}' sets '{attribute}' of '{name}', which this network does not have.")
