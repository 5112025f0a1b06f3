"""Quantizing: weights of a live network become what `pack` would make of them, in place; zeros stay zeros.

lines = quantize(module, "int8")              # after pruning, and after what was trained since
pack(module, out, values="int8")              # loses nothing then
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateurs.checkpoint.live import ModuleCheckpoint, open_module
from secateurs.checkpoint.packing import values_of
from secateurs.checkpoint.tensors import Entry
from secateurs.errors import InputError
from secateurs.exact.kinds import KINDS
from secateurs.formats import ints
from secateurs.formats.bits import Bits, bits_of, grid_of, tensor_of
from secateurs.formats.pieces import SIZE
from secateurs.formats.values import Values, assert_finite, code, codebook_of


@dataclass(frozen=True)
class Quantized:
    """What became of one tensor.

    values         as `pack` says them: "int8", "int4/32", "codebook:4"
    n              weights
    n_zero_before  of them zero before, and all of them after
    n_zero         zero after: small weights become zero, too
    largest_error  how far a weight moved at most
    """

    name: str
    values: str
    n: int
    n_zero_before: int
    n_zero: int
    largest_error: float


def quantize(module: nn.Module, values: str | Mapping[str, str]) -> tuple[Quantized, ...]:
    """Round the weights in place to `values`, as `pack` takes them; returns a line for every tensor that has other
    than exact ones.

    What was zero is zero after. Weights of float32 and float64 are then packed with the same values without any loss;
    in float16 and bfloat16 a product of code and scale is rounded, and packing rounds it again.

    RecipeError for values that mean nothing, InputError for NaN and infinity, before anything is changed.
    """
    checkpoint = open_module(module)
    chosen = {name: each for name, each in values_of(checkpoint, values).items() if not each.is_exact}
    return take(checkpoint, chosen)


@torch.no_grad()
def take(checkpoint: ModuleCheckpoint, chosen: Mapping[str, Values]) -> tuple[Quantized, ...]:
    """Give each of these tensors its values; nothing is changed where one of them cannot have them."""
    entries = assert_finite_in(checkpoint, chosen)
    lines = []
    for entry in entries:
        weight, each = checkpoint.tensors[entry.name], chosen[entry.name]
        try:
            found = rounded(weight, each)
        except InputError as refused:
            raise InputError(f"'{entry.name}': {refused}") from None
        if not bool(found.isfinite().all()):
            raise InputError(
                f"'{entry.name}': The weights are too large for a scale in bfloat16: in {entry.dtype} they would "
                "become infinite. Only exact values can store them."
            )
        error = float((found.double() - weight.double()).abs().max())
        n_zero_before, n_zero = (weight.numel() - int(each.count_nonzero()) for each in (weight, found))
        weight.copy_(found)
        lines.append(Quantized(entry.name, str(each), entry.n, n_zero_before, n_zero, error))
    return tuple(lines)


def assert_finite_in(checkpoint: ModuleCheckpoint, names: Container[str]) -> list[Entry]:
    """The entries of these names; InputError where one holds NaN or infinity."""
    entries = [entry for entry in checkpoint.entries if entry.name in names]
    for entry in entries:
        assert_finite(KINDS[entry.dtype], checkpoint.stored(entry), f"'{entry.name}'")
    return entries


def rounded(weight: Tensor, values: Values) -> Tensor:
    """What `pack` stores of a finite weight that is not empty and gives back, on its device; zeros are +0.0."""
    if values.name == "codebook":
        bits = bits_of(weight)
        codebook = codebook_of(values, bits.kind, bits.stored)
        codes, _ = code(values, bits.kind, bits.stored, bits.grid[1], codebook)
        found = codebook[codes]
        found[bits.kind.values(bits.stored) == 0] = 0
        return tensor_of(Bits(bits.kind, bits.shape, found)).to(weight.device)
    n_columns = grid_of(tuple(weight.shape))[1]
    if n_columns > SIZE:  # which is packed in pieces
        pieces = torch.split(weight.reshape(-1), SIZE)
        return torch.cat([rounded(piece, values) for piece in pieces]).view(weight.shape)
    if weight.device.type != "cpu":
        return _rounded_there(weight, values, n_columns)
    bits = bits_of(weight)
    codes, scales = code(values, bits.kind, bits.stored, n_columns, bits.stored)
    found = np.empty_like(bits.stored)
    ints.decode(bits.kind, codes, n_columns, values.width(n_columns), scales, found)
    return tensor_of(Bits(bits.kind, bits.shape, found))


def _rounded_there(weight: Tensor, values: Values, n_columns: int) -> Tensor:
    """What formats/ints.py finds, to the same bits, by operations of any device."""
    width = values.width(n_columns)
    rows = weight.detach().reshape(-1, n_columns)
    rows = rows if weight.dtype == torch.float64 else rows.float()
    groups = functional.pad(rows, (0, -n_columns % width)).view(len(rows), -1, width)
    scales = _scales(groups.abs().amax(-1, keepdim=True).double(), 2 ** (values.n_bits - 1) - 1)
    codes = groups.double().div_(scales.where(scales > 0, 1.0)).round_()
    found = codes.to(rows.dtype) * scales.to(rows.dtype) + 0.0  # no -0.0
    return found.view(len(rows), -1)[:, :n_columns].reshape(weight.shape).to(weight.dtype)


def _scales(peaks: Tensor, largest: int) -> Tensor:
    """The scale for each largest weight, as a double."""
    wanted = peaks / largest
    single = wanted.float()
    single = torch.where(single.double() < wanted, single.nextafter(single.new_tensor(torch.inf)), single)
    bits = single.view(torch.int32) + 0xFFFF & -0x10000
    above = bits.view(torch.float32).double()
    below = (bits - 0x10000).clamp_(min=0).view(torch.float32).double()
    is_missed = ((peaks / above).round() < largest) & ((peaks / below).round() == largest)
    return torch.where(is_missed, below, above)
