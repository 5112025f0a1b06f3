"""Sharing: the weights that were kept take a few numbers per layer, and go on learning as those numbers.

sharing = Sharing(module, n_bits=4)    # every layer's kept weights are now 16 numbers at most
...                                    # any training loop, any optimizer
sharing.end()                          # exactly so; `pack(module, out, values="codebook:4")` loses nothing

Han, Mao & Dally 2016, arXiv:1510.00149, section 3.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from secateurs.checks import shown
from secateurs.errors import InputError, RecipeError
from secateurs.formats.codebook import codes_of, fit
from secateurs.layers import layers, named_parameters


@dataclass(frozen=True, eq=False)
class Shared:
    """One layer: which of the shared numbers every kept weight is.

    places  (n_kept,) positions in the flat weight
    codes   (n_kept,) in [0, n): equal codes are equal weights
    firsts  (n,) positions in the flat weight of one weight of each code, whose value speaks for all
    hook    takes the gradient apart
    """

    parameter: nn.Parameter
    places: Tensor
    codes: Tensor
    firsts: Tensor
    hook: RemovableHandle

    @property
    def numbers(self) -> Tensor:
        """(n,) the shared numbers as they are now, ascending where training has not swapped them."""
        return self.parameter.detach().reshape(-1)[self.firsts]


class Sharing:
    """Shares the weights of `module` that are not zero: 2**n_bits numbers per layer, by k-means.

    n_bits      2 to 8, for every layer that could be pruned, frozen ones aside; or {layer name: 2 to 8}, and other
                layers are left alone
    skip, only  patterns of names, as a recipe has them

    The gradient of a shared number is the sum of those of its weights: a hook gives each weight that sum, so that
    equal weights stay equal under every optimizer that treats elements alike; what was zero gets none and stays zero.
    Take a fresh optimizer: what it remembers of single weights would part them. Vectorised optimizers may round equal
    weights differently by a bit; `step`, after `optimizer.step()`, makes them equal again, `end` once and for all.
    """

    def __init__(
        self,
        module: nn.Module,
        n_bits: int | Mapping[str, int],
        *,
        skip: Iterable[str] = (),
        only: Iterable[str] = (),
    ) -> None:
        found = {layer.name: layer.parameter for layer in layers(module, skip, only) if layer.is_prunable}
        free = [name for name, parameter in found.items() if parameter.requires_grad]
        bits = dict(n_bits) if isinstance(n_bits, Mapping) else dict.fromkeys(free, n_bits)
        for name, each in bits.items():
            if name not in found:
                raise RecipeError(f"No layer that could be shared is named {name!r}. There are: {', '.join(found)}.")
            if name not in free:
                raise RecipeError(f"'{name}' is frozen, so its numbers would not learn. Train it, or leave it out.")
            if isinstance(each, bool) or not isinstance(each, int) or not 2 <= each <= 8:
                raise RecipeError(f"The bits of shared numbers go from 2 to 8; got {shown(each)} for '{name}'.")
            if not bool(found[name].isfinite().all()):
                raise InputError(f"'{name}' holds NaN or infinity, which cannot be shared. Train it again.")
        self.shared = {name: _share(found[name], 2**each) for name, each in bits.items()}

    @classmethod
    def resumed(cls, module: nn.Module, state: Mapping[str, Mapping[str, Tensor]]) -> "Sharing":
        """Go on where `state_dict` was taken, with a module whose weights are those of then."""
        found, by_name = cls.__new__(cls), named_parameters(module)
        found.shared = {name: _shared(by_name[name], **tensors) for name, tensors in state.items()}
        return found

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """What resuming needs besides the weights: {layer name: the tensors of Shared}."""
        return {
            name: {"places": each.places, "codes": each.codes, "firsts": each.firsts}
            for name, each in self.shared.items()
        }

    @torch.no_grad()
    def step(self) -> None:
        """Follow `optimizer.step()`: equal weights are equal to the last bit, and what was pruned is exactly zero."""
        for each in self.shared.values():
            flat = torch.zeros_like(each.parameter).reshape(-1)
            flat[each.places] = each.numbers[each.codes]
            each.parameter.copy_(flat.view(each.parameter.shape))

    def end(self) -> None:
        """The last `step`; from here on the weights learn one by one again."""
        self.step()
        for each in self.shared.values():
            each.hook.remove()


@torch.no_grad()
def _share(parameter: nn.Parameter, n: int) -> Shared:
    flat = parameter.detach().reshape(-1)
    places = flat.nonzero()[:, 0]
    kept = flat[places].double().cpu().numpy()
    numbers = fit(kept, n)
    # Numbers that no weight is near are left out.
    used, found = np.unique(codes_of(kept, numbers), return_inverse=True)
    codes = torch.from_numpy(found).to(flat.device)
    values = torch.from_numpy(numbers[used]).to(flat.device, flat.dtype)
    firsts = places.new_full((len(used),), flat.numel()).scatter_reduce(0, codes, places, "amin")
    shared = torch.zeros_like(flat)
    shared[places] = values[codes]
    parameter.copy_(shared.view(parameter.shape))
    return _shared(parameter, places, codes, firsts)


def _shared(parameter: nn.Parameter, places: Tensor, codes: Tensor, firsts: Tensor) -> Shared:
    places, codes, firsts = (each.to(parameter.device) for each in (places, codes, firsts))

    def together(gradient: Tensor) -> Tensor:
        apart = gradient.reshape(-1)
        summed = apart.new_zeros(len(firsts)).index_add_(0, codes, apart[places])
        return torch.zeros_like(apart).index_copy_(0, places, summed[codes]).view(gradient.shape)

    return Shared(parameter, places, codes, firsts, parameter.register_hook(together))  # type: ignore[no-untyped-call]
