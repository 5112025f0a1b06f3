"""Image folders, tables of texts and hub data sets: read as they are, one clear error when they are not."""

import csv
import sys
from datetime import date
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from secateurs.data import DataSpec, load_data
from secateurs.errors import InputError, MissingExtraError, RecipeError

# ---------------------------------------------------------------------------------------------- image folders


def write_images(folder: Path, n: int, mode: str = "L", size: tuple[int, int] = (5, 4), seed: int = 0) -> None:
    image = pytest.importorskip("PIL.Image")
    random = np.random.RandomState(seed)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
            pixels = random.randint(0, 256, shape).astype(np.uint8)
            image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_an_image_folder_with_all_splits(tmp_path: Path) -> None:
    for i, (split, n) in enumerate((("train", 10), ("val", 3), ("test", 4))):
        write_images(tmp_path / split, n, "RGB", seed=i)
    data = load_data(DataSpec(source=str(tmp_path)))
    assert data.shape.size == (3, 4, 5)
    assert data.class_names == ("cat", "dog")
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (20, 6, 8)
    assert data.y_test.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("has_train", [True, False])
def test_a_missing_test_split_is_carved_once_and_for_all(tmp_path: Path, has_train: bool) -> None:
    write_images(tmp_path / "train" if has_train else tmp_path / "pets", 20)
    root = tmp_path if has_train else tmp_path / "pets"
    first, second = (load_data(DataSpec(source=str(root), split_seed=s, mean=(0.0,), std=(1.0,))) for s in (0, 1))
    assert first.shape.size == (1, 4, 5)
    assert (len(first.x_train), len(first.x_val), len(first.x_test)) == (26, 6, 8)
    assert torch.equal(first.x_test, second.x_test)
    assert not torch.equal(first.x_val, second.x_val)
    assert "8 examples carved from training for test" in first.source
    every = torch.cat([first.x_train, first.x_val, first.x_test]).flatten(1)
    assert len(every.unique(dim=0)) == 40


def test_unusable_image_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 4)
    write_images(tmp_path / "odd" / "train", 2)
    write_images(tmp_path / "odd" / "test", 2, size=(6, 4))
    with pytest.raises(InputError, match=r"is 6x4 pixels and .* 5x4; all images must have one size"):
        load_data(DataSpec(source=str(tmp_path / "odd")))
    (tmp_path / "test" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match=r"test' holds no images in class folders. Put them in test/<class>"):
        load_data(DataSpec(source=str(tmp_path)))
    (tmp_path / "test" / "cat" / "0.png").write_bytes(b"not a png")
    with pytest.raises(InputError, match=r"Cannot read the image .*0\.png"):
        load_data(DataSpec(source=str(tmp_path)))
    whole = (tmp_path / "train" / "cat" / "0.png").read_bytes()
    (tmp_path / "test" / "cat" / "0.png").write_bytes(whole[:-30])
    with pytest.raises(InputError, match=r"Cannot read the image .*0\.png"):
        load_data(DataSpec(source=str(tmp_path)))


def write_modes(folder: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """One .tif per class of each array, whose type decides Pillow's mode."""
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, pixels in arrays.items():
            image.fromarray(pixels).save(folder / name / file)


@pytest.mark.parametrize(("suffix", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32)])
def test_16_bit_images_keep_every_level(tmp_path: Path, suffix: str, dtype: Any) -> None:
    """A conversion to 8 bits clipped everything above 255: nearly all pixels became white."""
    ramps = {f"{i}.{suffix}": (np.arange(20).reshape(4, 5) * 3000 + i).astype(dtype) for i in range(5)}
    for split in ("train", "test"):
        write_modes(tmp_path / split, ramps)
    data = load_data(DataSpec(source=str(tmp_path), mean=(0.4,), std=(0.3,)))
    assert data.shape.size == (1, 4, 5)
    assert data.scaling is not None
    assert data.scaling.divisor == 65_535
    pixels = (data.x_test[:5, 0].double() * 0.3 + 0.4) * 65_535
    wanted = np.stack([array.astype(np.float64) for array in ramps.values()])
    assert np.abs(pixels.numpy() - wanted).max() < 0.05


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"0.tif": np.ones((4, 5), np.float32)}, r"floating-point pixels \(mode F\) .* in one \.npz file"),
        ({"0.png": np.ones((4, 5), np.uint16), "1.png": np.ones((4, 5), np.uint8)}, "some images have 16 bits .* 8"),
        ({"0.tif": np.full((4, 5), 70_000, np.int32)}, r"0\.tif' has pixels from 70,000 to 70,000"),
        ({"0.tif": np.full((4, 5), -1, np.int32)}, r"0\.tif' has pixels from -1 to -1"),
    ],
)
def test_images_without_a_common_scale(tmp_path: Path, arrays: Any, message: str) -> None:
    write_modes(tmp_path / "train", arrays)
    with pytest.raises(InputError, match=message):
        load_data(DataSpec(source=str(tmp_path)))


