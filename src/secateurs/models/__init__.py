"""Reference networks: small, readable, one per file, built from a spec, a shape and a seed."""

from secateurs.models.files import ModelConfig, load_model, load_weights, save_model
from secateurs.models.network import Network
from secateurs.models.table import MODELS, ModelSpec, build

__all__ = [
    "MODELS",
    "ModelConfig",
    "ModelSpec",
    "Network",
    "build",
    "load_model",
    "load_weights",
    "save_model",
]
