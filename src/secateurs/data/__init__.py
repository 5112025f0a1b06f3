"""Data: real examples from files, always in three splits; the test split is fixed and touched once."""

from secateurs.data.dataset import Dataset
from secateurs.data.images import Scaling
from secateurs.data.shape import InputShape
from secateurs.data.sources import load_data
from secateurs.data.spec import DataSpec

__all__ = ["DataSpec", "Dataset", "InputShape", "Scaling", "load_data"]