def test_a_class_that_training_lacks(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 4)
    write_images(tmp_path / "test", 4)
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "cow")
    with pytest.raises(InputError, match="that training lacks, first 'cow'"):
        load_data(DataSpec(source=str(tmp_path)))


# ----------------------------------------------------------------------------------------------------- tables

GREETINGS = ["hello there", "good morning, world", "hello world", "good evening", "hi there", "good day"]
FAREWELLS = ["bye bye", "good bye world", "see you there", "farewell world", "bye for now", "see you"]
ROWS = [(text, "greeting") for text in GREETINGS] + [(text, "farewell") for text in FAREWELLS]


def write_csv(path: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_parquet(path: Path, rows: list[tuple[Any, ...]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"text": [r[0] for r in rows], "label": [r[1] for r in rows]}), path)
    return path


def test_csv_and_parquet_give_the_same_data(tmp_path: Path) -> None:
    spec = {"validation": 0.25, "min_count": 1}
    a = load_data(DataSpec(source=str(write_csv(tmp_path / "a.csv", ROWS)), **spec))
    b = load_data(DataSpec(source=str(write_parquet(tmp_path / "b.parquet", ROWS)), **spec))
    assert a.fingerprint == b.fingerprint
    assert a.vocabulary == b.vocabulary
    assert a.class_names == ("farewell", "greeting")
    assert (len(a.x_train), len(a.x_val), len(a.x_test)) == (8, 2, 2)
    assert a.x_train.dtype == torch.int64
    assert a.scaling is None


