"""A packed block gives what its layer gives: attention, norms and activations by float64, whole layers by torch's."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateurs as sc
from secateurs import accelerating, racing
from secateurs.errors import InputError
from secateurs.measure.intervals import Interval
from secateurs.models.cls_transformer import Block
from secateurs.running import curves, encoding
from secateurs.running.packed_block import PackedBlock, parts_of
from secateurs.running.team import address

transformers = pytest.importorskip("transformers")
NOTHING = np.zeros(0, np.float32)
THREADS = [1, 2]


def team(n: int) -> tuple[int, int]:
    """(where, threads); without torch's own team one thread does all."""
    where = address() if n > 1 else 0
    return where, n if where else 1


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", [curves.RELU, curves.GELU, curves.GELU_TANH])
@pytest.mark.parametrize("n_threads", THREADS)
def test_activations(kind: int, n_threads: int) -> None:
    special = [0.0, -0.0, 1e-30, -1e-30, 40.0, -40.0, 1e30, -1e30]
    x = np.concatenate([10 * normal(1001), np.linspace(-7, 7, 4001), special]).astype(np.float32)
    exact = torch.from_numpy(x).double()
    expected = {
        curves.RELU: F.relu(exact),
        curves.GELU: F.gelu(exact),
        curves.GELU_TANH: F.gelu(exact, approximate="tanh"),
    }[kind].numpy()
    y = x.copy()
    encoding.activate(y, kind, *team(n_threads))
    # The polynomial of erf is within 1.5e-7, of each number that it is multiplied with.
    assert np.all(np.abs(y - expected) <= 5e-7 * np.abs(x) + 1e-37)
    odd = np.array([np.nan, np.inf, 1.0], np.float32)
    encoding.activate(odd, kind, 0, 1)
    assert np.isnan(odd[0])
    assert odd[1] == np.inf


@pytest.mark.parametrize("width", [1, 7, 8, 64, 389])
@pytest.mark.parametrize("n_threads", THREADS)
def test_norms(width: int, n_threads: int) -> None:
    x, y = 3 + normal(9, width), normal(9, width, seed=1)
    weight, bias = normal(2, width, seed=2)
    for second in (y, NOTHING):
        added, out = np.empty_like(x), np.empty_like(x)
        both = x + second if second.size else x
        encoding.norm(
            x.reshape(-1), second.reshape(-1), weight, bias, 1e-5, added.reshape(-1), out.reshape(-1), *team(n_threads)
        )
        given = [torch.from_numpy(each).double() for each in (both, weight, bias)]
        expected = F.layer_norm(given[0], (width,), given[1], given[2], 1e-5).numpy()
        assert np.array_equal(added, both)
        assert np.allclose(out, expected, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 3, 32), (2, 2, 2, 1, 4), (2, 17, 17, 2, 32), (3, 40, 1, 2, 16), (1, 65, 33, 4, 20)]
)
@pytest.mark.parametrize("masked", ["", "keys", "all"])
@pytest.mark.parametrize("n_threads", THREADS)
def test_attention(shape: tuple[int, int, int, int, int], masked: str, n_threads: int) -> None:
    n_sequences, n_keys, n_queries, heads, dim = shape
    qkv = normal(n_sequences * n_keys, 3 * heads * dim)
    rows = n_queries if masked == "all" else 1
    mask, steps = normal(n_sequences, rows, n_keys, seed=1), (rows * n_keys, n_keys if masked == "all" else 0)
    where, n = team(n_threads)
    room = np.empty((1 if n == 1 else n * encoding.PARTS) * encoding.room_of(shape), np.float32)
    out = np.empty(n_sequences * n_queries * heads * dim, np.float32)
    given = mask.reshape(-1) if masked else NOTHING
    encoding.mix(qkv.reshape(-1), shape, given, steps if masked else (0, 0), room, out, encoding.TILE, where, n)
    split = torch.from_numpy(qkv).double().view(n_sequences, n_keys, 3, heads, dim).permute(2, 0, 3, 1, 4)
    added = torch.from_numpy(mask).double()[:, None] if masked else None
    found = F.scaled_dot_product_attention(split[0][:, :, :n_queries], split[1], split[2], attn_mask=added)
    assert np.allclose(out, found.transpose(1, 2).reshape(-1).numpy(), atol=3e-6)


def test_a_number_that_is_not_finite_stays_in_its_sequence() -> None:
    shape = (2, 9, 9, 2, 8)
    qkv = normal(18, 48)
    qkv[3, 5] = np.nan
    out, room = np.empty((18, 16), np.float32), np.empty(encoding.room_of(shape), np.float32)
    encoding.mix(qkv.reshape(-1), shape, NOTHING, (0, 0), room, out.reshape(-1), encoding.TILE, 0, 1)
    assert np.isnan(out[3, :8]).all()  # the query of one head
    assert not np.isnan(np.delete(out, 3, axis=0)).any()


