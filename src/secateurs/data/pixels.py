"""Pixels: from Pillow's images to arrays, without losing what the files hold.

Pillow's own conversion of 16-bit and float images to 8 bits clips them at 255 instead of scaling them.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from secateurs.data.parts import Array, Inputs
from secateurs.errors import InputError

Form = Literal["L", "RGB", "I;16"]  # 8-bit grey, 8-bit colour, 16-bit grey
DEEP_MAX = 65_535
_GREY = {"1", "L", "LA"}
_DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N"}


def common_form(modes: Iterable[str], where: str) -> Form:
    """The form that holds images of all these Pillow modes; InputError where there is none without loss."""
    found = set(modes)
    if "F" in found:
        raise InputError(
            f"{where}: images of floating-point pixels (mode F) do not say which range they span. "
            "Save them with 8 or 16 bits, or all of them as floats from 0 to 1 in one .npz file."
        )
    if found & _DEEP and not found <= _DEEP:
        raise InputError(
            f"{where}: some images have 16 bits per pixel and others 8 (modes {', '.join(sorted(found))}), which are "
            "different scales. Save all of them with the same number of bits."
        )
    return "I;16" if found & _DEEP else "L" if found <= _GREY else "RGB"


def read_pixels(image: Any, form: Form, what: str) -> Array:
    """(height, width), or (height, width, 3) of "RGB"; uint8, or uint16 of "I;16".

    InputError where a pixel does not fit into 16 bits; Pillow's OSError, SyntaxError or ValueError for a broken file.
    """
    if form != "I;16":
        return np.asarray(image.convert(form), dtype=np.uint8)
    pixels: Array = np.asarray(image)
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > DEEP_MAX:
        raise InputError(
            f"{what} has pixels from {low:,} to {high:,}; 16-bit images span 0 to {DEEP_MAX:,}. "
            "Save the images with 8 or 16 bits."
        )
    return pixels.astype(np.uint16)


def divisor(images: Inputs) -> float | None:
    """What brings 16-bit pixels to [0, 1]; None for 8 bits and for texts, which need no saying."""
    return float(DEEP_MAX) if isinstance(images, np.ndarray) and images.dtype == np.uint16 else None


def pixel_bytes(form: Form) -> int:
    """Bytes that one pixel takes."""
    return {"L": 1, "RGB": 3, "I;16": 2}[form]
