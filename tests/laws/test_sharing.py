"""Laws of shared weights: few numbers per layer whatever the optimizer, zeros stay zero, and the file loses nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import secateurs as sc
from laws.networks import Everything, Tied, small
from laws.test_pruner import OPTIMIZERS, batch
from secateurs.layers import layers
from secateurs.train.sharing import Sharing

each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def pruned(module, sparsity=0.5):
    """The module, pruned once; every layer keeps a weight where any is kept."""
    sc.prune(module, sc.Recipe(budget=sc.sparsity(sparsity), min_keep=int(sparsity < 1)))
    return module


def weights(module):
    """{name: copy of each weight that can be pruned}."""
    return {layer.name: layer.parameter.detach().clone() for layer in layers(module) if layer.is_prunable}


def assert_shared(module, keeps, n):
    """At most n numbers per layer, none of them where nothing was kept."""
    for name, weight in weights(module).items():
        assert bool((weight[~keeps[name]] == 0).all())
        assert len(weight[keeps[name]].unique()) <= n


@each_optimizer
@settings(max_examples=20)
@given(n_bits=st.integers(2, 4), sparsity=st.sampled_from([0.0, 0.4, 0.9]), is_every_step=st.booleans())
def test_no_optimizer_parts_what_is_shared(make, n_bits, sparsity, is_every_step):
    torch.manual_seed(0)
    module = pruned(small(), sparsity)
    keeps = {name: weight != 0 for name, weight in weights(module).items()}
    sharing = Sharing(module, n_bits)
    assert_shared(module, keeps, 2**n_bits)
    begun = weights(module)
    optimizer = make(module.parameters())
    for step in range(4):
        x, y = batch(step)
        optimizer.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        optimizer.step()
        if is_every_step:
            sharing.step()
            assert_shared(module, keeps, 2**n_bits)
    sharing.end()
    assert_shared(module, keeps, 2**n_bits)
    assert any(not torch.equal(weight, begun[name]) for name, weight in weights(module).items())


@pytest.mark.filterwarnings("ignore::secateurs.errors.CollapseWarning")
@pytest.mark.parametrize("n_bits", [2, 5, 8])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95, 1.0])
def test_the_packed_file_loses_nothing(tmp_path, n_bits, sparsity):
    torch.manual_seed(n_bits)
    module = pruned(Everything(), sparsity)
    Sharing(module, n_bits).end()
    path = tmp_path / "shared.packed.safetensors"
    sc.pack(module, path, values=f"codebook:{n_bits}")
    loaded = sc.load(path)
    for name, value in module.state_dict().items():
        assert torch.equal(loaded[name], value)


@given(n_bits=st.integers(2, 8), seed=st.integers(0, 999))
def test_sharing_again_changes_nothing(n_bits, seed):
    torch.manual_seed(seed)
    module = pruned(Everything())
    Sharing(module, n_bits).end()
    once = weights(module)
    Sharing(module, n_bits).end()
    assert all(torch.equal(weight, once[name]) for name, weight in weights(module).items())


def test_tied_weights_are_shared_once():
    torch.manual_seed(0)
    module = pruned(Tied())
    sharing = Sharing(module, 2)
    functional.cross_entropy(module(torch.randn(4, 6)), torch.tensor([0, 1, 2, 0])).backward()
    sharing.end()
    assert module.second.weight is module.first.weight
    assert list(sharing.shared) == ["first.weight", "head.weight"]
