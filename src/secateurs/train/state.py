"""State: everything a training is at one step, in one file, so that it goes on with the same bits after a kill.

    save_state(path, about, state)      load_state(path, about) -> state, or None where there is no file

A state is made of mappings, lists, tensors, numbers and text. It is a safetensors file: tensors by number, the rest as
JSON in its metadata, with a checksum; no pickle. `about` says whose state it is; another's is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from secateurs.checks import shown
from secateurs.durable import write_bytes
from secateurs.errors import InputError

_FORMAT = "secateurs.state/1"


def save_state(path: Path, about: Mapping[str, Any], state: Any) -> None:
    """Write the state, all or nothing; OutputError where it cannot be written."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps([_FORMAT, dict(about), _plain(state, tensors)])
    header = {"text": text, "sha256": checksum(text, tensors)}
    write_bytes(path, save(tensors, {"secateurs": json.dumps(header)}))


def load_state(path: Path, about: Mapping[str, Any]) -> Any:
    """What `save_state` wrote; None where there is no file. InputError for a damaged file and for another's state."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["secateurs"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if header["sha256"] != checksum(header["text"], tensors):
            raise ValueError("its checksum does not match")
        name, whose, state = json.loads(header["text"])
        if name != _FORMAT:
            raise ValueError(f"its format is {shown(name)}, {_FORMAT} is read here")
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(
            f"{path} is no state of a training ({error}). Delete it, and the training starts anew."
        ) from error
    if whose != dict(about):
        differing = ", ".join(key for key in about if whose.get(key) != about[key])
        raise InputError(f"{path} is the state of another training ({differing} differ). Delete it to start anew.")
    return _whole(state, tensors)


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON that stands for the value; its tensors go into `tensors`, each as a copy of its own."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _plain(each, tensors)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_plain(each, tensors) for each in value]
    return value


def _whole(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _whole(each, tensors) for key, each in value["items"]}
    return [_whole(each, tensors) for each in value] if isinstance(value, list) else value


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) of the text and of what the tensors hold, wherever they are."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
