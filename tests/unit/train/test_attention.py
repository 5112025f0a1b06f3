"""Attention as a lesson: what torch attends to, by hand and by torch's own product; padding does not count."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateurs.data import InputShape
from secateurs.errors import RecipeError
from secateurs.models import ModelSpec, build
from secateurs.train.attention import Map, attention_loss, listening
from secateurs.train.distillation import Distillation, loss_with

TOKENS = InputShape(kind="tokens", size=(20, 8), n_classes=3)


def attended(query: Tensor, key: Tensor, value: Tensor, **more: object) -> tuple[Tensor, Map]:
    with listening() as maps:
        out = F.scaled_dot_product_attention(query, key, value, **more)
    (found,) = maps
    return out, found


def test_a_map_by_hand() -> None:
    # One head of one dimension: the scores of the query 1 are 0 and ln 3, its shares 1/4 and 3/4.
    query, key = torch.ones(1, 1, 1, 1), torch.tensor([0.0, math.log(3.0)]).view(1, 1, 2, 1)
    _, found = attended(query, key, key)
    assert found.logs.exp().flatten().tolist() == pytest.approx([0.25, 0.75])
    other = Map(torch.tensor([0.5, 0.5]).log().view(1, 1, 1, 2), found.asks)
    kl = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(attention_loss([other], [found])) == pytest.approx(kl, rel=1e-6)


@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["plain", "bool", "float", "causal", "grouped", "scale"]),
    n_asking=st.sampled_from([1, 5]),
)
def test_a_map_is_what_torch_multiplies_the_values_by(seed: int, kind: str, n_asking: int) -> None:
    random = torch.Generator().manual_seed(seed)
    query = torch.randn(2, 4, n_asking, 3, generator=random)
    key, value = (torch.randn(2, 2 if kind == "grouped" else 4, 5, 3, generator=random) for _ in range(2))
    is_token = torch.arange(5) < torch.tensor([[5], [3]])  # (batch, 5)
    more = {
        "plain": {},
        "bool": {"attn_mask": is_token[:, None, None, :]},
        "float": {"attn_mask": torch.where(is_token[:, None, None, :], 0.0, torch.finfo(torch.float32).min)},
        "causal": {"is_causal": True},
        "grouped": {"enable_gqa": True},
        "scale": {"scale": 0.25},
    }[kind]
    out, found = attended(query, key, value, **more)
    values = value.repeat_interleave(2, 1) if kind == "grouped" else value
    torch.testing.assert_close(found.logs.exp() @ values, out, atol=1e-5, rtol=1e-4)
    right = is_token[:, None, :].expand(2, 4, 5) if kind in ("bool", "float") and n_asking == 5 else None
    assert torch.equal(found.asks, right if right is not None else torch.ones(2, 4, n_asking, dtype=torch.bool))


@given(seed=st.integers(0, 1000), scale=st.floats(0.0, 50.0))
def test_the_loss_is_never_negative_and_zero_for_the_same(seed: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    maps = [
        [Map(F.log_softmax(scale * torch.randn(2, 2, 3, 3, generator=random), -1), torch.ones(2, 2, 3).bool())]
        for _ in range(2)
    ]
    assert float(attention_loss(maps[0], maps[1])) >= 0.0
    assert float(attention_loss(maps[0], maps[0])) == 0.0


def test_what_stands_behind_the_padding_teaches_nothing() -> None:
    module, teacher = (build(ModelSpec.parse("cls-transformer(dim=16, depth=2, heads=2)"), TOKENS, k) for k in (0, 1))
    for each in (*module.parameters(), *teacher.parameters()):
        each.data *= 10  # new weights are so small that all tokens are looked at alike
    short = torch.tensor([[3, 4, 5, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8]])
    found = []
    for x in (short[:1, :3], short[:1]):
        with torch.no_grad(), listening() as mine:
            module.eval()(x)
        with torch.no_grad(), listening() as theirs:
            teacher.eval()(x)
        found.append(float(attention_loss(mine, theirs)))
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[0] > 0.01


def test_a_network_learns_where_its_teacher_looks() -> None:
    teacher = build(ModelSpec.parse("cls-transformer(dim=16, depth=2, heads=2)"), TOKENS, 1)
    module = copy.deepcopy(teacher)
    torch.manual_seed(0)
    with torch.no_grad():
        for each in module.parameters():
            each.add_(0.1 * torch.randn_like(each))
    x, y = torch.randint(1, 20, (32, 8)), torch.zeros(32, dtype=torch.long)
    distill = Distillation(hardness=1.0, attention=1.0)
    loss = loss_with(module, distill, teacher, x)
    answers = loss_with(module, Distillation(hardness=1.0), teacher, x)
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    heard = []
    for _ in range(30):
        optimizer.zero_grad()
        found = loss(torch.arange(32), x, y)
        found.backward()
        heard.append(float(found.detach()) - float(answers(torch.arange(32), x, y).detach()))
        assert all(torch.isfinite(each.grad).all() for each in module.parameters() if each.grad is not None)
        optimizer.step()
    assert heard[-1] < 0.5 * heard[0]


@pytest.mark.parametrize(
    "words", ["cls-transformer(dim=16, depth=2, heads=4)", "cls-transformer(dim=16, heads=2, depth=1)"]
)
def test_other_heads_or_layers_are_refused_by_name(words: str) -> None:
    module = build(ModelSpec.parse("cls-transformer(dim=16, depth=2, heads=2)"), TOKENS, 0)
    x = torch.randint(1, 20, (4, 8))
    loss = loss_with(module, Distillation(attention=1.0), build(ModelSpec.parse(words), TOKENS, 0), x)
    with pytest.raises(RecipeError, match=r"needs the same attentions .* the network has 2 x "):
        loss(torch.arange(4), x, torch.zeros(4, dtype=torch.long))


def test_a_network_without_attention_is_refused() -> None:
    module, teacher = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    loss = loss_with(module, Distillation(attention=1.0), teacher, torch.randn(3, 4))
    with pytest.raises(RecipeError, match="the network has none, the teacher none"):
        loss(torch.arange(3), torch.randn(3, 4), torch.zeros(3, dtype=torch.long))


def test_networks_of_transformers_are_heard() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    module = transformers.BertModel(config).eval()
    ids = torch.randint(1, 30, (2, 6))
    is_token = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    with listening() as maps, torch.no_grad():
        module(input_ids=ids, attention_mask=is_token)
    assert [tuple(each.logs.shape) for each in maps] == [(2, 2, 6, 6)] * 2
    assert float(maps[0].logs.exp()[0, :, :4, 4:].max()) == 0.0
