"""Reference networks: small, readable, one per file, built from a spec, a shape and a seed."""

from secateurs.models.files import ModelConfig, load_model, load_weights, save_model
from secateurs.models.network import Network
from secateurs.models.stock import save_stock
from secateurs.models.table import MODELS, ModelSpec, build
from secateurs.models.vocabulary import trim_vocabulary

__all__ = [
    "MODELS",
    "ModelConfig",
    "ModelSpec",
    "Network",
    "build",
    "load_model",
    "load_weights",
    "save_model",
    "save_stock",
    "trim_vocabulary",
]
