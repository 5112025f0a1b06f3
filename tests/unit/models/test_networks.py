"""Reference networks: sizes, shapes, names, seeds; what does not fit is one clear error."""

import pytest
import torch

from secateurs.data import InputShape
from secateurs.errors import InputError, RecipeError
from secateurs.models import MODELS, ModelSpec, build
from secateurs.models.cls_transformer import patch_size
from secateurs.models.table import PRETRAINED

DIGITS = InputShape(kind="image", size=(1, 8, 8), n_classes=10)
MNIST = InputShape(kind="image", size=(1, 28, 28), n_classes=10)
CIFAR = InputShape(kind="image", size=(3, 32, 32), n_classes=10)
TEXT = InputShape(kind="tokens", size=(50, 12), n_classes=5)

FITTING = [
    ("cls-transformer", DIGITS),
    ("cls-transformer", MNIST),
    ("cls-transformer", CIFAR),
    ("cls-transformer", TEXT),
    ("lenet-300-100", DIGITS),
    ("lenet-300-100", MNIST),
    ("lenet-5", MNIST),
    ("seed-cnn", MNIST),
    ("resnet-20", CIFAR),
    ("resnet-20", MNIST),
]


def inputs(shape: InputShape, n: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if shape.kind == "image":
        return torch.randn(n, *shape.size, generator=generator)
    return torch.randint(1, shape.size[0], (n, shape.size[1]), generator=generator)


def test_every_network_of_the_table_is_tested() -> None:
    assert {name for name, _ in FITTING} | {PRETRAINED} == set(MODELS)  # that one in test_pretrained.py


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_logits_have_one_column_per_class(name: str, shape: InputShape) -> None:
    module = build(ModelSpec(name=name), shape, seed=0)
    assert module(inputs(shape)).shape == (3, shape.n_classes)


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_tracked_weights_exist_and_are_matrices_or_filters(name: str, shape: InputShape) -> None:
    module = build(ModelSpec(name=name), shape, seed=0)
    parameters = dict(module.named_parameters())
    assert set(module.tracked) == {"cls-head", "ffnn"}
    assert all(parameters[weight].ndim >= 2 for weight in module.tracked.values())
    assert parameters[module.tracked["cls-head"]].shape[0] == shape.n_classes


@pytest.mark.parametrize(
    ("name", "shape", "n"),
    [
        ("lenet-5", MNIST, 431_080),
        ("lenet-300-100", MNIST, 266_610),
        ("resnet-20", CIFAR, 269_722),
        ("seed-cnn", MNIST, (49 + 1) * 32 + (32 * 9 + 1) * 48 + 769 * 256 + 2 * 256 + 257 * 10),
    ],
)
def test_published_sizes(name: str, shape: InputShape, n: int) -> None:
    module = build(ModelSpec(name=name), shape, seed=0)
    assert sum(parameter.numel() for parameter in module.parameters()) == n


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_a_seed_is_the_same_network_and_leaves_the_random_state_alone(name: str, shape: InputShape) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (build(ModelSpec(name=name), shape, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    head = build(ModelSpec(name=name), shape, 0).tracked["cls-head"]
    assert not torch.equal(first[head], other[head])


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_the_initialiser_sentence_is_true(name: str, shape: InputShape) -> None:
    module = build(ModelSpec(name=name), shape, seed=0)
    weight = module.get_parameter(module.tracked["ffnn"]).detach()
    fan_in = weight[0].numel()
    sigma, largest = float(weight.std()), float(weight.abs().max())
    if "uniform" in module.initialiser and "not a bell" in module.initialiser:
        assert largest <= fan_in**-0.5
        assert sigma == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)
    elif "truncated normal" in module.initialiser:
        assert sigma == pytest.approx(0.02, rel=0.05)
        assert largest > 3 * sigma  # a bell has tails
    else:
        assert "Kaiming normal" in module.initialiser
        assert sigma == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


def test_the_names_of_the_transformer_read_well() -> None:
    image = {name for name, _ in build(ModelSpec(name="cls-transformer"), DIGITS, 0).named_parameters()}
    text = {name for name, _ in build(ModelSpec(name="cls-transformer"), TEXT, 0).named_parameters()}
    shared = {
        "cls_token",
        "position_embedding",
        "blocks.0.attention.query_key_value.weight",
        "blocks.0.attention.output.weight",
        "blocks.0.ffn.up.weight",
        "blocks.0.ffn.down.weight",
        "norm.weight",
        "head.weight",
    }
    assert shared | {"patches.weight"} <= image
    assert shared | {"tokens.weight"} <= text


def test_padding_never_changes_a_result() -> None:
    module = build(ModelSpec.parse("cls-transformer(dim=16, depth=3, heads=2)"), TEXT, seed=0).eval()
    with torch.no_grad():
        for weight in module.parameters():  # small initial weights would hide a leak
            if weight.ndim == 2:
                weight.mul_(10)
        short = inputs(TEXT)[:, :5]
        padded = torch.nn.functional.pad(short, (0, 7))
        torch.testing.assert_close(module(padded), module(short), atol=1e-4, rtol=1e-4)
        mixed = padded.clone()
        mixed[1, 2:] = 0
        alone = module(mixed[1:2, :2])
        torch.testing.assert_close(module(mixed)[1:2], alone, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(module(mixed)[1], module(padded)[1], atol=1e-2)
        assert torch.isfinite(module(torch.zeros(2, 4, dtype=torch.int64))).all()  # texts without a word


def test_all_tokens_reach_the_class_token() -> None:
    """The last block computes the class token alone; still every patch must matter, and every layer learn."""
    module = build(ModelSpec(name="cls-transformer"), DIGITS, seed=0)
    x = inputs(DIGITS).requires_grad_()
    module(x).square().sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).all())
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())


