"""Images from idx, idx.gz and npz files: read as they are, refused with one clear error when they are not."""

import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secateurs.data import Dataset, DataSpec, load_data
from secateurs.errors import InputError, RecipeError

RANDOM = np.random.RandomState(0)
N_TRAIN, N_TEST = 40, 10
X_TRAIN = RANDOM.randint(0, 256, (N_TRAIN, 6, 5)).astype(np.uint8)
X_TEST = RANDOM.randint(0, 256, (N_TEST, 6, 5)).astype(np.uint8)
Y_TRAIN = (np.arange(N_TRAIN) % 4).astype(np.uint8)
Y_TEST = (np.arange(N_TEST) % 4).astype(np.uint8)

Arrays = dict[str, Any]
ARRAYS: Arrays = {"x_train": X_TRAIN, "y_train": Y_TRAIN, "x_test": X_TEST, "y_test": Y_TEST}
IDX = {
    "train-images-idx3-ubyte": X_TRAIN,
    "train-labels-idx1-ubyte": Y_TRAIN,
    "t10k-images-idx3-ubyte": X_TEST,
    "t10k-labels-idx1-ubyte": Y_TEST,
}


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, suffix: str = "", dot: str = "-") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in IDX.items():
        content = idx(array)
        path = folder / (name.replace("-idx", f"{dot}idx") + suffix)
        path.write_bytes(gzip.compress(content) if suffix == ".gz" else content)
    return folder


def write_npz(path: Path, **changes: Any) -> Path:
    np.savez(path, **{name: array for name, array in (ARRAYS | changes).items() if array is not None})
    return path


def mnist(folder: Path) -> Dataset:
    return load_data(DataSpec(source="mnist", directory=str(folder)))


def same(a: Dataset, b: Dataset) -> bool:
    return a.fingerprint == b.fingerprint


def test_all_forms_of_mnist_give_the_same_data(tmp_path: Path) -> None:
    plain = mnist(write_idx(tmp_path / "plain"))
    packed = mnist(write_idx(tmp_path / "packed", ".gz"))
    dotted = mnist(write_idx(tmp_path / "dotted", "", "."))
    raw = write_idx(tmp_path / "nested" / "MNIST" / "raw", ".gz")
    (tmp_path / "npz").mkdir()
    write_npz(tmp_path / "npz" / "mnist.npz")
    everything = [packed, dotted, mnist(raw.parent.parent), mnist(tmp_path / "npz")]
    everything.append(load_data(DataSpec(source=str(tmp_path / "packed"))))
    everything.append(load_data(DataSpec(source=str(tmp_path / "npz"))))
    everything.append(load_data(DataSpec(source=str(tmp_path / "npz" / "mnist.npz"))))
    assert all(same(plain, other) for other in everything)
    assert plain.shape.size == (1, 6, 5)
    assert plain.name == "mnist"
    assert (len(plain.x_train), len(plain.x_val), len(plain.x_test)) == (32, 8, 10)
    assert plain.scaling is not None
    assert plain.scaling.divisor == 255
    expected = (X_TEST[:, None] / 255 - plain.scaling.mean[0]) / plain.scaling.std[0]
    torch.testing.assert_close(plain.x_test, torch.from_numpy(expected).float())
    assert plain.y_test.tolist() == Y_TEST.tolist()


def test_results_never_show_where_the_files_are(tmp_path: Path) -> None:
    data = load_data(DataSpec(source=str(write_npz(tmp_path / "mine.npz"))))
    assert data.name == "mine"
    assert str(tmp_path) not in data.source


def test_mnist_needs_its_directory(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"need the directory of their files .* nothing is downloaded"):
        load_data(DataSpec(source="mnist"))
    with pytest.raises(InputError, match="There is no directory"):
        mnist(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"holds no MNIST: needed are train-images.*found notes\.txt"):
        mnist(tmp_path)
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"lacks the test labels \(t10k-labels-idx1-ubyte\)"):
        mnist(tmp_path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"\x89PNG....", "is not an idx file of bytes: it starts with 89504e47"),
        (b"\0\0\x0d\x03" + b"\0" * 12, "is not an idx file of bytes"),
        (idx(Y_TRAIN), "has 1 dimensions; 3 are needed. Are two files swapped"),
        (idx(X_TRAIN)[:9], "ends within its header"),
        (idx(X_TRAIN)[:-1], "truncated or corrupt|holds 1,199"),
        (idx(X_TRAIN) + b"\0", "holds more"),
        (
            b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1),
            "declares 4294967295 x .* disk can hold",
        ),
    ],
)
def test_corrupt_idx(tmp_path: Path, suffix: str, content: bytes, message: str) -> None:
    folder = write_idx(tmp_path, suffix)
    path = folder / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(InputError, match=message):
        mnist(folder)


def test_a_sparse_file_is_a_legal_bomb(tmp_path: Path) -> None:
    path = write_idx(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 1 << 16, 1 << 12, 1 << 12))
    os.truncate(path, 16 + (1 << 40))
    with pytest.raises(InputError, match="declares 65536 x 4096 x 4096"):
        mnist(tmp_path)


