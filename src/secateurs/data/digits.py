"""Digits: the small real data set that comes with scikit-learn, so that everything works without a download."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from secateurs.checks import extra
from secateurs.data.parts import Array, Part, Parts
from secateurs.data.splits import TEST_SEED, stratified

N_TEST = 360
PIXEL_MAX = 16.0


def read_digits() -> Parts:
    """1,797 handwritten digits, 8x8 pixels of 0 to 16; the same stratified 360 are the test split for ever."""
    table = digits_table()
    whole = Part(table[:, :64].reshape(-1, 8, 8).astype(np.uint8), table[:, 64].astype(np.int64))
    test = stratified(whole.y, N_TEST, TEST_SEED, keep_both=True)
    rest = np.setdiff1d(np.arange(len(whole)), test)
    about = (
        "scikit-learn's bundled digits: 1,797 real 8x8 images from the test part of UCI's Optical Recognition of "
        f"Handwritten Digits (Alpaydin & Kaynak 1998, CC BY 4.0); a fixed stratified {N_TEST} are the test split"
    )
    return Parts("digits", "digits", about, whole.take(rest), test=whole.take(test), divisor=PIXEL_MAX)


def digits_table() -> Array:
    """(1797, 65): 64 pixels and the label, as `sklearn.datasets.load_digits` reads them.

    Read from scikit-learn's own file where it is found: importing sklearn.datasets takes seconds per process.
    """
    package = importlib.util.find_spec("sklearn")
    folders = (package.submodule_search_locations if package else None) or []
    for folder in folders:
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt", encoding="ascii") as text:
                table: Array = np.loadtxt(text, delimiter=",")
                return table
    bunch = extra("sklearn.datasets", "explore").load_digits()
    return np.column_stack([bunch.data, bunch.target])
