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
from torch import Tensor, nn

from secateurs.checks import shown
from secateurs.durable import write_bytes
from secateurs.errors import InputError
from secateurs.train.pruner import Pruner
from secateurs.train.quantizer import Quantizer

_FORMAT = "secateurs.state/1"


def save_state(path: Path, about: Mapping[str, Any], state: Any) -> None:
    """Write the state, all or nothing; OutputError where it cannot be written."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps([_FORMAT, dict(about), _plain(state, tensors)])
    header = {"text": text, "sha256": _checksum(text, tensors)}
    write_bytes(path, save(tensors, {"secateurs": json.dumps(header)}))


def load_state(path: Path, about: Mapping[str, Any]) -> Any:
    """What `save_state` wrote; None where there is no file. InputError for a damaged file and for another's state."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["secateurs"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if header["sha256"] != _checksum(header["text"], tensors):
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


def state_of(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    pruner: Pruner | None,
    quantizer: Quantizer | None,
    order: torch.Generator,
) -> dict[str, Any]:
    """Weights, optimizer, pruner, quantizer, and every source of random numbers."""
    device = next(module.parameters()).device
    return {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "pruner": None if pruner is None else pruner.state_dict(),
        "quantizer": None if quantizer is None else quantizer.state_dict(),
        "order": order.get_state(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore(
    state: Mapping[str, Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    pruner: Pruner | None,
    quantizer: Quantizer | None,
    order: torch.Generator,
) -> None:
    """Put everything where `state_of` found it."""
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    for parameter, memory in optimizer.state.items():
        for key, value in memory.items():
            # Fused optimizers walk through memory in its own order: it has to be laid out as the parameter is.
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                memory[key] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    if pruner is not None:
        pruner.load_state_dict(state["pruner"])
    if quantizer is not None:
        quantizer.load_state_dict(state["quantizer"])
    order.set_state(state["order"])
    torch.set_rng_state(state["random"])
    if state["random_cuda"] is not None:
        torch.cuda.set_rng_state(state["random_cuda"], next(module.parameters()).device)


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


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(tensors[name].view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
