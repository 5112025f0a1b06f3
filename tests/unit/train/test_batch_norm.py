"""Running statistics are the plain averages over the calibration batches, and nothing else changes."""

import pytest
import torch
from torch import nn

from secateurs.errors import InputError
from secateurs.train.batch_norm import measure_batch_norm


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, momentum=0.3), nn.Dropout(0.5), nn.ReLU())


def test_statistics_are_the_averages_over_the_batches_by_hand() -> None:
    module, x = network(), 3 * torch.randn(40, 1, 4, 4) + 1
    module[1].running_mean.fill_(7.0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    module[2].train()
    module[1].eval()
    assert measure_batch_norm(module, x, batch_size=10) == 1
    seen = module[0](x).detach()
    parts = [part.transpose(0, 1).flatten(1) for part in seen.split(10)]
    torch.testing.assert_close(module[1].running_mean, torch.stack([part.mean(1) for part in parts]).mean(0))
    torch.testing.assert_close(module[1].running_var, torch.stack([part.var(1) for part in parts]).mean(0))
    assert module[1].momentum == 0.3
    assert (module[1].training, module[2].training) == (False, True)
    assert torch.equal(torch.get_rng_state(), random), "dropout draws nothing"
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_one_odd_example_more_makes_no_batch_of_its_own() -> None:
    sizes: list[int] = []
    module = network()
    module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    measure_batch_norm(module, torch.randn(21, 1, 2, 2), batch_size=10)
    assert sizes == [7, 7, 7]


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.BatchNorm1d(4, track_running_stats=False)])
def test_a_network_without_running_statistics_is_left_alone(norm: nn.Module) -> None:
    seen: list[int] = []
    module = nn.Sequential(nn.Linear(4, 4), norm)
    module.register_forward_pre_hook(lambda *_: seen.append(1))
    assert measure_batch_norm(module, torch.randn(9, 4)) == 0
    assert not seen


def test_no_inputs_are_refused_and_a_network_that_raises_is_left_as_it_was() -> None:
    """Bug: the statistics were gone, and the momentum was that of the measurement for ever."""
    module = network()
    module(torch.randn(20, 1, 4, 4))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(InputError, match="no inputs to measure the statistics of BatchNorm on"):
        measure_batch_norm(module, torch.zeros(0, 1, 4, 4))
    seen: list[int] = []
    module[2].register_forward_pre_hook(lambda *_: seen.append(1) if not seen else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure_batch_norm(module, torch.randn(20, 1, 4, 4) + 5, batch_size=10)
    assert module[1].momentum == 0.3
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