def test_the_vocabulary_comes_from_the_training_part_alone(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", [("a b b", 0), ("b c c", 1), ("b a", 0), ("c", 1)])
    write_csv(tmp_path / "validation.csv", [("zebra b zebra zebra", 0)])
    write_csv(tmp_path / "test.csv", [("zebra c c c c c c c", 1), ("", 0)])
    data = load_data(DataSpec(source=str(tmp_path), min_count=1))
    assert data.vocabulary == ("<pad>", "<unknown>", "b", "c", "a")
    assert data.shape.size == (5, 3)  # as wide as the longest training text
    assert data.x_train.tolist() == [[4, 2, 2], [2, 3, 3], [2, 4, 0], [3, 0, 0]]
    assert data.x_val.tolist() == [[1, 2, 1]]
    assert data.x_test.tolist() == [[1, 3, 3], [0, 0, 0]]
    small = load_data(DataSpec(source=str(tmp_path), min_count=1, vocab_size=3, max_length=2))
    assert small.vocabulary == ("<pad>", "<unknown>", "b")
    assert small.x_train.tolist() == [[1, 2], [2, 1], [2, 1], [1, 0]]
    rare = load_data(DataSpec(source=str(tmp_path), min_count=3))
    assert rare.vocabulary == ("<pad>", "<unknown>", "b", "c")


def test_whole_number_labels_are_sorted_as_numbers_and_others_stay_names(tmp_path: Path) -> None:
    rows = [(f"word w{i}", i) for i in range(12) for _ in range(4)]
    data = load_data(DataSpec(source=str(write_csv(tmp_path / "a.csv", rows))))
    assert data.class_names == tuple(map(str, range(12)))
    codes = [("word word", "007"), ("word word", "7")] * 4
    assert load_data(DataSpec(source=str(write_csv(tmp_path / "b.csv", codes)))).class_names == ("007", "7")


def test_other_column_names(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [(y, x) for x, y in ROWS], ("intent", "sentence"))
    with pytest.raises(InputError, match=r"has no column 'text'. .*Known: intent, sentence.*text_column"):
        load_data(DataSpec(source=str(path)))
    with pytest.raises(InputError, match=r"has no column 'label'.*label_column"):
        load_data(DataSpec(source=str(path), text_column="sentence"))
    assert load_data(DataSpec(source=str(path), text_column="sentence", label_column="intent")).shape.n_classes == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column 'text'"),
        (b"text,label\n", "the train split is empty"),
        (b"text,label\nhello,1\nhello,there,2\n", r"line 3: the row does not have the 2 fields"),
        (b"text,label\nhello\n", "line 2: the row does not have"),
        (b"text,label\nhello,\nbye,1\n", "row 1 is ''; labels are whole numbers or text"),
        (b"text,label\nhello,-1\nbye,1\n", "has the label -1"),
        (b"text,label\nh\xff\xfe,1\n", "is not UTF-8 text"),
        (b'text,label\n"hello,1\n', "as CSV"),
        (b"text,label\nhello,a\nbye,a\n", "have 1 class"),
        (b"text,label\nhello,a\nbye,b\n", "cannot carve a test split"),
        (b"text,label\n" + b"one,a\ntwo,b\n" * 2, "cannot carve a validation split"),
        (b"text,label\nk,a\nl,b\nm,a\nn,b\nq,a\nr,b\ns,a\nt,b\n", "no word occurs 2 times in the"),
    ],
)
def test_unusable_csv(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_data(DataSpec(source=str(tmp_path / "a.csv")))


def test_unusable_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 nothing PAR1")
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match=r"Cannot read .*a\.parquet' as parquet"):
        load_data(DataSpec(source=str(path)))
    write_parquet(path, [("hello", 1), (None, 0)])
    with pytest.raises(InputError, match="row 2 of column 'text' is None, not text"):
        load_data(DataSpec(source=str(path)))
    write_parquet(path, [("hello", 1.5), ("bye", 0.5)])
    with pytest.raises(InputError, match=r"row 1 is 1\.5; labels are whole numbers or text"):
        load_data(DataSpec(source=str(path)))


def test_tables_without_training(tmp_path: Path) -> None:
    write_csv(tmp_path / "test.csv", ROWS)
    with pytest.raises(InputError, match=r"has test\.csv but no train\.csv"):
        load_data(DataSpec(source=str(tmp_path)))


def test_standardisation_is_not_for_text(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="mean and std are for images"):
        load_data(DataSpec(source=str(write_csv(tmp_path / "a.csv", ROWS)), mean=(0.0,), std=(1.0,)))


def test_real_banking77(data_dir: Path) -> None:
    pytest.importorskip("pyarrow")
    data = load_data(DataSpec(source=str(data_dir / "banking77")))
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (9003, 1000, 3080)
    assert data.shape.n_classes == 77
    assert data.y_test.bincount().tolist() == [40] * 77


# -------------------------------------------------------------------------------------------------------- hub


class FakeTable:
    """What this package uses of a table of the `datasets` library."""

    def __init__(self, columns: dict[str, list[Any]], names: list[str] | None = None) -> None:
        self._columns = columns
        self.column_names = list(columns)
        self.features = {"label": SimpleNamespace(names=names)} if names else {}

    def __getitem__(self, column: str) -> list[Any]:
        return self._columns[column]


def fake_hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Any]:
    calls: list[Any] = []

    def load_dataset(name: str, subset: str | None, *, revision: str | None) -> Any:
        calls.append((name, subset, revision))
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def text_table(names: list[str] | None = None) -> FakeTable:
    return FakeTable({"text": GREETINGS + FAREWELLS, "label": [1] * 6 + [0] * 6}, names)