def test_corrupt_gzip(tmp_path: Path) -> None:
    path = write_idx(tmp_path, ".gz") / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[:-20], whole[:60] + b"\xff" * 20 + whole[80:], b"not gzip"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"Cannot read .*train-images.*Fetch the file again"):
            mnist(tmp_path)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((9, 7), (1, 9, 7)),
        ((9, 7, 3), (3, 9, 7)),
        ((3, 9, 7), (3, 9, 7)),
        ((9, 7, 1), (1, 9, 7)),
        ((1, 9, 7), (1, 9, 7)),
    ],
)
def test_layouts(tmp_path: Path, shape: tuple[int, ...], found: tuple[int, ...]) -> None:
    x = RANDOM.rand(N_TRAIN, *shape).astype(np.float64)
    path = write_npz(tmp_path / "a.npz", x_train=x, x_test=x[:N_TEST])
    data = load_data(DataSpec(source=str(path)))
    assert data.shape.size == found
    assert data.x_train.is_contiguous()
    assert data.x_train.mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(data.x_train.std((0, 2, 3), correction=0), torch.ones(found[0]))
    if shape == (9, 7, 3) and data.scaling:
        pixel = data.x_test[4, 2, 5, 6] * data.scaling.std[2] + data.scaling.mean[2]
        assert float(pixel) == pytest.approx(x[4, 5, 6, 2], abs=1e-6)


def test_an_archive_may_bring_its_own_validation(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", x_val=X_TEST[:6], y_val=Y_TEST[:6])
    data = load_data(DataSpec(source=str(path)))
    assert (len(data.x_train), len(data.x_val)) == (N_TRAIN, 6)
    assert "carved" not in data.source


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2"])
def test_byte_orders_and_fortran_order(tmp_path: Path, dtype: str) -> None:
    x = np.asfortranarray((X_TRAIN / 255).astype(dtype))
    data = load_data(DataSpec(source=str(write_npz(tmp_path / "a.npz", x_train=x, x_test=x[:N_TEST]))))
    reference = load_data(DataSpec(source=str(write_npz(tmp_path / "b.npz", x_test=X_TRAIN[:N_TEST]))))
    torch.testing.assert_close(data.x_train, reference.x_train, atol=5e-3, rtol=0)


def test_classes_with_gaps_and_text_labels_keep_their_names(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", y_train=Y_TRAIN * 10, y_test=Y_TEST * 10)
    assert load_data(DataSpec(source=str(path))).class_names == ("0", "10", "20", "30")
    names = np.array(["ant", "bee", "cat", "dog"])
    path = write_npz(tmp_path / "b.npz", y_train=names[Y_TRAIN], y_test=names[Y_TEST])
    data = load_data(DataSpec(source=str(path)))
    assert data.class_names == ("ant", "bee", "cat", "dog")
    assert data.y_test.tolist() == Y_TEST.tolist()


def with_nan() -> Any:
    x = X_TRAIN.astype(np.float32)
    x[3, 2, 1:3] = np.nan
    x[4, 0, 0] = np.inf
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "lacks y_test; it holds x_test, x_train, y_train. Save the arrays under"),
        ({"x_val": X_TEST}, "has only one of x_val and y_val"),
        ({"x_train": X_TRAIN[:-1]}, "the train split has 39 inputs but 40 labels"),
        ({"x_train": X_TRAIN[:0], "y_train": Y_TRAIN[:0]}, "the train split is empty"),
        ({"x_test": X_TEST[:0], "y_test": Y_TEST[:0]}, "the test split is empty"),
        ({"y_train": Y_TRAIN[:, None]}, r"labels of shape \(40, 1\)"),
        ({"y_train": Y_TRAIN.astype(float)}, "labels of type float64; whole numbers .* are needed. Use y.astype"),
        ({"y_train": Y_TRAIN.astype(bool)}, "labels of type bool"),
        ({"y_train": Y_TRAIN.astype(int) - 1}, "has the label -1; labels are 0 or more"),
        ({"y_train": Y_TRAIN.astype(str)}, "test split has labels of type uint8, training has <U"),
        ({"y_train": Y_TRAIN * 0, "y_test": Y_TEST * 0}, "the training data have 1 class; a classifier needs 2"),
        ({"y_test": Y_TEST + 1}, r"the test split has 1 label\(s\) that training lacks, first 4"),
        ({"y_train": np.array([9] + [0, 1] * 19 + [0], dtype=np.uint8)}, "training lacks|fewer than 2"),
        (
            {"y_train": np.where(np.arange(N_TRAIN) == 0, 7, Y_TRAIN)},
            r"cannot carve a validation split, because 1 class\(es\) have fewer than 2 .*'7' with 1",
        ),
        ({"x_train": X_TRAIN.reshape(N_TRAIN, -1)}, "The|must agree"),
        (
            {"x_train": X_TRAIN.reshape(N_TRAIN, -1), "x_test": X_TEST.reshape(N_TEST, -1)},
            r"x has shape \(.*30\); images are .* Reshape flat pixels first",
        ),
        (
            {"x_train": X_TRAIN[:, :5]},
            r"test images are uint8 of shape \(6, 5\), the training images uint8 of shape \(5, 5\)",
        ),
        ({"x_train": X_TRAIN.astype(np.float32)}, "All splits must agree"),
        ({"x_train": with_nan(), "x_test": X_TEST.astype(np.float32)}, "train images contain 3 NaN or infinite pixels"),
        ({"x_train": X_TRAIN.astype(str), "x_test": X_TEST.astype(str)}, "pixels must be uint8 or floating-point"),
        ({"x_train": X_TRAIN > 1, "x_test": X_TEST > 1}, "images are of type bool"),
        ({"x_train": X_TRAIN * 0}, r"all training pixels of channel 0 are equal \(0\)"),
        ({"x_train": X_TRAIN.astype(complex)}, "is complex128 of shape"),
        ({"x_train": X_TRAIN.astype(object)}, r"x_train\.npy holds Python objects, which are never unpickled"),
        (
            {"x_train": np.zeros((N_TRAIN, 3, 4, 3), np.uint8), "x_test": np.zeros((N_TEST, 3, 4, 3), np.uint8)},
            "neither clearly first nor clearly last",
        ),
        (
            {"x_train": np.zeros((N_TRAIN, 5, 4, 2), np.uint8), "x_test": np.zeros((N_TEST, 5, 4, 2), np.uint8)},
            "neither clearly first nor clearly last",
        ),
        (
            {"x_train": np.zeros((N_TRAIN, 0, 4), np.uint8), "x_test": np.zeros((N_TEST, 0, 4), np.uint8)},
            "have no pixels",
        ),
    ],
)
def test_unusable_archives(tmp_path: Path, changes: Arrays, message: str) -> None:
    path = write_npz(tmp_path / "bad.npz", **changes)
    with pytest.raises(InputError, match=message):
        load_data(DataSpec(source=str(path)))


