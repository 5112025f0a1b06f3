"""Texts of about one length come in one batch; every one comes, and padding changes nothing."""

import pytest
import torch

from secateurs.data.lengths import cut, drawn, lengths_of, typical
from secateurs.data.shape import InputShape
from secateurs.measure.accuracy import accuracy, correct
from secateurs.models import ModelSpec, build


def texts(n: int, longest: int = 40) -> torch.Tensor:
    """Ids of texts of 1 to `longest` tokens."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 50, (n, longest), generator=random)
    return ids * (torch.arange(longest) < torch.randint(1, longest + 1, (n, 1), generator=random))


def test_lengths_reach_to_the_last_token() -> None:
    assert lengths_of(torch.tensor([[4, 5, 0, 0], [0, 0, 0, 0], [1, 0, 0, 2]])).tolist() == [2, 0, 4]
    assert lengths_of(torch.zeros(3, 1, 8, 8)) is None
    assert lengths_of(torch.zeros(3, 8)) is None


def test_only_columns_of_padding_are_cut() -> None:
    ids = torch.tensor([[4, 0, 0, 0], [1, 0, 3, 0]])
    assert cut(ids).tolist() == [[4, 0, 0], [1, 0, 3]]
    assert cut(torch.zeros(2, 4, dtype=torch.long)).shape == (2, 1)
    assert cut(torch.zeros(0, 4, dtype=torch.long)).shape == (0, 4)


@pytest.mark.parametrize(("n", "batch_size"), [(1000, 8), (1003, 8), (5, 8), (257, 8), (0, 8), (256, 1)])
def test_every_text_is_drawn_once_and_batches_hold_little_padding(n: int, batch_size: int) -> None:
    lengths = lengths_of(texts(n)) if n else torch.zeros(0, dtype=torch.long)
    assert lengths is not None
    order = drawn(n, lengths, batch_size, torch.Generator().manual_seed(3))
    assert sorted(order.tolist()) == list(range(n))
    assert torch.equal(order, drawn(n, lengths, batch_size, torch.Generator().manual_seed(3)))
    if n >= 1000:
        batches = lengths[order[: n // batch_size * batch_size]].view(-1, batch_size)
        padding = (batches.max(1).values[:, None] - batches).sum() / batches.sum()
        assert padding < 0.1
        firsts = batches[:, 0].float()
        assert (firsts.diff() < 0).float().mean() > 0.3  # the batches are not sorted, too


def test_typical_texts_have_the_mean_length() -> None:
    x = texts(400)
    lengths, found = lengths_of(x), lengths_of(typical(x, 16))
    assert lengths is not None
    assert found is not None
    assert float(found.double().mean()) == pytest.approx(float(lengths.double().mean()), abs=1.0)
    assert len(typical(x, 500)) == 400
    assert torch.equal(typical(torch.arange(48.0).view(3, 1, 4, 4), 2), torch.arange(32.0).view(2, 1, 4, 4))


def test_images_are_drawn_as_they_always_were() -> None:
    order = drawn(100, None, 8, torch.Generator().manual_seed(3))
    assert torch.equal(order, torch.randperm(100, generator=torch.Generator().manual_seed(3)))


def test_answers_are_those_of_every_text_alone() -> None:
    x = texts(70)
    module = build(
        ModelSpec.parse("cls-transformer(dim=16, depth=2)"), InputShape(kind="tokens", size=(50, 40), n_classes=3), 0
    ).eval()
    with torch.no_grad():
        alone = torch.stack([module(each[None])[0] for each in x])
        torch.testing.assert_close(module(x), alone)
    y = alone.argmax(1)
    assert correct(module, x, y, batch_size=16).all()
    other = torch.where(torch.arange(70) % 3 == 0, (y + 1) % 3, y)
    assert torch.equal(correct(module, x, other, batch_size=16), torch.arange(70) % 3 != 0)
    assert accuracy(module, x, other, batch_size=16).n_correct == 46


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_texts_on_a_gpu_are_drawn_as_on_a_cpu() -> None:
    x = texts(300)
    order, there = (drawn(300, lengths_of(each), 8, torch.Generator().manual_seed(3)) for each in (x, x.cuda()))
    assert torch.equal(order, there)
