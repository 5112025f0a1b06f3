"""Norms: which BatchNorm reads what a layer gives, so that its mean can take a constant of the layer's output."""

from collections import Counter
from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms_behind(module: nn.Module, owners: Iterable[str], run: Callable[[], object]) -> dict[str, _BatchNorm]:
    """{name of a layer: the BatchNorm that reads its outputs as they are}, for those of `owners` that have one.

    run  runs the network once

    A BatchNorm that reads anything else as well, or has no running mean, is none.
    """
    given: dict[int, tuple[str, Tensor]] = {}  # the outputs are held, so that no other gets their id
    readers: dict[str, list[_BatchNorm]] = {}
    n_calls: Counter[_BatchNorm] = Counter()

    def give(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            given[id(output)] = name, output

        return hook

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        n_calls[norm] += 1
        if inputs and id(inputs[0]) in given:
            readers.setdefault(given[id(inputs[0])][0], []).append(norm)

    handles = [module.get_submodule(name).register_forward_hook(give(name)) for name in owners]
    handles += [each.register_forward_pre_hook(look) for each in module.modules() if isinstance(each, _BatchNorm)]
    try:
        run()
    finally:
        for each in handles:
            each.remove()
    return {
        name: norms[0]
        for name, norms in readers.items()
        if norms == norms[:1] * n_calls[norms[0]] and norms[0].running_mean is not None
    }
