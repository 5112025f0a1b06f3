"""Exporting: ONNX files answer as torch does, with any number of examples; int8 keeps the zeros; errors say why."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateurs import exporting
from secateurs.checks import extra
from secateurs.data import InputShape
from secateurs.errors import InputError, MissingExtraError
from secateurs.exporting import export_onnx, onnx_answers, quantize_onnx
from secateurs.models import ModelSpec, build
from secateurs.pruning import prune
from secateurs.recipe import Recipe
from secateurs.running.packed_linear import PackedLinear

TEXTS = InputShape(kind="tokens", size=(30, 6), n_classes=3)


@pytest.fixture
def _has_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Tensor, exporting.Exported]:
    """A pruned network of texts, ids to run it on, and what exporting it said; made once, for it takes seconds."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    module = build(ModelSpec.parse("cls-transformer(dim=32, depth=1, heads=1)"), TEXTS, seed=0)
    prune(module, Recipe.parse("magnitude element layer sparsity(0.7)"))
    ids = torch.randint(1, 30, (70, 6), generator=torch.Generator().manual_seed(0))
    return module, ids, export_onnx(module, ids, tmp_path_factory.mktemp("onnx") / "new" / "model.onnx")


def torch_answers(module: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return module.eval()(x)


def test_every_answer_is_compared(exported: tuple[nn.Module, Tensor, exporting.Exported]) -> None:
    module, _, found = exported
    assert (found.n, found.same_answers) == (70, 70)
    assert 0 <= found.relative_difference < 1e-5
    assert found.size_bytes == Path(found.path).stat().st_size
    assert found.values()["max_difference"] == found.max_difference
    assert [path.name for path in Path(found.path).parent.iterdir()] == ["model.onnx"]
    assert module.training, "the network is in the mode it was in"


def test_the_number_of_examples_and_of_tokens_is_free(exported: tuple[nn.Module, Tensor, exporting.Exported]) -> None:
    module, ids, found = exported
    for x in (ids[:1], ids[:5, :4], ids[:1, :2]):
        torch.testing.assert_close(onnx_answers(found.path, x), torch_answers(module, x), rtol=1e-4, atol=1e-5)


def test_no_path_of_the_machine_is_in_the_file(exported: tuple[nn.Module, Tensor, exporting.Exported]) -> None:
    data = Path(exported[2].path).read_bytes()
    assert b".py" not in data
    assert b"head.weight" in data


@pytest.mark.parametrize("how", ["dynamic", "static"])
def test_int8_keeps_every_zero(
    how: str, exported: tuple[nn.Module, Tensor, exporting.Exported], tmp_path: Path
) -> None:
    module, ids, found = exported
    made = quantize_onnx(found.path, tmp_path / "int8.onnx", ids if how == "static" else None)
    assert made.how == how
    weights = [module.get_parameter(f"{name}.weight") for name in ("blocks.0.ffn.up", "blocks.0.ffn.down", "head")]
    assert made.n_tensors >= len(weights)
    assert made.n_zero >= made.n_zero_before >= sum(int((weight == 0).sum()) for weight in weights)
    assert made.size_bytes < found.size_bytes
    right = torch_answers(module, ids)
    assert float((onnx_answers(made.path, ids) - right).abs().max()) < 0.2 * float(right.abs().max())
    if how == "dynamic":
        with pytest.raises(InputError, match="has no weights that ONNX Runtime can quantize"):
            quantize_onnx(made.path, tmp_path / "again.onnx")


def test_a_zero_that_is_lost_is_found(
    exported: tuple[nn.Module, Tensor, exporting.Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime.quantization as library

    quantize = library.quantize_dynamic

    def careless(model: object, out: str, **options: object) -> None:
        onnx = extra("onnx", "onnx")
        quantize(model, out, **options)
        spoilt = onnx.load(out)
        tensor = next(each for each in spoilt.graph.initializer if each.name == "head.weight_quantized")
        tensor.raw_data = b"\x01" * len(onnx.numpy_helper.to_array(tensor).tobytes())
        onnx.save(spoilt, out)

    monkeypatch.setattr(library, "quantize_dynamic", careless)
    with pytest.raises(InputError, match=r"does not keep the zeros of 'head\.weight'"):
        quantize_onnx(exported[2].path, tmp_path / "int8.onnx")
    assert not list(tmp_path.iterdir())


class Named(nn.Module):
    """Called with names, as networks of transformers are; answers with a tuple."""

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return left - 2 * right, right


@pytest.mark.usefixtures("_has_onnx")
def test_inputs_with_names(tmp_path: Path) -> None:
    inputs = {"right": torch.ones(3, 4), "left": torch.arange(12.0).reshape(3, 4)}
    found = export_onnx(Named(), inputs, tmp_path / "model.onnx")
    assert (found.max_difference, found.n) == (0.0, 3)
    assert onnx_answers(found.path, inputs).tolist() == (inputs["left"] - 2).tolist()


@pytest.mark.usefixtures("_has_onnx")
def test_what_answers_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "onnx_answers", lambda path, x: torch.full((2, 3), 7.0))
    monkeypatch.setattr(exporting, "write_onnx", lambda *_: None)
    with pytest.raises(InputError, match=r"answers differ from torch's by .*is not written"):
        export_onnx(nn.Linear(4, 3), torch.zeros(2, 4), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_has_onnx")
def test_what_cannot_be_exported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = nn.Sequential(PackedLinear.from_linear(nn.Linear(4, 4)))
    with pytest.raises(InputError, match="Packed layers cannot be exported"):
        export_onnx(packed, torch.zeros(2, 4), tmp_path / "model.onnx")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("an operator is unknown\nand more")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(InputError, match=r"cannot export Linear: RuntimeError: an operator is unknown$"):
        export_onnx(nn.Linear(4, 4), torch.zeros(2, 4), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_has_onnx")
def test_files_and_inputs_that_cannot_be_run(
    exported: tuple[nn.Module, Tensor, exporting.Exported], tmp_path: Path
) -> None:
    (tmp_path / "odd.onnx").write_bytes(b"no protobuf")
    for call in (lambda path: onnx_answers(path, torch.zeros(1, 2)), lambda path: quantize_onnx(path, path)):
        with pytest.raises(InputError, match=r"odd\.onnx'"):
            call(tmp_path / "odd.onnx")
    with pytest.raises(InputError, match="There are no examples"):
        onnx_answers(exported[2].path, torch.zeros(0, 6, dtype=torch.int64))
    with pytest.raises(InputError, match=r"ONNX Runtime cannot run .*model\.onnx"):
        onnx_answers(exported[2].path, torch.zeros(1, 6))


def test_the_extra_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, which: str) -> None:
        raise MissingExtraError(f"This needs '{name}': pip install 'secateurs[{which}]'")

    monkeypatch.setattr(exporting, "extra", missing)
    for call in (
        lambda: export_onnx(nn.Linear(2, 2), torch.zeros(2, 2), tmp_path / "a.onnx"),
        lambda: quantize_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx"),
        lambda: onnx_answers(tmp_path / "a.onnx", torch.zeros(2, 2)),
    ):
        with pytest.raises(MissingExtraError, match=r"secateurs\[onnx\]"):
            call()


class Several(nn.Module):
    """One input, and more answers than the first."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, x.sum(1)


@pytest.mark.usefixtures("_has_onnx")
def test_of_several_answers_the_first_is_exported(tmp_path: Path) -> None:
    """Bug: a TypeError, where the network was given a tensor."""
    x = torch.arange(12.0).reshape(3, 4)
    found = export_onnx(Several(), x, tmp_path / "model.onnx")
    assert (found.max_difference, found.n) == (0.0, 3)
    assert onnx_answers(found.path, x).tolist() == (2 * x).tolist()