def bert(activation: str = "gelu", **sizes: int) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 80, "num_hidden_layers": 2, **sizes}
    config = transformers.BertConfig(vocab_size=50, hidden_act=activation, **sizes)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    sc.prune(model, "magnitude element layer sparsity(0.7)")
    return model


def fused(layer: nn.Module, values: str = "fp32", format: str = "bitmask") -> PackedBlock:
    parts = parts_of(layer)
    assert parts is not None
    return parts.kind(parts, [format] * 4, values)


def padded(n: int, *lengths: int) -> Tensor:
    return torch.stack([torch.arange(n) < each for each in lengths])[:, None, None, :]


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("n_tokens", [1, 5, 40])
@pytest.mark.parametrize("format", ["bitmask", "index"])
def test_a_layer_of_bert(activation: str, n_tokens: int, format: str) -> None:
    layer, x = bert(activation).encoder.layer[0], torch.randn(2, n_tokens, 48)
    mask = padded(n_tokens, n_tokens, max(1, n_tokens - 2))
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        for each in (None, mask, mask.expand(2, 1, n_tokens, n_tokens), added):
            assert torch.allclose(fused(layer, format=format)(x, each), layer(x, each), atol=1e-5)


@pytest.mark.parametrize("kind", ["Camembert", "Electra", "Roberta", "XLMRoberta"])
def test_networks_of_its_kind(kind: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 2}
    config = getattr(transformers, f"{kind}Config")(vocab_size=50, pad_token_id=0, **sizes)
    model, ids = getattr(transformers, f"{kind}Model")(config).eval(), torch.randint(2, 50, (2, 7))
    sc.prune(model, "magnitude element layer sparsity(0.7)")
    mask = (torch.arange(7) < torch.tensor([[7], [4]])).long()
    with torch.inference_mode():
        y = model(input_ids=ids, attention_mask=mask).last_hidden_state
        for i, each in enumerate(model.encoder.layer):
            model.encoder.layer[i] = fused(each)
        found = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.allclose(found[mask.bool()], y[mask.bool()], atol=1e-5)


def test_layers_of_distilbert() -> None:
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(vocab_size=50, dim=32, n_heads=2, hidden_dim=48, n_layers=2)
    model, ids = transformers.DistilBertModel(config).eval(), torch.randint(2, 50, (2, 7))
    sc.prune(model, "magnitude element layer sparsity(0.7)")
    mask = (torch.arange(7) < torch.tensor([[7], [4]])).long()
    with torch.inference_mode():
        y = model(input_ids=ids, attention_mask=mask).last_hidden_state
        for i, each in enumerate(model.transformer.layer):
            model.transformer.layer[i] = fused(each)
        found = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.allclose(found[mask.bool()], y[mask.bool()], atol=1e-5)


@pytest.mark.parametrize("kind", ["DeiT", "IJepa", "ViT", "ViTMSN", "Vivit"])
def test_layers_of_vit(kind: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 2}
    images = {"image_size": 16, "num_frames": 2, "tubelet_size": [2, 4, 4]} if kind == "Vivit" else {"image_size": 12}
    images |= {} if kind == "Vivit" else {"patch_size": 4}
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sizes, **images)).eval()
    sc.prune(model, "magnitude element layer sparsity(0.7)")
    x = torch.randn(*((2, 2, 3, 16, 16) if kind == "Vivit" else (2, 3, 12, 12)))
    with torch.inference_mode():
        y = model(pixel_values=x).last_hidden_state
        before = [name for name, each in model.named_modules() if parts_of(each) is not None]
        assert len(before) == 2
        for name in before:
            model.set_submodule(name, fused(model.get_submodule(name)))
        assert torch.allclose(model(pixel_values=x).last_hidden_state, y, atol=1e-5)


