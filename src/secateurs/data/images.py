"""Images: from arrays as people store them to standardised float32 (n, channels, height, width)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateurs.data.parts import Array, Part, Parts
from secateurs.errors import InputError, ScalingError

_CHUNK = 4096  # images per step, so that no float64 copy of a whole data set is made


@dataclass(frozen=True)
class Scaling:
    """x = (pixel / divisor - mean[channel]) / std[channel]; what a saved network needs to read new images."""

    divisor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def check_images(parts: Parts) -> None:
    """InputError unless all splits hold images of one size and layout, finite, of a number type."""
    for split, part in parts.each():
        x = part.x
        assert isinstance(x, np.ndarray)
        what = f"{parts.where}: the {split} images"
        if x.dtype.kind not in "uif":
            raise InputError(f"{what} are of type {x.dtype}; pixels must be uint8 or floating-point numbers.")
        train = parts.train.x
        assert isinstance(train, np.ndarray)
        if x.shape[1:] != train.shape[1:] or x.dtype != train.dtype:
            raise InputError(
                f"{what} are {x.dtype} of shape {x.shape[1:]}, the training images {train.dtype} of shape "
                f"{train.shape[1:]}. All splits must agree."
            )
        if x.dtype.kind == "f":
            n_bad = sum(int((~np.isfinite(x[i : i + _CHUNK])).sum()) for i in range(0, len(x), _CHUNK))
            if n_bad:
                raise InputError(f"{what} contain {n_bad:,} NaN or infinite pixels. Clean the file first.")


def channels_first(x: Array, where: str) -> Array:
    """A view (n, channels, height, width) of (n, h, w), (n, h, w, 1|3) or (n, 1|3, h, w)."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4:
        is_first, is_last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
        if is_first == is_last:
            raise InputError(
                f"{where}: images of shape {x.shape[1:]} have their 1 or 3 channels neither clearly first nor clearly "
                "last. Store them as (n, height, width), (n, height, width, 3) or (n, 3, height, width)."
            )
        x = np.moveaxis(x, 3, 1) if is_last else x
    else:
        raise InputError(
            f"{where}: x has shape {x.shape}; images are (n, height, width), (n, height, width, channels) or "
            "(n, channels, height, width). Reshape flat pixels first."
        )
    if 0 in x.shape:
        raise InputError(f"{where}: images of shape {x.shape[1:]} have no pixels.")
    return x


def measure(x: Array, divisor: float, where: str) -> Scaling:
    """Mean and standard deviation per channel of (n, c, h, w), in two passes of float64 over all pixels."""
    n = x.shape[0] * x.shape[2] * x.shape[3]
    chunks = range(0, len(x), _CHUNK)
    mean = sum(x[i : i + _CHUNK].sum((0, 2, 3), dtype=np.float64) for i in chunks) / n
    centred = ((x[i : i + _CHUNK].astype(np.float64) - mean[:, None, None]) ** 2 for i in chunks)
    std = np.sqrt(sum(c.sum((0, 2, 3)) for c in centred) / n)
    if not (std > 0).all():
        raise InputError(
            f"{where}: all training pixels of channel {int(std.argmin())} are equal ({mean[int(std.argmin())]:g}); "
            "there is nothing to learn from them."
        )
    # Nine digits are more than float32 holds, and hide how a machine orders its sums.
    return Scaling(divisor, *(tuple(float(f"{v / divisor:.9g}") for v in values) for values in (mean, std)))


def standardise(x: Array, scaling: Scaling) -> Tensor:
    """float32 (n, c, h, w): (x / divisor - mean) / std."""
    out = np.empty(x.shape, dtype=np.float32)
    mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (scaling.mean, scaling.std))
    for i in range(0, len(x), _CHUNK):
        out[i : i + _CHUNK] = (x[i : i + _CHUNK].astype(np.float32) / np.float32(scaling.divisor) - mean) / std
    return torch.from_numpy(out)


def encode_images(
    splits: list[Part], mean: tuple[float, ...] | None, std: tuple[float, ...] | None, where: str, divisor: float | None
) -> tuple[list[Tensor], Scaling]:
    """Every split standardised by the first (training) split, or by the mean and std that were asked for."""
    arrays = [channels_first(np.asarray(part.x), where) for part in splits]
    train = arrays[0]
    if divisor is None:
        divisor = 255.0 if train.dtype == np.uint8 else 1.0
    measured = measure(train, divisor, where)
    if mean is None or std is None:
        return [standardise(x, measured) for x in arrays], measured
    if len(mean) != train.shape[1]:
        raise ScalingError(
            f"{where}: {len(mean)} value(s) of mean and std, but the images have {train.shape[1]} channels."
        )
    for m, s, asked_m, asked_s in zip(measured.mean, measured.std, mean, std, strict=True):
        if abs(m - asked_m) > 10 * asked_s or not 0.01 < s / asked_s < 100:
            raise ScalingError(
                f"{where}: mean {asked_m:g} and std {asked_s:g} do not belong to these pixels, whose mean is {m:.4g} "
                f"and std {s:.4g} (after division by {divisor:g}). Give both in the units of the scaled pixels."
            )
    asked = Scaling(divisor, tuple(mean), tuple(std))
    return [standardise(x, asked) for x in arrays], asked
