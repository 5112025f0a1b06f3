"""A live network as a checkpoint: the same entries and reasons as its layers, and as its own file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from secateurs.checkpoint.live import BUFFER
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.prunable import entry_reasons
from secateurs.errors import InputError
from secateurs.layers import layers


class Conv1D(nn.Module):
    """As transformers.pytorch_utils.Conv1D stores its weight: (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))


class Network(nn.Module):
    """A little of everything that GPT-2 has."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.wpe = nn.Embedding(3, 4)
        self.attn = nn.ModuleDict({"c_attn": Conv1D(12, 4), "c_proj": Conv1D(4, 4)})
        self.norm = nn.BatchNorm1d(4)
        self.up = nn.ConvTranspose1d(4, 6, 3)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("scratch", torch.zeros(2, 2), persistent=False)


def test_the_entries_are_the_layers_and_their_reasons() -> None:
    module = Network()
    for skip, only in (((), ()), (("attn.*",), ()), ((), ("head*", "up.weight")), ((), ("*",))):
        expected = {layer.name: layer.reason for layer in layers(module, skip, only)}
        with open_checkpoint(module) as checkpoint:
            parameters = [each for each in checkpoint.entries if each.unfit != BUFFER]
            found = dict(zip([e.name for e in parameters], entry_reasons(parameters, skip, only), strict=True))
        assert found == expected
    assert {each.name for each in checkpoint.entries if each.unfit == BUFFER} == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }
    assert checkpoint.entries[0].aliases == ("head.weight",)
    assert [each.name for each in checkpoint.entries if each.is_turned] == [
        "attn.c_attn.weight",
        "attn.c_proj.weight",
        "up.weight",
    ]


def test_the_bits_are_those_of_the_network_without_a_copy() -> None:
    module = Network()
    checkpoint = open_checkpoint(module)
    assert (checkpoint.path, checkpoint.source, checkpoint.files) == (None, "module", ())
    state = module.state_dict()
    for entry in checkpoint.entries:
        bits = checkpoint.stored(entry)
        assert bits.tobytes() == state[entry.name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert bits.ctypes.data == state[entry.name].data_ptr()
        assert not bits.flags.writeable


def test_a_network_and_its_own_file_agree(tmp_path: Path) -> None:
    module = Network()
    module.turned = nn.Parameter(torch.randn(4, 6).t())
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items() if name != "head.weight"}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    live, file = open_checkpoint(module), open_checkpoint(tmp_path)
    in_file = {each.name: each for each in file.entries}
    for entry in live.entries:
        other = in_file.pop(entry.name)
        assert (entry.dtype, entry.shape) == (other.dtype, other.shape)
        assert entry.name == "up.weight" or entry.is_turned == other.is_turned, "no file says what is transposed"
        assert live.stored(entry).tobytes() == file.stored(other).tobytes()
    assert not in_file


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["GPT2LMHead", "OpenAIGPTLMHead", "GPTBigCodeForCausalLM"])
def test_networks_of_transformers_and_their_own_files_agree(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    name = kind.replace("ForCausalLM", "").replace("LMHead", "")
    config = getattr(transformers, f"{name}Config")(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=20)
    module = getattr(transformers, kind if "For" in kind else f"{kind}Model")(config)
    module.save_pretrained(tmp_path)
    live, file = open_checkpoint(module), open_checkpoint(tmp_path)
    entries = [each for each in live.entries if each.unfit != BUFFER]
    found = {each.name: (each.shape, each.is_turned) for each in file.entries}
    assert {each.name: (each.shape, each.is_turned) for each in entries} == found
    # The file keeps one name of a tied tensor, so it cannot say that it is tied.
    reasons = [reason.removesuffix(" (tied)") for reason in entry_reasons(entries)]
    in_file = dict(zip(found, entry_reasons(file.entries), strict=True))
    assert reasons == [in_file[each.name] for each in entries]
    assert any(each.is_turned for each in entries) == ("BigCode" not in kind)


def test_what_has_no_values_says_so_by_name() -> None:
    module = nn.Module()
    module.meta = nn.Parameter(torch.empty(2, 2, device="meta"))
    module.sparse = nn.Parameter(torch.eye(2).to_sparse(), requires_grad=False)
    module.lazy = nn.LazyLinear(3)
    module.expanded = nn.Parameter(torch.ones(2).expand(3, 2))
    module.register_buffer("ahead", torch.empty(2, device="meta"))
    checkpoint = open_checkpoint(module)
    found = {each.name: each for each in checkpoint.entries}
    assert found["lazy.weight"].n == 0
    for name, match in (("meta", "meta device"), ("sparse", "not a strided"), ("lazy.weight", "no values yet")):
        with pytest.raises(InputError, match=f"'{name}' of this network cannot be read: .*{match}"):
            checkpoint.stored(found[name])
    with pytest.raises(InputError, match="meta device"):
        checkpoint.stored(found["ahead"])
    assert checkpoint.stored(found["expanded"]).size == 6


def test_every_dtype_and_a_network_of_nothing() -> None:
    module = nn.Module()
    assert open_checkpoint(module).entries == ()
    dtypes = "float64 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 uint8 bool complex64 complex128"
    for name in dtypes.split():
        module.register_buffer(f"of_{name}", torch.ones(3, 2).to(getattr(torch, name)))
    checkpoint = open_checkpoint(module)
    for entry in checkpoint.entries:
        assert checkpoint.stored(entry).nbytes == entry.n_bytes == 6 * getattr(module, entry.name).itemsize


def test_wrappers_change_no_name() -> None:
    module = Network()
    wrapped = nn.DataParallel(torch.compile(module, backend="eager"))
    assert open_checkpoint(wrapped).entries == open_checkpoint(module).entries