def test_a_text_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = FakeTable({"text": ["bye"], "label": [-1]})
    calls = fake_hub(monkeypatch, {"train": text_table(["no", "yes"]), "test": hidden})
    data = load_data(DataSpec(source="hub:org/name", subset="en", revision="abc", validation=0.25))
    assert calls == [("org/name", "en", "abc")]
    assert data.class_names == ("no", "yes")
    assert data.name == "name"
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (8, 2, 2)
    assert "labels of its test split are hidden" in data.source
    assert "subset en, revision abc" in data.source


def test_an_image_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    random = np.random.RandomState(0)
    pictures = [image.fromarray(random.randint(0, 256, (4, 5)).astype(np.uint8)) for _ in range(20)]
    table = FakeTable({"image": pictures, "label": [0, 1] * 10})
    fake_hub(monkeypatch, {"train": table, "validation": table, "test": table})
    data = load_data(DataSpec(source="hub:org/name"))
    assert data.shape.size == (1, 4, 5)
    assert len(data.x_val) == 20
    deep = [image.fromarray(np.asarray(picture).astype(np.uint16) * 200) for picture in pictures]
    table = FakeTable({"image": deep, "label": [0, 1] * 10})
    fake_hub(monkeypatch, {"train": table, "validation": table, "test": table})
    same = load_data(DataSpec(source="hub:org/name"))
    assert same.scaling is not None
    assert same.scaling.divisor == 65_535
    assert torch.allclose(same.x_test, data.x_test, atol=1e-5)
    odd = FakeTable({"image": [*pictures, pictures[0].resize((3, 3))], "label": [0, 1] * 10 + [0]})
    fake_hub(monkeypatch, {"train": odd})
    with pytest.raises(InputError, match="images of 2 sizes"):
        load_data(DataSpec(source="hub:org/name"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ConnectionError("no route\nto host"), "Cannot load 'hub:org/name' with the datasets library: no route$"),
        (text_table(), "is not a set of splits but FakeTable"),
        ({"test": text_table()}, "has no training split; it has test"),
        ({"train": FakeTable({"text": ["a"], "lable": [0]})}, "has no column 'label'. Did you mean 'lable'"),
        ({"train": FakeTable({"sound": ["a"], "label": [0]})}, "has neither a column 'text' nor 'image'; it has sound"),
        ({"train": FakeTable({"text": [3], "label": [0]})}, "does not hold text only"),
        ({"train": FakeTable({"text": ["a"], "label": [0.5]})}, "row 1 is 0.5; labels are whole"),
        ({"train": FakeTable({"text": ["a"], "label": [[1, 2]]})}, r"row 1 is \[1, 2\]; labels are whole"),
        ({"train": FakeTable({"text": ["a"], "label": [date(2020, 1, 2)]})}, r"row 1 is datetime\.date\(2020, 1, 2\)"),
        ({"train": FakeTable({"image": [None], "label": [0]})}, "row 1 of column 'image' is None, not an image"),
        (
            {"train": FakeTable({"image": [{"bytes": b""}], "label": [0]})},
            "row 1 of column 'image' is {'bytes': b''}",
        ),
    ],
)
def test_unusable_hub_data_sets(monkeypatch: pytest.MonkeyPatch, answer: Any, message: str) -> None:
    fake_hub(monkeypatch, answer)
    with pytest.raises(InputError, match=message):
        load_data(DataSpec(source="hub:org/name"))


def test_an_existing_path_never_touches_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = fake_hub(monkeypatch, ConnectionError("must not be called"))
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "org" / "name" / "train.csv", ROWS)
    for source in ("org/name", "hub:org/name"):
        assert load_data(DataSpec(source=source)).shape.n_classes == 2
    assert calls == []


@pytest.mark.parametrize(
    ("module", "source", "hint"),
    [
        ("datasets", "hub:org/name", r"secateurs\[hf\]"),
        ("pyarrow", "a.parquet", r"secateurs\[text\]"),
        ("sklearn", "digits", r"secateurs\[explore\]"),
    ],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, source: str, hint: str
) -> None:
    for name in {module, *(name for name in sys.modules if name.startswith(f"{module}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    if source == "a.parquet":
        (tmp_path / source).write_bytes(b"")
        source = str(tmp_path / source)
    with pytest.raises(MissingExtraError, match=hint):
        load_data(DataSpec(source=source))