def test_the_last_block_computes_what_a_full_block_would() -> None:
    module = build(ModelSpec.parse("cls-transformer(depth=1)"), DIGITS, seed=0)
    block = module.get_submodule("blocks.0")
    x = torch.randn(2, 5, 64)
    torch.testing.assert_close(block(x, None, first_only=True), block(x, None, first_only=False)[:, :1])


def test_too_long_a_sequence_is_an_error() -> None:
    module = build(ModelSpec(name="cls-transformer"), TEXT, seed=0)
    with pytest.raises(InputError, match="13 tokens; this network reads at most 12"):
        module(torch.ones(1, 13, dtype=torch.int64))


def test_dropout_acts_while_training_only() -> None:
    module = build(ModelSpec.parse("cls-transformer(dropout=0.5)"), DIGITS, seed=0)
    x = inputs(DIGITS)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_patches() -> None:
    assert patch_size(0, 8, 8) == (4, 4)
    assert patch_size(0, 28, 28) == (7, 7)
    assert patch_size(0, 32, 32) == (8, 8)
    assert patch_size(0, 29, 31) == (29, 31)
    assert patch_size("2x8", 8, 8) == (2, 8)
    module = build(ModelSpec.parse("cls-transformer(patch=2x8)"), DIGITS, 0)
    assert module.get_parameter("position_embedding").shape == (1, 5, 64)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("cls-transformer(dim=31)", DIGITS, "divisible by heads; found dim=31, heads=2"),
        ("cls-transformer(dim=0)", DIGITS, "dim must be a whole number from 1"),
        ("cls-transformer(dim=2.5)", DIGITS, "found 2.5"),
        ("cls-transformer(depth=0)", DIGITS, "depth must be a whole number from 1"),
        ("cls-transformer(depth=100000)", DIGITS, "depth must be"),
        ("cls-transformer(ffn=-1)", DIGITS, "ffn must be a whole number from 0"),
        ("cls-transformer(patch=3)", DIGITS, "3x3 patches do not tile 8x8. Squares that do have sides 1, 2, 4, 8"),
        ("cls-transformer(patch=2x3)", DIGITS, "2x3 patches do not tile"),
        ("cls-transformer(patch=a)", DIGITS, "patch must be a whole number or text"),
        ("cls-transformer(patch=1x2x3)", DIGITS, "patch must be a whole number or text"),
        ("cls-transformer(patch=-4)", DIGITS, "do not tile"),
        ("cls-transformer(patch=4)", TEXT, "patch is for images"),
        ("cls-transformer(dropout=1)", DIGITS, r"dropout must be a number in \[0, 1\)"),
        ("cls-transformer(dropout=a)", DIGITS, "found 'a'"),
        ("lenet-5", DIGITS, "'lenet-5' needs 1x28x28 images .* the data are 1x8x8 images, 10 classes"),
        ("lenet-5", CIFAR, "needs 1x28x28"),
        ("seed-cnn", DIGITS, "'seed-cnn' needs 1x28x28"),
        ("lenet-300-100", TEXT, "'lenet-300-100' reads images; the data are sequences of up to 12 tokens"),
        ("resnet-20", TEXT, "'resnet-20' reads images"),
        ("resnet-20", InputShape(kind="image", size=(1, 3, 9), n_classes=2), "at least 4x4"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(text: str, shape: InputShape, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(ModelSpec.parse(text), shape, seed=0)