def gpt2(implementation: str = "sdpa") -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, attn_implementation=implementation)
    model = transformers.GPT2LMHeadModel(config).eval()
    sc.prune(model, "magnitude element layer sparsity(0.7)")
    return model


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_layers_of_gpt2_keep_keys_and_values(implementation: str) -> None:
    model, ids = gpt2(implementation), torch.randint(1, 50, (2, 9))
    mask = (torch.arange(9) >= torch.tensor([[0], [3]])).long()  # padded on the left

    def answers() -> list[Tensor]:
        with torch.inference_mode():
            whole = [model(input_ids=ids).logits, model(input_ids=ids, attention_mask=mask).logits]
            first = model(input_ids=ids[:, :5], attention_mask=mask[:, :5], use_cache=True)
            cache, parts = first.past_key_values, [first.logits]
            for i in range(5, 9):
                one = model(input_ids=ids[:, i : i + 1], attention_mask=mask[:, : i + 1], past_key_values=cache)
                parts.append(one.logits)
            return [*whole, torch.cat(parts, 1), model.generate(ids, attention_mask=mask, max_new_tokens=5)]

    expected = answers()
    for i, each in enumerate(model.transformer.h):
        model.transformer.h[i] = fused(each)
    for mine, theirs in zip(answers(), expected, strict=True):
        if mine.is_floating_point():
            mine, theirs = (each[mask.bool()] for each in (mine, theirs))
            assert torch.allclose(mine, theirs, atol=1e-5)
        else:
            assert torch.equal(mine, theirs)
    with pytest.raises(InputError, match="hears no other states"):
        model.transformer.h[0](torch.randn(1, 2, 32), encoder_hidden_states=torch.randn(1, 2, 32))


def test_bits_are_fewer_where_they_are_asked_for() -> None:
    layer, x = bert().encoder.layer[0], torch.randn(1, 6, 48)
    with torch.inference_mode():
        y = layer(x)
        errors = [
            float((fused(layer, each)(x) - y).abs().max()) for each in ("fp32", "bf16", "int8", "w8a8", "int4/32")
        ]
    assert errors[0] < 1e-5 < errors[1] < 0.03
    assert errors[0] < errors[2] < errors[3] < 0.1
    assert errors[4] < 0.5
    sizes = [fused(layer, each).nbytes for each in ("fp32", "bf16", "int8", "int4/32")]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("first_only", [True, False])
def test_a_block_of_the_cls_transformer(first_only: bool) -> None:
    torch.manual_seed(0)
    block, x = Block(32, 4, 64, 0.1).eval(), torch.randn(3, 9, 32)
    sc.prune(block, "magnitude element layer sparsity(0.5)")
    with torch.inference_mode():
        for is_token in (None, padded(9, 9, 4, 1)):
            found = fused(block)(x, is_token, first_only=first_only)
            assert found.shape == (3, 1 if first_only else 9, 32)
            assert torch.allclose(found, block(x, is_token, first_only=first_only), atol=1e-5)


def test_strides_dtypes_and_copies() -> None:
    layer = bert().encoder.layer[0]
    block, x = fused(layer, "int8"), torch.randn(4, 6, 48)
    with torch.inference_mode():
        y = block(x)
        assert torch.equal(block(x.flip(0).transpose(0, 1).contiguous().transpose(0, 1)), y.flip(0))
        half = block(x.bfloat16())
        assert half.dtype == torch.bfloat16
        assert torch.allclose(half.float(), y, atol=0.05)
        other = fused(bert().encoder.layer[1], "int8")
        assert not torch.equal(other(x), y)
        assert torch.equal(copy.deepcopy(block)(x), y)
        assert block(x[:0]).shape == (0, 6, 48)
    assert block.half().norm0_weight.dtype == torch.float32


def test_torch_compile_leaves_it_alone() -> None:
    model, ids = bert(), torch.randint(1, 50, (1, 7))
    with torch.inference_mode():
        y = model(input_ids=ids).last_hidden_state
        model.encoder.layer[0] = fused(model.encoder.layer[0])
        compiled = torch.compile(model, backend="eager")
        assert torch.allclose(compiled(input_ids=ids).last_hidden_state, y, atol=1e-5)


def test_what_it_cannot_do_is_told() -> None:
    block, x = fused(bert().encoder.layer[0]), torch.randn(1, 3, 48)
    with pytest.raises(InputError, match="keeps no keys and values"):
        block(x, None, None, past_key_values=object())
    with pytest.raises(InputError, match="takes a mask"):
        block(x, torch.zeros(1, 3, 3, 3))
    with pytest.raises(InputError, match="takes \\(sequences, tokens, width\\)"):
        block(x[0])
    assert parts_of(bert("silu").encoder.layer[0]) is None
    assert parts_of(nn.Linear(2, 2)) is None
    decoder = transformers.BertConfig(
        hidden_size=16, num_attention_heads=2, intermediate_size=16, num_hidden_layers=1, is_decoder=True
    )
    assert parts_of(transformers.BertModel(decoder).encoder.layer[0]) is None


