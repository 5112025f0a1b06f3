"""Data sets of the Hugging Face hub, through its `datasets` library (extra `hf`); the only source with a network.

Scripts that data sets bring are never run: `trust_remote_code` is not passed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from secateurs.checks import extra, first_line, nearest, shown
from secateurs.data.parts import Array, Part, Parts
from secateurs.data.pixels import common_form, divisor, read_pixels
from secateurs.data.spec import DataSpec
from secateurs.data.tables import SPLITS, as_labels
from secateurs.errors import InputError

PREFIX = "hub:"


def read_hub(spec: DataSpec) -> Parts:
    """The splits of "hub:org/name" with a text or an image column, and a label column."""
    name = spec.source.removeprefix(PREFIX).strip()
    library = extra("datasets", "hf")
    try:
        loaded = library.load_dataset(name, spec.subset, revision=spec.revision)
    except Exception as error:  # the library raises types of its own, of its storage and of its network
        raise InputError(f"Cannot load {spec.source!r} with the datasets library: {first_line(error)}") from error
    if not isinstance(loaded, Mapping):
        raise InputError(f"{spec.source!r} is not a set of splits but {type(loaded).__name__}. Name a whole data set.")
    where = repr(spec.source)
    found = {split: next((loaded[n] for n in names if n in loaded), None) for split, names in SPLITS.items()}
    if found["train"] is None:
        raise InputError(f"{where} has no training split; it has {', '.join(map(str, loaded)) or 'none'}.")
    parts = {split: _read(table, spec, where) for split, table in found.items() if table is not None}
    about = f"Hugging Face hub data set {name}" + (f", subset {spec.subset}" if spec.subset else "")
    about += f", revision {spec.revision}" if spec.revision else ""
    if "test" in parts and set(parts["test"].y.tolist()) == {-1}:
        del parts["test"]
        about += "; the labels of its test split are hidden, so it is not used"
    return Parts(
        name.rsplit("/", 1)[-1],
        where,
        about,
        parts["train"],
        parts.get("validation"),
        parts.get("test"),
        _class_names(found["train"], spec.label_column),
        divisor(parts["train"].x),
    )


def _read(table: Any, spec: DataSpec, where: str) -> Part:
    columns = list(table.column_names)
    if spec.label_column not in columns:
        raise InputError(f"{where} has no column {spec.label_column!r}. {nearest(spec.label_column, columns)}")
    y = as_labels(list(table[spec.label_column]), f"{where}: column {spec.label_column!r}")
    if spec.text_column in columns:
        texts = list(table[spec.text_column])
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"{where}: column {spec.text_column!r} does not hold text only. Name another text_column.")
        return Part(texts, y)
    if spec.image_column in columns:
        images = list(table[spec.image_column])
        for i, image in enumerate(images):
            if not hasattr(image, "mode"):
                raise InputError(
                    f"{where}: row {i + 1} of column {spec.image_column!r} is {shown(image)}, not an image. Drop the "
                    "row, or name another image_column."
                )
        return Part(_pixels(images, where), y)
    raise InputError(
        f"{where} has neither a column {spec.text_column!r} nor {spec.image_column!r}; it has {', '.join(columns)}. "
        "Name one with text_column=... or image_column=..."
    )


def _pixels(images: list[Any], where: str) -> Array:
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        a, b = sorted(sizes)[:2]
        raise InputError(f"{where}: images of {len(sizes)} sizes, such as {a} and {b}; one size is needed.")
    form = common_form((image.mode for image in images), where)
    return np.stack([read_pixels(image, form, f"{where}: an image") for image in images])


def _class_names(table: Any, label: str) -> tuple[tuple[Any, str], ...] | None:
    names = getattr(table.features.get(label), "names", None)
    return tuple(enumerate(map(str, names))) if names else None
