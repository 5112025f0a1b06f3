"""load_data: from a DataSpec to a Dataset; finds the source, carves the splits, encodes the inputs.

To add a source: write `read_...(...) -> Parts` in its own file (data/parts.py says what Parts are) and its line
in `read`.
"""

import difflib
from pathlib import Path

import numpy as np
import torch

from secateurs.data.dataset import Dataset
from secateurs.data.digits import read_digits
from secateurs.data.folder import has_images, read_folder
from secateurs.data.hub import PREFIX, read_hub
from secateurs.data.images import check_images, encode_images
from secateurs.data.mnist import read_idx_folder, read_mnist
from secateurs.data.npz import read_npz
from secateurs.data.parts import Part, Parts, check_parts, number_labels
from secateurs.data.shape import MAX_CLASSES, InputShape
from secateurs.data.spec import DataSpec
from secateurs.data.splits import TEST_SEED, TEST_SHARE, carve, limit
from secateurs.data.tables import SUFFIXES as TABLES
from secateurs.data.tables import read_tables, split_files
from secateurs.data.texts import UNKNOWN, encode_texts
from secateurs.data.tokenizing import tokenize
from secateurs.errors import InputError, RecipeError, ScalingError

NAMES = ("digits", "mnist")
KINDS = "an .npz, .csv or .parquet file, a directory of them, of idx files or of images, or 'hub:org/name'"


def load_data(spec: DataSpec) -> Dataset:
    """The three splits of a source, a function of the files and the spec alone.

    InputError where files are missing, corrupt or unusable; RecipeError where the spec does not fit them.
    """
    parts = read(spec)
    check_parts(parts)
    is_image = isinstance(parts.train.x, np.ndarray)
    if is_image:
        check_images(parts)
    elif spec.mean is not None:
        raise ScalingError(f"mean and std are for images; {parts.where} holds text. Leave them out.")
    if is_image and spec.tokenizer is not None:
        raise RecipeError(f"tokenizer is for texts; {parts.where} holds images. Leave it out.")
    parts, class_names = number_labels(parts)
    if len(class_names) > MAX_CLASSES:
        raise InputError(f"{parts.where} has {len(class_names):,} classes. Is its label column really a class?")
    train, validation, test, carved = _split(parts, spec, class_names)
    splits = [train, validation, test]
    y = [torch.from_numpy(np.ascontiguousarray(part.y, dtype=np.int64)) for part in splits]
    scaling, vocabulary, unknown = None, None, None
    if is_image:
        x, scaling = encode_images(splits, spec.mean, spec.std, parts.where, parts.divisor)
        shape = InputShape(kind="image", size=tuple(x[0].shape[1:]), n_classes=len(class_names))
    else:
        texts = [list(part.x) for part in splits]
        if spec.tokenizer is not None:
            x, vocabulary, unknown = tokenize(texts, spec.tokenizer, spec.max_length)
        else:
            x, vocabulary = encode_texts(texts, spec.vocab_size, spec.min_count, spec.max_length, parts.where)
            unknown = UNKNOWN
        shape = InputShape(kind="tokens", size=(len(vocabulary), x[0].shape[1]), n_classes=len(class_names))
    about = f"{parts.about}; {carved}" if carved else parts.about
    train_val_test = (x[0], y[0], x[1], y[1], x[2], y[2])
    return Dataset(parts.name, about, shape, class_names, *train_val_test, scaling, vocabulary, unknown)


def _split(parts: Parts, spec: DataSpec, names: tuple[str, ...]) -> tuple[Part, Part, Part, str]:
    """Train, validation and test, none of them empty, and what was carved in words."""
    train, validation, test, carved = parts.train, parts.validation, parts.test, []
    if test is None:
        # First, and always the same: what validation takes can never depend on it, nor reach into it.
        train, test = carve(train, round(TEST_SHARE * len(train)), TEST_SEED, "test", parts.where, names)
        carved.append(f"{len(test):,} examples carved from training for test (fixed, stratified)")
    if validation is None:
        n = round(spec.validation * len(train))
        train, validation = carve(train, n, spec.split_seed, "validation", parts.where, names)
        carved.append(f"{len(validation):,} carved from training for validation (stratified, seed {spec.split_seed})")
    train = limit(train, spec.limit_train, spec.split_seed, "train", every_class=True)
    validation = limit(validation, spec.limit_validation, spec.split_seed, "validation", every_class=False)
    test = limit(test, spec.limit_test, TEST_SEED, "test", every_class=False)
    return train, validation, test, "; ".join(carved)


def read(spec: DataSpec) -> Parts:
    """The source as it is: a known name, then the hub prefix, then a path."""
    source = spec.source
    if source == "mnist":
        return read_mnist(spec.directory)
    if spec.directory is not None:
        raise RecipeError(f"directory is for the source 'mnist'; got directory={spec.directory!r} with {source!r}.")
    if source == "digits":
        return read_digits()
    path = Path(source.removeprefix(PREFIX)).expanduser()
    if path.exists():
        return _read_path(path, spec)  # what is here never touches the network
    if source.startswith(PREFIX):
        return read_hub(spec)
    close = difflib.get_close_matches(source.lower(), NAMES, n=1)
    if "/" in source or "\\" in source or path.suffix:
        may_be_hub = source.count("/") == 1 and not path.suffix
        hint = f", or write 'hub:{source}' for a data set of the hub" if may_be_hub else ""
        raise InputError(f"There is no file or directory '{source}'. Check the path{hint}.")
    hint = f"Did you mean '{close[0]}'? " if close else ""
    raise RecipeError(f"There are no data called {source!r}. {hint}Known: {', '.join(NAMES)}, {KINDS}.")


def _read_path(path: Path, spec: DataSpec) -> Parts:
    path = path.resolve()
    if path.is_file():
        if path.suffix == ".npz":
            return read_npz(path)
        if path.suffix in TABLES:
            return read_tables(path, spec.text_column, spec.label_column)
        raise InputError(f"'{path}' is not a kind of file that is read. Give {KINDS}.")
    tables = split_files(path)
    if "train" in tables:
        return read_tables(path, spec.text_column, spec.label_column)
    if tables:
        raise InputError(
            f"'{path}' has {', '.join(p.name for p in tables.values())} but no train.csv or train.parquet."
        )
    idx = read_idx_folder(path)
    if idx is not None:
        return idx
    archives = sorted(path.glob("*.npz"))
    if len(archives) == 1:
        return read_npz(archives[0])
    if has_images(path):
        return read_folder(path)
    found = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
    raise InputError(f"'{path}' holds no data that are understood; found {found}. Give {KINDS}.")
