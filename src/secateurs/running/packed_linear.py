"""PackedLinear: an nn.Linear for inference whose weight is stored, and run, without its zeros."""

import re
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.errors import InputError
from secateurs.formats.packed import Packed
from secateurs.formats.table import FORMATS
from secateurs.layout import layout_of
from secateurs.running.products import product
from secateurs.running.ready import EXACT, RUNNING, Bits, Left, Listed, Panels, Ready, Slabs, Tiled, fitted, ready

VALUES = ("fp32", "bf16", "int8", "int4", "w8a8", "w4a8")

_KINDS = {each.__name__: each for each in (Bits, Panels, Listed, Tiled, Slabs, Left)}


class PackedLinear(nn.Module):
    """y = x W^T + bias, the weight packed.

    Its arrays are buffers; `state_dict` has them as a CPU of any kind runs them, and `load_state_dict` of an equally
    packed layer takes them. It computes in float32 on the CPU, on as many threads as torch may use, and gives back x's
    dtype; no gradient reaches x. torch.compile takes it as one operation.
    """

    def __init__(self, weight: Ready, bias: Tensor | None, name: str) -> None:
        super().__init__()
        self.in_features, self.out_features = weight.columns, weight.rows
        self.name = name  # "bitmask int8": what it was packed as
        self._kind = type(weight)
        self._sizes = {key: value for key, value in vars(weight).items() if isinstance(value, int)}
        self._arrays = [key for key in vars(weight) if key not in self._sizes]
        self._saved = [key for key in self._arrays if key not in weight.MADE]
        for key in self._arrays:
            self.register_buffer(key, torch.from_numpy(getattr(weight, key)), persistent=key in self._saved)
        self.bias: Tensor | None
        self.register_buffer("bias", None if bias is None else bias.detach().float().cpu().clone())
        self._ready: Ready | None = None

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, format: str = "bitmask", values: str = "fp32", **options: Any
    ) -> "PackedLinear":
        """The layer with the zeros that are there packed away; transformers' Conv1D (GPT-2) is one, too.

        format   "bitmask", "index", "nm" (n=2, m=4), "blocks" (h=4, w=4), their sizes by name, or "rows"
        values   "fp32" (lossless), "bf16" (rounded), "int8" or "int4" (one scale per row; "int4/64": per 64 columns);
                 "w8a8" and "w4a8" are these with inputs that may be rounded to 8 bits, too, by the largest of a token

        InputError where the weight does not fit, PatternError where it does not keep what the format asks for.
        """
        weight = layout_of(linear, "weight").turn(linear.weight.detach())
        return cls.from_weight(weight, linear.bias, format, values, **options)

    @classmethod
    def from_weight(
        cls, weight: Tensor, bias: Tensor | None, format: str = "bitmask", values: str = "fp32", **options: Any
    ) -> "PackedLinear":
        """The same of a weight (out, in)."""
        if format not in RUNNING:
            raise InputError(f"Formats that run are {', '.join(RUNNING)}; got {format!r}.")
        sizes = {"nm": ("n", "m"), "blocks": ("h", "w")}.get(format, ())
        if odd := sorted(set(options) - set(sizes)):
            takes = f"takes {' and '.join(sizes)}" if sizes else "takes no sizes"
            raise InputError(f"The format '{format}' {takes}; got {', '.join(odd)}.")
        how = values
        if values in ("fp32", "bf16"):
            weight, how = weight.to(torch.float32 if values == "fp32" else torch.bfloat16), "exact"
        elif found := re.fullmatch("w([48])a8(/.*)?", values):
            how = f"int{found[1]}{found[2] or ''}"
        elif not values.startswith("int"):
            raise InputError(f"Values that run are {', '.join(VALUES)}, and int4/64 for groups; got {values!r}.")
        # A product does not feel the sign of a zero, which masks leave behind.
        packed = FORMATS[format].pack(weight, weight != 0, how, **options)
        return cls.from_packed(packed, bias, values)

    @classmethod
    def from_packed(cls, packed: Packed, bias: Tensor | None = None, values: str = "") -> "PackedLinear":
        """A layer of a weight (out, in) that is packed already; "w8a8" and the like let it round its inputs."""
        n_planes = 1 if values.startswith("w") else EXACT
        return cls(ready(packed, n_planes), bias, f"{packed.format} {values or packed.values}")

    @property
    def nbytes(self) -> int:
        """Bytes of all of its arrays."""
        return sum(each.nbytes for each in self.buffers())

    def ready(self) -> Ready:
        """What the loops read: the buffers as numpy has them."""
        if self._ready is None:
            values: dict[str, Any] = {key: getattr(self, key).numpy() for key in self._arrays}
            self._ready = self._kind(**values, **dict[str, Any](self._sizes))
        return self._ready

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        if torch.compiler.is_compiling():
            arrays, sizes = [getattr(self, key) for key in self._arrays], list(self._sizes.values())
            found: Tensor = packed_product(x, arrays, self.bias, self._kind.__name__, sizes)
            return found
        return product(self.ready(), x, self.bias)

    def _apply(self, function: Any, recurse: bool = True) -> "PackedLinear":
        """Kept as it is: halving or moving a model must not touch bits that mean something else."""
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        portable = self.ready().portable()
        destination |= {prefix + key: torch.from_numpy(getattr(portable, key)) for key in self._saved}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any, **options: Any) -> None:
        given = {key: state_dict[prefix + key].numpy() for key in self._saved if prefix + key in state_dict}
        if len(given) == len(self._saved):
            if (portable := self.ready().alike(given)) is None:
                size = f"{self.out_features} x {self.in_features}"
                where = prefix.rstrip(".") or "the layer"
                arguments[-1].append(f"{where}: these arrays are not a weight of {size} packed as {self.name}.")
            else:
                found = fitted(portable, self._sizes.get("n_planes", EXACT))
                for key in self._arrays:
                    self.register_buffer(key, torch.from_numpy(getattr(found, key)), persistent=key in given)
            state_dict = {**state_dict, **{prefix + key: getattr(self, key) for key in given}}
        self._ready = None
        super()._load_from_state_dict(state_dict, prefix, *arguments, **options)

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own views."""
        return {**self.__dict__, "_ready": None}

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.name}, {self.nbytes:,} bytes"


@torch.library.custom_op("secateurs::packed_product", mutates_args=())
def packed_product(x: Tensor, arrays: list[Tensor], bias: Tensor | None, kind: str, sizes: list[int]) -> Tensor:
    """The product as an operation that torch.compile leaves alone."""
    numbers, stored = iter(sizes), (each.numpy() for each in arrays)
    values: dict[str, Any] = {each.name: next(numbers if each.type is int else stored) for each in fields(_KINDS[kind])}
    return product(_KINDS[kind](**values), x, bias)


@packed_product.register_fake
def _(x: Tensor, arrays: list[Tensor], bias: Tensor | None, kind: str, sizes: list[int]) -> Tensor:
    return x.new_empty(*x.shape[:-1], sizes[0])
