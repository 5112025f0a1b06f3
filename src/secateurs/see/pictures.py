"""Pictures: weights as pixels, charts as files.

A position picture has one pixel per weight, rows = outputs, columns = inputs. Its colours run from dark
navy (most negative) over grey to amber (most positive), rising in lightness all the way, so that it reads
the same in grey and to the colour-blind; exact zeros alone are white.
"""

import base64
import io
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateurs.checks import extra
from secateurs.durable import write_bytes
from secateurs.see.stats import _finite

ZERO = (255, 255, 255)
RAMP = ((13, 27, 62), (42, 72, 120), (117, 130, 150), (196, 152, 92), (247, 178, 62))  # lightness 11 to 77
LARGEST = 800  # more rows or columns than this are sampled; 784 inputs of MNIST are not
MOST_PIXELS = 262_144  # so that the pictures of six stages fit into a page
LEVELS = 63  # colours of the ramp in a picture: more cannot be told apart and take more bytes


def ramp(n: int) -> NDArray[np.uint8]:
    """(n, 3) colours from the most negative to the most positive weight."""
    at = np.linspace(0, len(RAMP) - 1, n)
    channels = [np.interp(at, range(len(RAMP)), [color[c] for color in RAMP]) for c in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def color_limit(weight: ArrayLike) -> float:
    """The |w| at which the colours saturate: 3 times the root mean square of the surviving weights."""
    values = _finite(weight)
    values = values[values != 0]
    return 3 * float(np.sqrt(np.mean(values**2))) if values.size else 1.0


def as_rows(weight: ArrayLike) -> NDArray[np.float64]:
    """The weight as (rows, columns): a convolution's input channels and kernel side by side."""
    values = _finite(weight)
    return values.reshape(values.shape[0], math.prod(values.shape[1:])) if values.ndim > 1 else values.reshape(1, -1)


def _pixels(weight: ArrayLike, limit: float | None) -> tuple[NDArray[np.uint8], tuple[int, int], float]:
    """Palette indices (0 = exact zero, 1 to 63 = the ramp), the sampling strides, the colour limit."""
    rows = as_rows(weight)
    size = max(1, rows.shape[0]), max(1, rows.shape[1])
    down, across = -(-size[0] // LARGEST), -(-size[1] // LARGEST)
    while (size[0] // down) * (size[1] // across) > MOST_PIXELS:
        down, across = (down + 1, across) if size[0] / down >= size[1] / across else (down, across + 1)
    shown = rows[::down, ::across]
    limit = color_limit(weight) if limit is None else limit
    middle = (LEVELS + 1) // 2
    index = np.rint(middle + (LEVELS // 2) * np.clip(shown / limit, -1, 1)).astype(np.uint8)
    return np.where(shown == 0, np.uint8(0), index), (down, across), limit


def _encode(index: NDArray[np.uint8]) -> str:
    image_module = extra("PIL.Image", "explore")
    image = image_module.fromarray(index)  # "L": one byte per pixel
    image.putpalette(bytes(ZERO) + ramp(LEVELS).tobytes())  # turns it into "P"
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode("ascii")


def position_png(weight: ArrayLike, limit: float | None = None) -> str:
    """The weight by position as a base64 PNG, one pixel per weight; of a large one, every k-th row and column.

    limit   the |w| at which colours saturate; give the same one to pictures that are compared
    """
    return _encode(_pixels(weight, limit)[0])


def position(weight: ArrayLike, limit: float | None = None) -> dict[str, Any]:
    """`position_png` with what its caption needs: rows, columns, png, every (row and column stride), limit."""
    index, strides, limit = _pixels(weight, limit)
    rows, columns = as_rows(weight).shape
    return {"rows": rows, "columns": columns, "png": _encode(index), "every": list(strides), "limit": limit}


def sampling_note(every: list[int] | tuple[int, int]) -> str:
    """What one pixel is, in words."""
    if tuple(every) == (1, 1):
        return "one pixel per weight"
    parts = [f"every {_ordinal(k)} {what}" for k, what in zip(every, ("row", "column"), strict=True) if k > 1]
    return f"{' and '.join(parts)} shown, one pixel per weight"


def _ordinal(k: int) -> str:
    return f"{k}{ {2: 'nd', 3: 'rd'}.get(k, 'th') }"


def enlarged(png: str, width: int, height: int) -> str:
    """A data URL of a position picture at the size it is drawn, at twice the pixels, so that edges stay crisp.

    A side that has more pixels than that already keeps them.
    """
    image_module = extra("PIL.Image", "explore")
    with image_module.open(io.BytesIO(base64.b64decode(png))) as image:
        size = max(2 * width, image.width), max(2 * height, image.height)
        out = io.BytesIO()
        image.resize(size, resample=image_module.Resampling.NEAREST).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def svg_of(chart: Any) -> str:
    """A chart as SVG. MissingExtraError without vl-convert."""
    svg: str = extra("vl_convert", "explore").vegalite_to_svg(chart.to_dict(), allowed_base_urls=[])
    # Clips are counted on from picture to picture: numbered anew, the same chart is the same text.
    numbers: dict[str, int] = {}
    return re.sub(r'(?<=id="clip)\d+(?=")|(?<=url\(#clip)\d+(?=\))', lambda n: _nth(n[0], numbers), svg)


def _nth(name: str, known: dict[str, int]) -> str:
    return str(known.setdefault(name, len(known)))


def png_of(svg: str) -> bytes:
    """An SVG as PNG, at twice the pixels."""
    png: bytes = extra("vl_convert", "explore").svg_to_png(svg, scale=2)
    return png


def save_picture(chart: Any, path: str | os.PathLike[str]) -> list[Path]:
    """Writes `path`.png (twice the pixels) and `path`.svg; each file appears whole or not at all.

    A path whose name holds a dot ("at-prune-0.4-ffnn") keeps all of it.
    Raises MissingExtraError without vl-convert, OutputError where the files cannot be written.
    """
    svg = svg_of(chart)
    files = {".png": png_of(svg), ".svg": svg.encode()}
    written = []
    for suffix, content in files.items():
        target = Path(path).with_name(Path(path).name + suffix)
        write_bytes(target, content)
        written.append(target)
    return written
