"""MNIST (or Fashion-MNIST, or any data in its file format) from a local directory; nothing is downloaded."""

from dataclasses import replace
from pathlib import Path

from secateurs.data.idx import read_idx
from secateurs.data.npz import read_npz
from secateurs.data.parts import Part, Parts
from secateurs.errors import InputError, RecipeError

# Role -> the middle of the file name; "-idx" and ".idx" are both in use.
_FILES = {
    "training images": ("train-images", 3),
    "training labels": ("train-labels", 1),
    "test images": ("t10k-images", 3),
    "test labels": ("t10k-labels", 1),
}
_ABOUT = "MNIST handwritten digits (LeCun, Cortes & Burges), read from local files ({files})"


def read_mnist(directory: str | None) -> Parts:
    """The four idx files (plain or .gz), or the .npz file, of the directory or of its MNIST/raw."""
    if directory is None:
        raise RecipeError(
            "The data 'mnist' need the directory of their files (directory=..., --data-dir): nothing is downloaded."
        )
    root = Path(directory)
    if not root.is_dir():
        raise InputError(f"There is no directory '{root}' with the files of 'mnist'. Check the path.")
    for folder in (root, root / "raw", root / "MNIST" / "raw", root / "mnist"):
        parts = read_idx_folder(folder) or _read_npz_folder(folder)
        if parts is not None:
            return replace(parts, name="mnist")
    found = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
    raise InputError(
        f"'{root}' holds no MNIST: needed are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte "
        f"and t10k-labels-idx1-ubyte (plain or .gz), or one .npz with x_train, y_train, x_test, y_test; found {found}."
    )


def read_idx_folder(folder: Path) -> Parts | None:
    """The splits of the four idx files; None if the folder has none of them, InputError if only some."""
    files = {role: _find(folder, stem, n) for role, (stem, n) in _FILES.items()}
    if not any(files.values()):
        return None
    missing = [f"{role} ({_FILES[role][0]}-idx{_FILES[role][1]}-ubyte)" for role, path in files.items() if not path]
    if missing:
        raise InputError(f"'{folder}' lacks the {' and the '.join(missing)}. Put all four idx files there.")
    arrays = {role: read_idx(path, _FILES[role][1]) for role, path in files.items() if path}
    return Parts(
        folder.name,
        f"'{folder}'",
        _ABOUT.format(files="idx"),
        train=Part(arrays["training images"], arrays["training labels"]),
        test=Part(arrays["test images"], arrays["test labels"]),
    )


def _find(folder: Path, stem: str, n_dimensions: int) -> Path | None:
    names = [f"{stem}{dot}idx{n_dimensions}-ubyte{gz}" for gz in ("", ".gz") for dot in ("-", ".")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_npz_folder(folder: Path) -> Parts | None:
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if (folder / "mnist.npz") in files:
        files = [folder / "mnist.npz"]
    if len(files) > 1:
        raise InputError(f"'{folder}' has {len(files)} .npz files. Give the path of one of them as the source.")
    return replace(read_npz(files[0]), about=_ABOUT.format(files="npz")) if files else None
