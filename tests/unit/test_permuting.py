"""Permuting whole networks: what each allows is reordered, the rest is named, the outputs stay."""

import pytest
import torch
from torch import nn

import secateurs as sc
from secateurs.data import InputShape
from secateurs.models import ModelSpec, build

IMAGES = InputShape(kind="image", size=(1, 8, 8), n_classes=8)


def shaken(network):
    """Ready to run, with no weight, bias or gain left as it was made."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
        for name, tensor in network.named_buffers():
            if name.endswith("running_mean"):
                tensor.uniform_(-1, 1)
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
    return network.eval()


def first(output):
    return output if isinstance(output, torch.Tensor) else output[0]


def assert_permuted(network, inputs, reordered, better=None):
    """Exactly these weights are reordered, `better` (all) of them keep more, and the outputs are the same."""
    shaken(network)

    def run():
        return first(network(**inputs) if isinstance(inputs, dict) else network(inputs))

    with torch.no_grad():
        before = run()
        report = sc.permute(network, "2:4", inputs)
        after = run()
    assert float((after - before).abs().max()) <= 1e-4 * float(before.abs().max())
    assert {line.name for line in report if not line.reason} == reordered
    assert all(line.after == line.before for line in report if line.reason)
    for line in report:
        if line.name in (better or reordered):
            assert line.before < line.after <= line.most, line
    return {line.name: line for line in report}


def test_the_cls_transformer():
    network = build(ModelSpec.parse("cls-transformer(dim=16, depth=1, heads=2, patch=4)"), IMAGES, 0)
    block = "blocks.0"
    own = {f"{block}.attention.output.weight", f"{block}.ffn.down.weight"}
    stream = {f"{block}.attention.query_key_value.weight", f"{block}.ffn.up.weight", "head.weight"}
    report = assert_permuted(network, torch.randn(2, 1, 8, 8), own | stream, own)
    assert report["patches.weight"].reason == "the network's input"


def test_lenet_300_100():
    network = build(ModelSpec(name="lenet-300-100"), IMAGES, 0)
    report = assert_permuted(network, torch.randn(2, 1, 8, 8), {"fc2.weight", "fc3.weight"})
    assert report["fc3.weight"].closed > 0.8  # few rows: nearly every wish can be met
    assert report["fc1.weight"].reason


def test_channels_and_their_residual_stream():
    """What reads the stream shares one order, so a single layer may lose while all of them gain."""
    network = shaken(build(ModelSpec(name="resnet-20"), IMAGES, 0))
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        before = network(x)
        report = sc.permute(network, "2:4", x)
        after = network(x)
    assert torch.allclose(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    alone = {line.name: line for line in report if line.name.endswith("conv2.weight")}
    assert all(line.after > line.before and not line.reason for line in alone.values())
    assert next(line for line in report if line.name == "conv1.weight").reason == "4 does not divide its inputs"


def test_a_stream_that_is_normalised_in_groups_keeps_its_order():
    """The outputs show it; what else may be reordered is."""
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 32), nn.ReLU()
    )
    network.append(nn.Linear(32, 4))
    report = assert_permuted(network, torch.randn(2, 1, 8, 8), {"6.weight"})
    assert report["2.weight"].reason == "normalised across"


def test_a_skipped_group_keeps_its_order():
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    before = network[2].weight.detach().clone()
    report = {line.name: line for line in sc.permute(network, "2:4", torch.randn(2, 8), skip=["0.weight"])}
    assert report["2.weight"].reason
    assert torch.equal(network[2].weight.sort(dim=0).values, before.sort(dim=0).values)  # its rows alone
    assert not report["4.weight"].reason


def small(kind, **more):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(vocab_size=50, bos_token_id=0, eos_token_id=1, **more)
    return getattr(transformers, f"{kind}Model")(config)


IDS = {"input_ids": torch.arange(14).reshape(2, 7)}


def test_bert():
    network = small("Bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    layer = "encoder.layer.0"
    assert_permuted(network, IDS, {f"{layer}.attention.output.dense.weight", f"{layer}.output.dense.weight"})


def test_gpt_2_stores_its_weights_turned():
    network = small("GPT2", n_embd=32, n_layer=1, n_head=2, n_positions=16)
    assert_permuted(network, IDS, {"h.0.attn.c_proj.weight", "h.0.mlp.c_proj.weight"})


def test_grouped_queries_share_the_order_of_their_values():
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16}
    network = small("Llama", hidden_size=32, num_hidden_layers=1, intermediate_size=48, **sizes)
    assert_permuted(network, IDS, {"layers.0.self_attn.o_proj.weight", "layers.0.mlp.down_proj.weight"})