def corrupt_middle(content: bytes) -> bytes:
    return content[:300] + b"\xff" * 50 + content[350:]


@pytest.mark.parametrize(
    "damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"\x80\x04pickle", corrupt_middle]
)
def test_damaged_archives(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_npz(tmp_path / "a.npz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"Cannot read .*a\.npz' as an \.npz archive"):
        load_data(DataSpec(source=str(path)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10**6, 10**6), "declares 1,000,000,000,000 bytes but at most 1,200 are there"),
        ((39, 6, 5), "holds another number"),
        ((-1, 6, 5), "save numbers"),
    ],
)
def test_an_array_that_declares_another_size(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    path = write_npz(tmp_path / "a.npz", x_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", header.getvalue() + X_TRAIN.tobytes())
    with pytest.raises(InputError, match=message):
        load_data(DataSpec(source=str(path)))


def test_a_member_that_is_no_array(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", x_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", b"hello")
    with pytest.raises(InputError, match=r"x_train\.npy is not a numpy array"):
        load_data(DataSpec(source=str(path)))


def test_a_compressed_archive(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
    assert same(
        load_data(DataSpec(source=str(tmp_path / "a.npz"))),
        load_data(DataSpec(source=str(write_npz(tmp_path / "b.npz")))),
    )


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"source": "digts"}, RecipeError, "no data called 'digts'. Did you mean 'digits'"),
        ({"source": "MNIST"}, RecipeError, "Did you mean 'mnist'"),
        ({"source": "nonsense"}, RecipeError, "Known: digits, mnist, an .npz"),
        ({"source": "no/where.npz"}, InputError, "There is no file or directory 'no/where.npz'. Check the path."),
        ({"source": "org/name"}, InputError, "or write 'hub:org/name'"),
        ({"source": "digits", "directory": "x"}, RecipeError, "directory is for the source 'mnist'"),
    ],
)
def test_unknown_sources(values: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_data(DataSpec(**values))


def test_paths_that_hold_nothing_readable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no data that are understood; found nothing"):
        load_data(DataSpec(source=str(tmp_path)))
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(InputError, match="is not a kind of file that is read"):
        load_data(DataSpec(source=str(tmp_path / "a.pkl")))
    for name in "ab":
        write_npz(tmp_path / f"{name}.npz")
    with pytest.raises(InputError, match=r"has 2 \.npz files"):
        mnist(tmp_path)


def test_real_mnist_and_cifar10(data_dir: Path) -> None:
    digits = load_data(DataSpec(source="mnist", directory=str(data_dir / "mnist")))
    assert (len(digits.x_train), len(digits.x_val), len(digits.x_test)) == (48_000, 12_000, 10_000)
    assert digits.scaling is not None
    assert digits.scaling.mean[0] == pytest.approx(0.1307, abs=2e-4)
    photos = load_data(DataSpec(source=str(data_dir / "cifar10" / "cifar10.npz"), limit_train=500, limit_test=500))
    assert photos.shape.size == (3, 32, 32)
    assert photos.y_train.bincount().tolist() == [50] * 10
