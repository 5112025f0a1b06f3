"""Layout: every weight seen as (out, in, *kernel), whichever way its layer stores it.

Linear and convolution weights are stored so. GPT-2's Conv1D stores (in, out); a transposed convolution stores
(in, out / groups, *kernel). To add a layer that stores otherwise: give it a line in `layout_of`.
"""

from dataclasses import dataclass

from torch import Tensor, nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Layout:
    """How a stored weight turns into (out, in, *kernel) and back.

    is_turned  the first two dimensions are stored as (in, out / groups)
    """

    is_turned: bool = False
    groups: int = 1

    def seen(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what `turn` gives for a stored weight of this shape."""
        if not self.is_turned or len(shape) < 2:
            return shape
        i, o, *kernel = shape
        return (self.groups * o, i // self.groups, *kernel)

    def turn(self, stored: Tensor) -> Tensor:
        """The stored weight as (out, in / groups, *kernel)."""
        if not self.is_turned:
            return stored
        i, o, *kernel = stored.shape
        grouped = stored.reshape(self.groups, i // self.groups, o, *kernel).transpose(1, 2)
        return grouped.reshape(self.groups * o, i // self.groups, *kernel)

    def back(self, turned: Tensor) -> Tensor:
        """(out, in / groups, *kernel) as the layer stores it: undoes `turn`."""
        if not self.is_turned:
            return turned
        o, i, *kernel = turned.shape
        grouped = turned.reshape(self.groups, o // self.groups, i, *kernel).transpose(1, 2)
        return grouped.reshape(self.groups * i, o // self.groups, *kernel)


PLAIN = Layout()


def layout_of(module: nn.Module, parameter_name: str) -> Layout:
    """The layout of one parameter of a layer."""
    if isinstance(module, _TRANSPOSED) and parameter_name == "weight":
        return Layout(is_turned=True, groups=module.groups)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf") and parameter_name == "weight":
        return Layout(is_turned=True)  # transformers.pytorch_utils.Conv1D
    return PLAIN