@pytest.fixture
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed counts for nothing: what may stand for a part is said to be faster, always."""
    monkeypatch.setattr(racing, "paired_ratio", lambda *_: Interval(2.0, 2.0, 2.0, 6))


@pytest.mark.usefixtures("_always")
def test_accelerate_fuses_and_undoes() -> None:
    model, ids = bert(), torch.randint(1, 50, (2, 7))
    mask = (torch.arange(7) < torch.tensor([[7], [4]])).long()
    with torch.inference_mode():
        y = model(input_ids=ids, attention_mask=mask).last_hidden_state
        before = dict(model.named_modules())
        found = sc.accelerate(model, input_ids=ids, attention_mask=mask, rounds=6)
        assert [each.name for each in found.blocks] == ["encoder.layer.0", "encoder.layer.1"]
        assert all(isinstance(each, PackedBlock) for each in model.encoder.layer)
        assert all(each.chosen.startswith("fused ") and each.is_swapped for each in (*found.blocks, *found.choices))
        assert found.blocks[0].n_tokens == 14
        assert found.blocks[0].sparsity == pytest.approx(0.7, abs=0.01)
        assert "layer by layer" in str(found)
        assert torch.allclose(model(input_ids=ids, attention_mask=mask).last_hidden_state, y, atol=1e-5)
        found.restore()
        assert dict(model.named_modules()) == before
        assert torch.equal(model(input_ids=ids, attention_mask=mask).last_hidden_state, y)


@pytest.mark.usefixtures("_always")
def test_the_example_keeps_its_cache() -> None:
    model, ids = gpt2(), torch.randint(1, 50, (1, 4))
    with torch.inference_mode():
        cache = model(input_ids=ids, use_cache=True).past_key_values
        again = copy.deepcopy(cache)
        y = model(input_ids=ids[:, :1], past_key_values=again).logits
        found = sc.accelerate(model, input_ids=ids[:, :1], past_key_values=cache, rounds=6)
        assert all(each.is_swapped for each in found.blocks)
        assert found.blocks[0].shape == (128, 32)
        assert cache.get_seq_length() == 4
        assert torch.allclose(model(input_ids=ids[:, :1], past_key_values=cache).logits, y, atol=1e-5)


@pytest.mark.usefixtures("_always")
def test_a_model_that_gives_less_without_its_layers_keeps_them() -> None:
    ids = torch.randint(1, 50, (1, 7))
    for wanted, why in (({"output_hidden_states": True}, "something in it has hooks"), ({}, "the model looks into")):
        model = Looking(bert()) if not wanted else bert()
        found = sc.accelerate(model, input_ids=ids, rounds=6, **wanted)
        assert all(each.reason.startswith(why) for each in found.blocks)
        assert not any(each.is_swapped for each in found.blocks)
        assert not any(isinstance(each, PackedBlock) for each in model.modules())
    assert len(bert()(input_ids=ids, output_hidden_states=True).hidden_states) == 3


class Looking(nn.Module):
    """Reads what only the layers of BERT have."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor) -> Tensor:
        found: Tensor = self.inner(input_ids=input_ids)[0] * self.inner.encoder.layer[0].seq_len_dim
        return found


@pytest.mark.usefixtures("_always")
def test_layers_that_cannot_be_fused_are_told() -> None:
    model, ids, seen = bert(num_hidden_layers=3), torch.randint(1, 50, (1, 7)), []
    model.encoder.layer[0].output.dense.register_forward_hook(lambda *_: seen.append(1))
    model.encoder.layer[2].output.dense.weight = model.encoder.layer[1].output.dense.weight
    found = sc.accelerate(model, input_ids=ids, rounds=6, is_reversible=False)
    assert [each.reason.split(",")[0] for each in found.blocks] == [
        "something in it has hooks",
        *["a weight in it is another layer's too"] * 2,
    ]
    model = bert()
    with torch.no_grad():
        for each in model.encoder.parameters():
            each[each == 0] = 1e-3
    assert {each.reason for each in sc.accelerate(model, input_ids=ids, rounds=6).blocks} == {"nothing in it is zero"}


@pytest.mark.usefixtures("_always")
def test_blocks_of_zeros_and_what_stays_lossless() -> None:
    model, ids = bert(hidden_size=64, num_attention_heads=2, intermediate_size=128), torch.randint(1, 50, (1, 3))
    with torch.no_grad():
        for each in model.encoder.layer[0].modules():
            if isinstance(each, nn.Linear):
                each.weight.normal_()
                each.weight[:32] = 0.0
    found = sc.accelerate(model, input_ids=ids, values=("fp32", "w8a8"), rounds=6, is_lossless=True)
    assert set(found.blocks[0].seconds) == {"layer by layer", "fused blocks 32x32 fp32"}
    assert set(found.blocks[1].seconds) == {"layer by layer", "fused bitmask fp32", "fused index fp32"}
    assert accelerating.FORMATS == ("bitmask", "index", "blocks 32x32")


def test_a_cpu_of_any_kind_gives_the_same(tmp_path: Path) -> None:
    environ = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    chosen = "cls_transformer or (test_activations and 1-1)"
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__, "-k", chosen]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("... ")  # three tests
