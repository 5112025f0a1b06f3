"""Tables: texts and labels from CSV (standard library) or parquet (extra `text`), one file or one per split."""

import csv
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from secateurs.checks import extra, nearest, shown
from secateurs.data.parts import Array, Part, Parts
from secateurs.errors import InputError

SUFFIXES = (".parquet", ".csv")
SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
MAX_ROWS = 20_000_000


def split_files(root: Path) -> dict[str, Path]:
    """The table of every split in a directory, by file name (train.csv, test.parquet, ...)."""
    found = {}
    for split, names in SPLITS.items():
        path = next((root / f"{n}{s}" for n in names for s in SUFFIXES if (root / f"{n}{s}").is_file()), None)
        if path is not None:
            found[split] = path
    return found


def read_tables(path: Path, text: str, label: str) -> Parts:
    """The splits of a file (all of it training; test is then carved) or of a directory."""
    files = split_files(path) if path.is_dir() else {"train": path}
    parts = {split: read_table(file, text, label) for split, file in files.items()}
    if len({part.y.dtype.kind for part in parts.values()}) > 1:  # numbers here, words there: words everywhere
        parts = {split: Part(part.x, part.y.astype(str)) for split, part in parts.items()}
    about = f"{'table' if path.is_file() else 'tables of'} {path.name}"
    return Parts(path.stem, f"'{path}'", about, parts["train"], parts.get("validation"), parts.get("test"))


def read_table(path: Path, text: str, label: str) -> Part:
    """The two columns of one file."""
    texts, labels = (_read_parquet if path.suffix == ".parquet" else _read_csv)(path, text, label)
    for i, value in enumerate(texts):
        if not isinstance(value, str):
            raise InputError(f"'{path}': row {i + 1} of column {text!r} is {value!r}, not text. Fill or drop the row.")
    return Part(texts, as_labels(labels, f"'{path}': column {label!r}"))


def as_labels(labels: Sequence[Any], what: str) -> Array:
    """int64 where all labels are whole numbers (also as text), else text; InputError where one is missing."""
    for i, value in enumerate(labels):
        if isinstance(value, bool) or not isinstance(value, str | Integral) or value == "":
            found = shown(value)
            raise InputError(f"{what}: row {i + 1} is {found}; labels are whole numbers or text. Repair the row.")
    try:
        numbers = [int(value) for value in labels]
        if all(str(n) == str(value) for n, value in zip(numbers, labels, strict=True)):  # "007" stays a name
            return np.array(numbers, dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    return np.array([str(value) for value in labels])


def _need_columns(path: Path, found: Sequence[str], text: str, label: str) -> None:
    for column, option in ((text, "text_column"), (label, "label_column")):
        if column not in found:
            raise InputError(
                f"'{path}' has no column {column!r}. {nearest(column, found)} Name the right one with {option}=..."
            )


def _read_csv(path: Path, text: str, label: str) -> tuple[list[Any], list[Any]]:
    texts, labels = [], []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            _need_columns(path, rows.fieldnames or [], text, label)
            for row in rows:
                if None in row or None in row.values():
                    n = len(rows.fieldnames or [])
                    raise InputError(
                        f"'{path}', line {rows.line_num}: the row does not have the {n} fields of the header. "
                        "Quote texts that contain commas or line breaks."
                    )
                texts.append(row[text])
                labels.append(row[label].strip())
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not UTF-8 text: {error}. Save it as UTF-8.") from error
    except (csv.Error, OSError) as error:
        raise InputError(f"Cannot read '{path}' as CSV: {error}.") from error
    return texts, labels


def _read_parquet(path: Path, text: str, label: str) -> tuple[list[Any], list[Any]]:
    pyarrow = extra("pyarrow", "text")
    parquet = extra("pyarrow.parquet", "text")
    try:
        with parquet.ParquetFile(path) as file:
            _need_columns(path, file.schema_arrow.names, text, label)
            if file.metadata.num_rows > MAX_ROWS:
                raise InputError(f"'{path}' declares {file.metadata.num_rows:,} rows; at most {MAX_ROWS:,} are read.")
            table = file.read(columns=[text, label])
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"Cannot read '{path}' as parquet: {error}.") from error
    return table.column(text).to_pylist(), table.column(label).to_pylist()
