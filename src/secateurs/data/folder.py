"""An image folder: root/train/<class>/*.png, root/test/<class>/*.png; or root/<class>/*.png, test then carved."""

import warnings
from pathlib import Path

import numpy as np

from secateurs.checks import extra
from secateurs.data.parts import MAX_BYTES, Array, Part, Parts
from secateurs.data.pixels import Form, common_form, divisor, pixel_bytes, read_pixels
from secateurs.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


def has_images(root: Path) -> bool:
    """Whether the directory is laid out as an image folder."""
    base = root / "train" if (root / "train").is_dir() else root
    return any(_images(folder) for folder in _folders(base))


def read_folder(root: Path) -> Parts:
    """Grey images as (n, height, width), others as (n, height, width, 3); uint8, or uint16 where all have 16 bits.

    All must have one size; InputError for 8 beside 16 bits and for floats.
    """
    bases = {split: next((root / n for n in names if (root / n).is_dir()), None) for split, names in SPLITS.items()}
    if bases["train"] is None:
        bases = {"train": root, "validation": None, "test": None}
    files: dict[str, list[tuple[Path, str]]] = {}
    for split, base in bases.items():
        if base is not None:
            files[split] = [(path, folder.name) for folder in _folders(base) for path in _images(folder)]
            if not files[split]:
                raise InputError(f"'{base}' holds no images in class folders. Put them in {base.name}/<class>/*.png.")
    form = _check_headers([path for split in files.values() for path, _ in split], f"'{root}'")
    parts = {
        split: Part(np.stack([_pixels(path, form) for path, _ in listed]), np.array([c for _, c in listed]))
        for split, listed in files.items()
    }
    return Parts(
        root.name,
        f"'{root}'",
        f"image folder {root.name}",
        parts["train"],
        parts.get("validation"),
        parts.get("test"),
        divisor=divisor(parts["train"].x),
    )


def _folders(base: Path) -> list[Path]:
    return sorted(p for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _check_headers(paths: list[Path], where: str) -> Form:
    """The form of all images; InputError unless they share one, and one size. Reads headers only."""
    first, size, modes = paths[0], None, set()
    for path in paths:
        with _open(path) as image:
            if size is None:
                size = image.size
            if image.size != size:
                raise InputError(
                    f"'{path}' is {image.width}x{image.height} pixels and '{first}' {size[0]}x{size[1]}; all images "
                    "must have one size. Resize or crop them first."
                )
            modes.add(image.mode)
    assert size is not None
    form = common_form(modes, where)
    n_bytes = len(paths) * size[0] * size[1] * pixel_bytes(form)
    if n_bytes > MAX_BYTES:
        raise InputError(
            f"{len(paths):,} images of {size[0]}x{size[1]} are {n_bytes:,} bytes of pixels. Make them smaller."
        )
    return form


def _open(path: Path):  # type: ignore[no-untyped-def]  # pillow is an extra
    image = extra("PIL.Image", "explore")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pillow only warns of an image that declares an enormous size
            return image.open(path)
    except (OSError, SyntaxError, ValueError, Warning, image.DecompressionBombError) as error:
        raise InputError(f"Cannot read the image '{path}': {error}.") from error


def _pixels(path: Path, form: Form) -> Array:
    with _open(path) as image:
        try:
            return read_pixels(image, form, f"'{path}'")
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"Cannot read the image '{path}': {error}.") from error
