"""An image folder: root/train/<class>/*.png, root/test/<class>/*.png; or root/<class>/*.png, test then carved."""

import warnings
from pathlib import Path

import numpy as np

from secateurs.checks import extra
from secateurs.data.parts import MAX_BYTES, Part, Parts
from secateurs.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
_GREY = ("1", "L", "LA", "I", "I;16", "F")


def has_images(root: Path) -> bool:
    """Whether the directory is laid out as an image folder."""
    base = root / "train" if (root / "train").is_dir() else root
    return any(_images(folder) for folder in _folders(base))


def read_folder(root: Path) -> Parts:
    """Grey images as (n, height, width), others as (n, height, width, 3); uint8. All must have one size."""
    bases = {split: next((root / n for n in names if (root / n).is_dir()), None) for split, names in SPLITS.items()}
    if bases["train"] is None:
        bases = {"train": root, "validation": None, "test": None}
    files: dict[str, list[tuple[Path, str]]] = {}
    for split, base in bases.items():
        if base is not None:
            files[split] = [(path, folder.name) for folder in _folders(base) for path in _images(folder)]
            if not files[split]:
                raise InputError(f"'{base}' holds no images in class folders. Put them in {base.name}/<class>/*.png.")
    is_grey = _check_sizes([path for split in files.values() for path, _ in split])
    parts = {
        split: Part(np.stack([_pixels(path, is_grey) for path, _ in listed]), np.array([c for _, c in listed]))
        for split, listed in files.items()
    }
    return Parts(
        root.name, f"'{root}'", f"image folder {root.name}", parts["train"], parts.get("validation"), parts.get("test")
    )


def _folders(base: Path) -> list[Path]:
    return sorted(p for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _check_sizes(paths: list[Path]) -> bool:
    """Whether all images are grey; InputError unless all have one size. Reads headers only."""
    first, size, is_grey = paths[0], None, True
    for path in paths:
        with _open(path) as image:
            if size is None:
                size = image.size
            if image.size != size:
                raise InputError(
                    f"'{path}' is {image.width}x{image.height} pixels and '{first}' {size[0]}x{size[1]}; all images "
                    "must have one size. Resize or crop them first."
                )
            is_grey = is_grey and image.mode in _GREY
    assert size is not None
    n_bytes = len(paths) * size[0] * size[1] * (1 if is_grey else 3)
    if n_bytes > MAX_BYTES:
        raise InputError(
            f"{len(paths):,} images of {size[0]}x{size[1]} are {n_bytes:,} bytes of pixels. Make them smaller."
        )
    return is_grey


def _open(path: Path):  # type: ignore[no-untyped-def]  # pillow is an extra
    image = extra("PIL.Image", "explore")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pillow only warns of an image that declares an enormous size
            return image.open(path)
    except (OSError, SyntaxError, ValueError, Warning, image.DecompressionBombError) as error:
        raise InputError(f"Cannot read the image '{path}': {error}.") from error


def _pixels(path: Path, is_grey: bool) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with _open(path) as image:
        try:
            return np.asarray(image.convert("L" if is_grey else "RGB"), dtype=np.uint8)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"Cannot read the image '{path}': {error}.") from error
