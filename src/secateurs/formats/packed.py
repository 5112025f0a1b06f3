"""Packed: one weight without its zeros, whatever the format; and what the formats share.

A format is a module with `pack` and `unpack`, made of three functions of its own:

    places_of(keep, grid, ...) -> places         where the kept weights are, as small arrays by name
    gather(places, grid, stored) -> kept         those weights, in the format's order
    scatter(places, grid, kept) -> stored        and back, zero elsewhere
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from secateurs.exact.kinds import KINDS, Kind, Stored
from secateurs.exact.parts import split
from secateurs.exact.threads import spread
from secateurs.formats import ints
from secateurs.formats.bits import Bits, bits_of, grid_of, keep_of, tensor_of
from secateurs.formats.kernels import narrow, only, widen
from secateurs.formats.values import Values, assert_finite, code, codebook_of

if TYPE_CHECKING:
    from torch import Tensor

    from secateurs.formats.bits import Weight

Grid = tuple[int, int]
Keep = np.ndarray[Any, np.dtype[np.bool_]]
Places = Mapping[str, Stored]
Gather = Callable[[Places, Grid, Stored], Stored]
Scatter = Callable[[Places, Grid, Stored], Stored]


@dataclass(frozen=True, eq=False)
class Packed:
    """A packed weight.

    format    the name of the module that made it, in FORMATS
    dtype     as safetensors writes it
    places    where the kept weights are; what each array means is said in the format's module
    n_kept    how many weights are stored, zeros inside kept blocks included
    kept      (n_kept,) their bits, or for other values than exact their codes, packed to their n_bits
    scales    (rows * scales per row,) bfloat16 bits of int values, else empty
    codebook  (2**n_bits,) bits of the dtype of codebook values, else empty
    """

    format: str
    dtype: str
    shape: tuple[int, ...]
    values: Values
    places: Places
    n_kept: int
    kept: Stored
    scales: Stored
    codebook: Stored

    @property
    def nbytes(self) -> int:
        """Bytes of all of its arrays."""
        return sum(each.nbytes for each in (self.kept, self.scales, self.codebook, *self.places.values()))


def nbytes(packed: Packed) -> int:
    """Bytes that a packed weight takes: positions, values, scales and codebook."""
    return packed.nbytes


def linear(packed: Packed, x: "Tensor", bias: "Tensor | None" = None) -> "Tensor":
    """x W^T + bias without the zeros; PackedLinear prepares the weight once, this does so every time.

    x        (..., columns) on the CPU
    bias     (rows,)
    returns  (..., rows) in x's dtype, computed in float32

    InputError where the weight is not (out, in), or its values do not run (codebooks, float16).
    """
    from secateurs.running.products import product
    from secateurs.running.ready import ready

    return product(ready(packed), x, bias)


def packed_from(
    name: str, weight: "Weight", keep: "Weight | None", values: str | Values, places_of: Any, gather: Gather
) -> Packed:
    """The packed weight of a format; places_of: (keep, grid) -> places."""
    bits, how = bits_of(weight), Values.parse(values)
    alive, stored = keep_of(keep, bits), bits.stored
    places = places_of(alive, bits.grid)
    codebook = np.zeros(0, bits.kind.storage)
    if not how.is_exact:
        stored = stored if keep is None else _kept_only(alive, stored)
        assert_finite(bits.kind, stored, "The weight")
    if how.name == "codebook":
        # What is not kept and yet stored, inside a kept block, needs a number that is zero; so does a kept zero.
        has_zero = not gather(places, bits.grid, _is_there(bits.kind, stored)).all()
        codebook = codebook_of(how, bits.kind, stored, has_zero)
    codes, scales = code(how, bits.kind, stored, bits.grid[1], codebook)
    kept = gather(places, bits.grid, codes)
    if how.is_exact and kept.size != np.count_nonzero(alive):
        kept[gather(places, bits.grid, alive.view(np.uint8)) == 0] = 0
    stored_codes = kept if how.is_exact else _narrowed(kept, how.n_bits)
    return Packed(name, bits.kind.name, bits.shape, how, places, kept.size, stored_codes, scales, codebook)


def weight_from(packed: Packed, scatter: Scatter) -> "Tensor":
    """The dense weight, as a torch tensor."""
    return tensor_of(Bits(KINDS[packed.dtype], packed.shape, stored_from(packed, scatter)))


def stored_from(packed: Packed, scatter: Scatter) -> Stored:
    """The bits of the dense weight."""
    kind, how, grid = KINDS[packed.dtype], packed.values, grid_of(packed.shape)
    if how.is_exact:
        return scatter(packed.places, grid, packed.kept)
    kept = _widened(packed.kept, how, packed.n_kept)
    if how.name == "codebook":
        # Looked up before they are put back, because what is not kept has no code.
        return scatter(packed.places, grid, packed.codebook[kept])
    stored = np.empty(grid[0] * grid[1], kind.storage)
    codes = scatter(packed.places, grid, kept)
    ints.decode(kind, codes, grid[1], how.width(grid[1]), packed.scales, stored)
    return stored


def _kept_only(alive: Keep, stored: Stored) -> Stored:
    """The same with zeros where nothing is kept."""
    found = np.empty_like(stored)
    spread(lambda parts: only(*parts), zip(split(alive), split(stored), split(found), strict=True))
    return found


def _is_there(kind: Kind, stored: Stored) -> Stored:
    """1 where a weight is not zero."""
    return np.asarray(stored & kind.storage.type(kind.mask) != 0).view(np.uint8)


def _narrowed(codes: Stored, n_bits: int) -> Stored:
    if n_bits == 8:
        return codes
    found = np.empty(-(-codes.size * n_bits // 8), np.uint8)
    narrow(codes & np.uint8((1 << n_bits) - 1), n_bits, found)
    return found


def _widened(packed: Stored, values: Values, n: int) -> Stored:
    """Codes as bytes."""
    if values.n_bits == 8:
        return packed
    found = np.empty(n, np.uint8)
    widen(packed, values.n_bits, found)
    return (found ^ 8) - np.uint8(8) if values.name == "int" else found  # the sign of 4 bits, made one of 8
