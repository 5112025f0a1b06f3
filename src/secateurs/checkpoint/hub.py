"""The hub: models of the Hugging Face hub by name, `org/name` or `org/name@revision` (extra `hf`).

Only asked where no such path exists. Of the formats a model is published in, only safetensors is fetched where there
is one, else the torch files.
"""

import re
from pathlib import Path

from secateurs.checks import extra, first_line
from secateurs.errors import InputError, MissingExtraError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_SUFFIXES = (".safetensors", ".json", ".pt", ".pth", ".bin", ".ckpt", ".onnx")
_FOLDERS = ["onnx/*", "openvino/*", "coreml/*", "original/*", "metal/*", "gguf/*"]
_OTHERS = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "*.tflite", "*.gguf", "*.ckpt", "*.pt", "*.pth", "*.npz", "*.pkl"]
_TORCH = ["*.bin", "*.bin.index.json"]


def is_hub_name(text: str) -> bool:
    """Whether this could be the name of a model on the hub."""
    return bool(_NAME.fullmatch(text)) and not text.endswith(_SUFFIXES)


def directory_of(text: str) -> Path:
    """The directory of a local path, or of a model of the hub; InputError where there is neither."""
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not is_hub_name(text):
        raise InputError(f"There is no directory '{text}'. Give one that holds a model, or org/name of the hub.")
    return fetched(text)


def fetched(name: str) -> Path:
    """The directory of the hub's cache that holds the model, downloaded where it is not there yet."""
    try:
        library = extra("huggingface_hub", "hf")
    except MissingExtraError as error:
        raise InputError(f"There is no file or directory '{name}'. If it is a model of the hub: {error}") from error
    repository, _, revision = name.partition("@")
    ignored = [*_FOLDERS, *_OTHERS]
    try:
        found = library.snapshot_download(repository, revision=revision or None, ignore_patterns=[*ignored, *_TORCH])
        if not any(Path(found).glob("*.safetensors")):
            found = library.snapshot_download(repository, revision=revision or None, ignore_patterns=ignored)
        return Path(found)
    except Exception as error:  # the library raises types of its own, of its storage and of its network
        said = first_line(error)
        raise InputError(
            f"There is no file or directory '{name}', and the hub's model of that name cannot be had: {said}"
        ) from error
