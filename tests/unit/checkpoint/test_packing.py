"""Packing: every bit back, the same bytes whoever writes, and a file that no damage, bomb or stock loader gets past."""

import hashlib
import json
import math
import os
import runpy
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
import torch
from checkpoint_files import header_file
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file
from torch import nn

import secateurs as sc
from secateurs.checkpoint import packed_file, packed_index, packing
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.packed_index import FORMAT, INDEX, N_HEADER, STREAMS, checked, header_bytes
from secateurs.checkpoint.packing import load, pack, unpack
from secateurs.checkpoint.verifying import verify
from secateurs.errors import InputError, MissingExtraError, OutputError, RecipeError
from secateurs.exact.kinds import KINDS
from secateurs.formats import pieces
from secateurs.formats import values as formats_values
from secateurs.formats.streams import number

mutations = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "packed.py"))["mutations"]
BIG, FAST_S, SMALL_BYTES = 10**15, 1.0, 256e6


def pruned(*shape, sparsity=0.8, dtype=torch.float32):
    """Normal weights of which the smallest are zero."""
    weight = torch.randn(shape) * 0.05
    return torch.where(weight.abs() > weight.abs().quantile(sparsity), weight, 0.0).to(dtype)


def network():
    """Tensors of every dtype and of odd shapes."""
    torch.manual_seed(1)
    return {
        "a.weight": pruned(40, 50),
        "a.bias": torch.randn(40),
        "conv.weight": pruned(8, 4, 3, 3),
        "half": pruned(16, 16, dtype=torch.float16),
        "brain": pruned(16, 16, dtype=torch.bfloat16),
        "double": pruned(7, 9, dtype=torch.float64),
        "eight": pruned(16, 16).to(torch.float8_e4m3fn),
        "eight.wide": pruned(16, 16).to(torch.float8_e5m2),
        "odd": torch.tensor([float("nan"), -0.0, 0.0, float("inf"), 1e-45]),
        "payload": torch.tensor([0x7FC12345, -0x7FFFFF, 1], dtype=torch.int32).view(torch.float32),
        "signed zeros": torch.randn(30, 30) * (torch.rand(30, 30) < 0.2),
        "ids": torch.arange(100),
        "bools": torch.rand(33) < 0.5,
        "complex": torch.randn(5, dtype=torch.complex64),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "empty": torch.zeros(3, 0, 2),
        "none": torch.zeros(50, 60),
        "scalar": torch.tensor(3.5),
    }


def assert_same(found, expected):
    """The same names, dtypes, shapes and bits."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        other = found[name]
        assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape), name
        assert bits_of(other) == bits_of(tensor), name


def bits_of(tensor):
    """Its bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.fixture
def source(tmp_path):
    """A plain checkpoint."""
    save_file(network(), tmp_path / "model.safetensors", {"format": "pt", "note": "näh"})
    return tmp_path / "model.safetensors"


@pytest.fixture
def packed(source):
    """The packed file of it."""
    path = source.with_name("small.packed.safetensors")
    pack(source, path)
    return path


def forged(packed, change):
    """The file with its index changed and its checksums made good again, as an attacker would."""
    with safe_open(packed, "numpy") as file:
        streams, index = file.get_tensor(STREAMS), file.get_tensor(INDEX)
    streams, rest = change(streams.tobytes(), index.tobytes()[8:])
    header = header_bytes(len(streams), 8 + len(rest))
    packed.write_bytes(header + streams + checked(header, rest))
    return packed


def index_with(*records, features=b"\x00", total=0, n=None):
    """The bytes of an index of these records."""
    n_records = len(records) if n is None else n
    return features + b"\x00" + number(total) + number(n_records) + b"".join(records)


def record(name=b"w", dtype="F32", shape=(4,), values=b"\x00", parts=(), n_same=0):
    """The bytes of one record; parts: (size, crc, dense crc)."""
    found = number(n_same) + number(len(name)) + name + b"\x00" + bytes([packed_index.DTYPE_NAMES.index(dtype)])
    found += number(len(shape)) + b"".join(map(number, shape)) + values
    return found + b"".join(number(s) + a.to_bytes(4, "little") + b.to_bytes(4, "little") for s, a, b in parts)


class TestRoundTrip:
    def test_every_bit_comes_back(self, packed, source):
        assert_same(load(packed), network())
        assert verify(packed).is_ok
        unpack(packed, source.with_name("again.safetensors"))
        assert_same(load_file(source.with_name("again.safetensors")), network())
        with safe_open(source.with_name("again.safetensors"), "pt") as file:
            assert file.metadata() == {"format": "pt", "note": "näh"}

    def test_one_tensor_at_a_time(self, packed):
        assert_same(load(packed, ["odd"]), {"odd": network()["odd"]})
        with pytest.raises(InputError, match=r"no tensor 'od'. Did you mean 'odd'"):
            load(packed, ["od"])

    def test_load_takes_any_source(self, source):
        assert_same(load(source), network())

    def test_tied_tensors_are_stored_once_and_stay_tied(self, tmp_path):
        module = nn.Sequential(nn.Linear(30, 30, bias=False), nn.Linear(30, 30, bias=False))
        module[1].weight = module[0].weight
        pack(module, tmp_path / "a.packed.safetensors")
        found = load(tmp_path / "a.packed.safetensors")
        assert found["0.weight"].data_ptr() == found["1.weight"].data_ptr()
        other = nn.Sequential(nn.Linear(30, 30, bias=False), nn.Linear(30, 30, bias=False))
        other.load_state_dict(found)
        assert torch.equal(other[1].weight, module[0].weight)

    @pytest.mark.parametrize("shape", [(1100, 1100), (1_300_000,), (2, 1_200_000), (3, 400_000)])
    @pytest.mark.parametrize("values", ["exact", "int4/64", "codebook:3"])
    def test_tensors_of_many_pieces(self, tmp_path, shape, values):
        weight = torch.randn(shape).where(torch.rand(shape) < 0.1, 0.0)
        save_file({"w": weight}, tmp_path / "a.safetensors")
        pack(tmp_path / "a.safetensors", tmp_path / "a.packed.safetensors", {"w": values})
        with open_checkpoint(tmp_path / "a.packed.safetensors") as checkpoint:
            assert len(checkpoint.records["w"].pieces) > 1
        found = load(tmp_path / "a.packed.safetensors")["w"]
        assert verify(tmp_path / "a.packed.safetensors").is_ok
        assert not found[weight == 0].any()
        assert torch.equal(found, weight) if values == "exact" else (found - weight).abs().max() < weight.abs().max()

    def test_the_same_bytes_whatever_the_threads(self, source, monkeypatch):
        written = []
        for threads in ("1", "3"):
            monkeypatch.setenv("SECATEURS_THREADS", threads)
            pack(source, source.with_name("a.packed.safetensors"), "codebook:4")
            written.append(source.with_name("a.packed.safetensors").read_bytes())
        assert written[0] == written[1]

    def test_it_is_a_checkpoint_like_any_other(self, packed, source, tmp_path):
        from secateurs.checkpoint.difference import diff
        from secateurs.checkpoint.streamed import prune_checkpoint
        from secateurs.recipe import Recipe

        assert diff(source, packed).is_same
        finite = {name: tensor for name, tensor in network().items() if name not in ("odd", "payload", "none")}
        save_file(finite, tmp_path / "b.safetensors")
        pack(tmp_path / "b.safetensors", tmp_path / "b.packed.safetensors")
        manifest = prune_checkpoint(tmp_path / "b.packed.safetensors", Recipe(budget="sparsity(0.9)"), tmp_path / "out")
        assert any(layer["status"] == "pruned" for layer in manifest["layers"])
        assert verify(tmp_path / "out").is_ok

    def test_a_directory_of_a_packed_file_alone_is_opened(self, packed, source):
        (source.parent / "alone").mkdir()
        packed.rename(source.parent / "alone" / packed.name)
        assert_same(load(source.parent / "alone"), network())

    def test_beside_plain_weights_the_plain_ones_are_meant(self, packed, source):
        with open_checkpoint(source.parent) as checkpoint:
            assert checkpoint.source == "safetensors"


class TestLossy:
    def test_only_what_could_be_pruned_is_lossy_unless_named(self, source):
        out = source.with_name("a.packed.safetensors")
        receipt = pack(source, out, {"": "codebook:5", "*.bias": "int8", "conv*": "exact", "scalar": "int4"})
        values = {line.name: line.values for line in receipt.lines}
        assert (values["a.weight"], values["a.bias"], values["conv.weight"]) == ("codebook:5", "int8", "exact")
        assert (values["eight"], values["ids"], values["odd"], values["scalar"]) == ("exact", "exact", "exact", "int4")
        found, before = load(out), network()
        for line in receipt.lines:
            if line.values != "exact":
                error = (found[line.name].double() - before[line.name].double()).abs()
                assert line.worst == pytest.approx(float(error.max()))
                assert not found[line.name][before[line.name] == 0].any()
        assert_same(
            {name: found[name] for name in ("conv.weight", "odd")}, {n: before[n] for n in ("conv.weight", "odd")}
        )

    def test_nan_needs_exact_values(self, source):
        with pytest.raises(InputError, match="'odd' holds 2 NaN or infinite"):
            pack(source, source.with_name("a.packed.safetensors"), {"odd": "int8"})
        assert not source.with_name("a.packed.safetensors").exists()

    @pytest.mark.parametrize(("values", "words"), [({"x*": "int8"}, "'x\\*'"), ({"": "int9"}, "int9"), ("", "got ''")])
    def test_what_means_nothing_is_refused(self, source, values, words):
        with pytest.raises(RecipeError, match=words):
            pack(source, source.with_name("a.packed.safetensors"), values)

    def test_a_layer_that_shares_few_weights_comes_back_bit_for_bit(self, tmp_path, monkeypatch):
        """Trained with a codebook; also the one weight that a sample would miss."""
        monkeypatch.setattr(formats_values, "N_FIT", 100)
        weight = torch.randn(7)[torch.randint(7, (300, 300))].where(torch.rand(300, 300) < 0.2, 0.0)
        weight[150, 151] = 1.2345
        save_file({"w": weight, "x": torch.randn(50, 50)}, tmp_path / "a.safetensors")
        receipt = pack(tmp_path / "a.safetensors", tmp_path / "a.packed.safetensors", "codebook:3")
        found = load(tmp_path / "a.packed.safetensors")
        assert bits_of(found["w"]) == bits_of(weight)
        assert {line.name: line.worst > 0 for line in receipt.lines} == {"w": False, "x": True}

    def test_more_bits_are_nearer(self, tmp_path):
        save_file({"w": torch.randn(100, 100)}, tmp_path / "a.safetensors")
        means = [
            pack(tmp_path / "a.safetensors", tmp_path / "a.packed.safetensors", values).lines[0].mean
            for values in ("codebook:2", "codebook:3", "int4", "int4/16", "codebook:5", "int8", "exact")
        ]
        assert means == sorted(means, reverse=True)
        assert means[-1] == 0


class TestReceipt:
    def test_all_bytes_are_accounted_for(self, source, packed):
        receipt = pack(source, packed, "int8", zstd=3)
        parts = [receipt.total(f"{what}_bytes") for what in ("position", "value", "table")]
        assert sum(parts) + receipt.header_bytes == receipt.size_bytes == packed.stat().st_size
        assert receipt.total("dense_bytes") == sum(t.nbytes for t in network().values())
        json.dumps(receipt.values(), allow_nan=False)

    def test_the_header_is_small(self, tmp_path):
        names = [f"model.layers.{i}.{part}.weight" for i in range(40) for part in ("mlp.down_proj", "attn.q_proj")]
        save_file({name: pruned(20, 30) for name in names}, tmp_path / "a.safetensors")
        receipt = pack(tmp_path / "a.safetensors", tmp_path / "a.packed.safetensors", "int8")
        assert receipt.header_bytes <= 512 + 64 * len(names)

    def test_a_large_tensor_takes_a_little_more_header_for_every_million_weights(self, tmp_path):
        save_file({"w": torch.zeros(5_000_000)}, tmp_path / "a.safetensors")
        receipt = pack(tmp_path / "a.safetensors", tmp_path / "a.packed.safetensors")
        assert receipt.header_bytes <= 512 + 64 + 4 * 12

    @pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_lossless_is_within_three_percent_of_the_bound(self, tmp_path, sparsity, dtype):
        save_file({"w": pruned(1000, 1500, sparsity=sparsity, dtype=dtype)}, tmp_path / "a.safetensors")
        receipt = pack(tmp_path / "a.safetensors", tmp_path / "a.packed.safetensors", zstd=3)
        assert receipt.size_bytes <= 1.03 * receipt.bound
        assert receipt.zstd > 1.1 * receipt.size_bytes

    def test_bytes_by_hand(self, tmp_path):
        """Four weights of sixteen: 16 H(1/4) bits of positions, equal exponents cost nothing, 4 x 24 raw bits."""
        weight = torch.zeros(4, 4)
        weight[0] = 1.0
        save_file({"w": weight}, tmp_path / "a.safetensors")
        line = pack(tmp_path / "a.safetensors", tmp_path / "a.packed.safetensors").lines[0]
        entropy = -16 * (0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
        assert line.bound == pytest.approx((entropy + 4 * 24) / 8)
        assert (line.n_stored, line.dense_bytes, line.csr) == (4, 64, 4 * 8 + 4 * 5)

    def test_an_unknown_level_of_zstd(self, source, packed):
        with pytest.raises(RecipeError, match="got 99"):
            pack(source, packed, zstd=99)

    def test_without_the_extra_it_says_which(self, source, packed, monkeypatch):
        def missing(name):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr(packing, "import_module", missing)
        monkeypatch.setattr("secateurs.checks.importlib.import_module", missing)
        with pytest.raises(MissingExtraError, match=r"secateurs\[pack\]"):
            pack(source, packed, zstd=3)


class TestNames:
    @pytest.mark.parametrize("name", ["model.safetensors", "a.packed", ".packed.safetensors"])
    def test_a_packed_file_is_never_named_like_a_plain_one(self, source, name):
        with pytest.raises(OutputError, match="packed file is named"):
            pack(source, source.with_name(name))

    def test_nor_a_plain_one_like_a_packed_one(self, packed):
        with pytest.raises(OutputError, match="plain weights are named"):
            unpack(packed, packed.with_name("other.packed.safetensors"))

    def test_the_source_is_never_written(self, packed):
        with pytest.raises(OutputError, match="inputs are never modified"):
            pack(packed, packed)

    def test_only_packed_files_are_unpacked(self, source):
        with pytest.raises(InputError, match="not a packed file"):
            unpack(source, source.with_name("b.safetensors"))

    def test_what_fails_leaves_nothing(self, source, monkeypatch):
        monkeypatch.setattr(packing, "_encoded", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack(source, source.with_name("a.packed.safetensors"))
        assert sorted(path.name for path in source.parent.iterdir()) == ["model.safetensors"]

    def test_a_source_that_is_written_to_meanwhile_is_noticed(self, source, monkeypatch):
        def meanwhile(*task):
            os.utime(source, ns=(1, 1))
            return encoded(*task)

        encoded = packing._encoded
        monkeypatch.setattr(packing, "_encoded", meanwhile)
        with pytest.raises(InputError, match="was written to while it was read"):
            pack(source, source.with_name("a.packed.safetensors"))
        assert [path.name for path in source.parent.iterdir()] == ["model.safetensors"]

    def test_a_directory_is_refused_before_anything_is_read(self, source, packed, monkeypatch):
        monkeypatch.setattr(packing._Writing, "run", lambda *_: pytest.fail("the work began"))
        monkeypatch.setattr(packed_file.PackedCheckpoint, "parts", lambda *_: pytest.fail("the work began"))
        for call, of, name in ((pack, source, "d.packed.safetensors"), (unpack, packed, "d.safetensors")):
            source.with_name(name).mkdir()
            with pytest.raises(OutputError, match="it is a directory"):
                call(of, source.with_name(name))

    def test_a_killed_run_leaves_nothing_once_it_is_run_again(self, source):
        out = source.with_name("a.packed.safetensors")
        kill = "import os; packing._Writing._write = lambda *_: os.kill(os.getpid(), 9)"
        code = f"from secateurs.checkpoint import packing; {kill}; packing.pack({str(source)!r}, {str(out)!r})"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
        assert len([path.name for path in source.parent.iterdir() if path.suffix == ".tmp"]) == 1
        pack(source, out)
        assert {path.name for path in source.parent.iterdir()} == {source.name, out.name}


class TestWhatNoReaderTakes:
    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ({"n" * 4097: torch.ones(2, 2)}, "has a name of 4,097 bytes"),
            (dict.fromkeys(map(str, range(4098)), torch.ones(2, 2)), "and 4,097 other names"),
            ({f"{'n' * 4000}{i}": torch.ones(1) for i in range(200)}, "repeat each other too much"),
            ({"odd\ud800": torch.ones(2, 2)}, "is a name that is no text"),
            ({"w": torch.ones(2, 2, dtype=torch.complex128)}, "is C128, which safetensors does not have"),
            ({"__metadata__": torch.ones(2, 2)}, "a name that safetensors keeps for itself"),
            ({"w": torch.eye(3).to_sparse()}, "cannot be read: not a strided tensor"),
        ],
        ids=["a long name", "many aliases", "names alike", "a surrogate", "complex128", "metadata", "sparse"],
    )
    def test_it_is_refused_before_anything_is_written(self, value, words, tmp_path, monkeypatch):
        monkeypatch.setattr(packing, "replacing", lambda *_: pytest.fail("the work began"))
        torch.save({"a": torch.ones(3, 3), **value}, tmp_path / "a.pt")
        with pytest.raises(InputError, match=words):
            pack(tmp_path / "a.pt", tmp_path / "a.packed.safetensors")

    def test_an_index_that_is_too_large(self, source, monkeypatch):
        monkeypatch.setattr(packing, "MAX_INDEX", 100)
        with pytest.raises(InputError, match="take more than the 100 bytes"):
            pack(source, source.with_name("a.packed.safetensors"))

    def test_what_is_just_allowed_comes_back(self, tmp_path):
        names = ["n" * 4096, *(f"{'m' * 600}{i}" for i in range(40))]
        torch.save({name: torch.ones(2, 2) for name in names}, tmp_path / "a.pt")
        pack(tmp_path / "a.pt", tmp_path / "a.packed.safetensors")
        assert [*load(tmp_path / "a.packed.safetensors")] == names

    @pytest.mark.parametrize(
        ("dtype", "largest", "values"),
        [(torch.float16, 65504.0, "int8"), (torch.float16, 65504.0, "int4/2"), (torch.float32, 3.402e38, "int4/2")],
    )
    def test_weights_whose_multiples_would_be_infinite(self, dtype, largest, values, tmp_path):
        module = nn.Linear(4, 2, bias=False).to(dtype)
        module.weight.data[1, 3] = largest
        for call in (sc.quantize, lambda each, values: pack(each, tmp_path / "a.packed.safetensors", values)):
            with pytest.raises(InputError, match="'weight': The weights are too large for a scale"):
                call(module, values)
        assert not list(tmp_path.iterdir())
        module.weight.data[1, 3] = 60000.0
        pack(module, tmp_path / "a.packed.safetensors", values)
        assert load(tmp_path / "a.packed.safetensors")["weight"].isfinite().all()


class TestStockLoaders:
    def test_they_see_two_tensors_of_bytes_and_no_weight(self, packed):
        found = load_file(packed)
        assert {name: tensor.dtype for name, tensor in found.items()} == {STREAMS: torch.uint8, INDEX: torch.uint8}
        with safe_open(packed, "pt") as file:
            assert file.metadata()["format"] == FORMAT

    def test_they_raise_instead_of_random_weights(self, packed):
        module = nn.Sequential(nn.Linear(50, 40))
        with pytest.raises(RuntimeError, match="Missing key"):
            module.load_state_dict(load_file(packed))
        with pytest.raises(RuntimeError, match="Missing key"):
            load_model(module, packed)


class TestDamage:
    @pytest.mark.parametrize("n", [800, pytest.param(10_000, marks=pytest.mark.slow)])
    def test_no_change_goes_unseen(self, packed, tmp_path, n):
        path = tmp_path / "mutant.packed.safetensors"
        data = packed.read_bytes()
        n_open = 0
        for _, changed in mutations(data, n):
            path.write_bytes(changed)
            with pytest.raises(InputError) as refused:
                load(path)
            n_open += "were changed" in str(refused.value)
        assert n_open > n / 10

    def test_every_byte_of_the_file_matters(self, tmp_path):
        save_file({"w": pruned(6, 7)}, tmp_path / "a.safetensors")
        path = tmp_path / "a.packed.safetensors"
        pack(tmp_path / "a.safetensors", path, "codebook:2")
        data = path.read_bytes()
        for i in range(len(data)):
            path.write_bytes(data[:i] + bytes([data[i] ^ 0x20]) + data[i + 1 :])
            with pytest.raises(InputError):
                load(path)

    def test_verify_names_the_tensor(self, packed):
        with open_checkpoint(packed) as checkpoint:
            part = checkpoint.records["a.weight"].pieces[0]
        data = bytearray(packed.read_bytes())
        data[N_HEADER + part.start + part.size // 2] ^= 1
        packed.write_bytes(data)
        found = verify(packed)
        assert [problem.layer for problem in found.problems] == ["a.weight"]
        assert found.n_layers == sum(t.is_floating_point() for t in network().values()) - 1
        with pytest.raises(InputError, match=r"'a.weight'.* were changed"):
            load(packed)
        assert load(packed, ["a.bias"])["a.bias"].shape == (40,)

    def test_verify_sees_a_decoder_that_errs(self, packed, monkeypatch):
        def wrong(piece, data, codebook, out):
            pieces.decode(piece, data, codebook, out)
            out[:1] ^= out.dtype.type(1)

        monkeypatch.setattr(packed_file, "decode", wrong)
        assert "second checksum" in verify(packed).problems[0].what


class TestNewer:
    def test_a_newer_format_is_refused_clearly(self, packed):
        data = packed.read_bytes().replace(b"secateurs.packed/1", b"secateurs.packed/2")
        packed.write_bytes(data)
        with pytest.raises(InputError, match=r"format 'secateurs.packed/2'.*Update secateurs"):
            load(packed)

    def test_an_unknown_required_feature_is_refused_clearly(self, packed):
        feature = b"\x01" + number(len(b"brotli")) + b"brotli"
        forged(packed, lambda streams, rest: (streams, feature + rest[1:]))
        with pytest.raises(InputError, match=r"newer version: it needs 'brotli'.*Update secateurs"):
            load(packed)


def a_piece(data):
    return [(len(data), zlib.crc32(data), 0)]


BOMBS = {
    "a shape beyond all memory": lambda s: (s, index_with(record(shape=(2**31, 2**31)), total=2**64)),
    "a shape beyond the file": lambda s: (s, index_with(record(shape=(10**7, 10**6)), total=4 * 10**13)),
    "more dense bytes than a file of this size may mean": lambda s: (
        s,
        index_with(record(shape=(1 << 20, 100), parts=[(0, 0, 0)] * 105), total=400 << 20),
    ),
    "a total that is not the sum": lambda s: (s, index_with(total=1000)),
    "a billion tensors": lambda s: (s, index_with(n=10**9)),
    "a billion features": lambda s: (s, index_with(features=number(10**9))),
    "a billion dimensions": lambda s: (s, index_with(b"\x00\x01w\x00\x11" + number(10**9))),
    "a name longer than the index": lambda s: (s, index_with(b"\x00" + number(10**9))),
    "names that repeat the one before": lambda s: (
        s,
        index_with(record(b"n" * 4000), *[record(bytes([65 + i % 26]), shape=(0,), n_same=4000) for i in range(9000)]),
    ),
    "a part beyond the file": lambda s: (s, index_with(record(parts=[(BIG, 0, 0)]), total=16)),
    "a group beyond all memory": lambda s: (
        bytes([0, 0, 1, 1, 1, 1, 1]),
        index_with(
            record(values=b"\x01\x08" + number(2**32), shape=(1, 4), parts=a_piece(bytes([0, 0, 1, 1, 1, 1, 1]))),
            total=16,
        ),
    ),
    "a scale that is no number": lambda s: (
        bytes([0, 0, 0xFF, 0, 0xFF, 0, 1, 1, 1, 1]),
        index_with(
            record(values=b"\x01\x08\x00", shape=(1, 4), parts=a_piece(bytes([0, 0, 0xFF, 0, 0xFF, 0, 1, 1, 1, 1]))),
            total=16,
        ),
    ),
    "a codebook that is not there": lambda s: (
        s,
        index_with(record(values=b"\x02\x08", parts=[(0, 0, 0)] * 2), total=16),
    ),
    "a codebook of 2**200": lambda s: (s, index_with(record(values=b"\x02\xc8", parts=[(0, 0, 0)] * 2), total=16)),
    "lossy whole numbers": lambda s: (s, index_with(record(dtype="I64", values=b"\x01\x08\x00"), total=32)),
    "an unknown dtype": lambda s: (s, index_with(b"\x00\x01w\x00\xff\x00\x00")),
    "unknown values": lambda s: (s, index_with(record(values=b"\x07"), total=16)),
    "one name twice": lambda s: (s, index_with(record(shape=(0,)), record(shape=(0,)))),
    "a name that is no text": lambda s: (s, index_with(record(b"\xff", shape=(0,)))),
    "bytes after the end": lambda s: (s, index_with() + b"\x00"),
    "an empty index": lambda s: (s, b""),
}
STREAM_BOMBS = {
    "no bytes": b"",
    "unknown positions": b"\x7f",
    "a bitmask beyond its weights": b"\x01\x00" + b"\xff" * 32 + b"\xff",
    "a plane of a length beyond the file": b"\x01\x01" + number(BIG),
    "a plane of an unknown coder": b"\x01\x09\x01\x00",
    "rANS without a table": b"\x01\x01\x02\x0f\x00",
    "more gaps than weights": b"\x02" + number(BIG),
    "a gap beyond the weights": b"\x02\x01\x00\xff\x00\xff",
    "gaps of nothing but steps": b"\x02\x01\x00\x00\x00\x00",
    "n:m that does not fit": b"\x03\x02\x07\x01",
    "0:0": b"\x03\x00\x00\x01",
    "groups of 200": b"\x03\x02\xc8\x01",
    "a choice that is none": b"\x03\x02\x04\x01\x00" + b"\xff" * 64,
    "blocks larger than the weight": b"\x04" + number(10**6) + number(10**6),
    "blocks of nothing": b"\x04\x00\x00",
    "rows within rows": b"\x05\x00\xff\xff\x00\xff\xff\x05",
    "a model longer than the file": b"\x06" + number(BIG),
    "a model of rows without columns": b"\x05\x00\xff\xff\x00\x00\x00\x06\x04\x00\x00\x00\x00",
    "minus zeros twice": b"\x81\x00" + b"\x00" * 32 + b"\x00",
    "a number without end": b"\x02" + b"\xff" * 30,
    "values that are not there": b"\x00\x00",
    "too many values": b"\x00" + b"\x00" * 1029,
}


class TestBombs:
    """Refused in less than a second and in less than 256 MB, behind checksums that are right."""

    def assert_refused(self, path):
        tracemalloc.start()
        begin = time.perf_counter()
        with pytest.raises(InputError, match=r"damaged|newer"):
            load(path)
        seconds, peak = time.perf_counter() - begin, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds < FAST_S
        assert peak < SMALL_BYTES

    @pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
    def test_indexes(self, packed, bomb):
        load(packed)  # so that what is measured is no compiling
        self.assert_refused(forged(packed, lambda streams, rest: bomb(streams)))

    @pytest.mark.parametrize("data", STREAM_BOMBS.values(), ids=STREAM_BOMBS)
    def test_streams(self, packed, data):
        load(packed)
        rest = index_with(record(shape=(16, 16), parts=a_piece(data)), total=1024)
        self.assert_refused(forged(packed, lambda *_: (data, rest)))

    def test_a_plain_safetensors_file_that_says_it_is_packed(self, tmp_path):
        for tensors in ({}, {STREAMS: 0}, {"w": 0}, {STREAMS: 0, INDEX: 0, "w": 0}):
            about = {name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for name in tensors}
            (tmp_path / "a.safetensors").write_bytes(header_file({"__metadata__": {"format": FORMAT}, **about}))
            with pytest.raises(InputError, match="damaged"):
                load(tmp_path / "a.safetensors")

    def test_what_shrinks_to_nothing_is_still_written_and_read(self, tmp_path, monkeypatch):
        """The writer fills up what the reader would take for a bomb."""
        monkeypatch.setattr(packed_index, "FREE_BYTES", 1000)
        monkeypatch.setattr(packing, "FREE_BYTES", 1000)
        monkeypatch.setattr(packed_index, "MOST_RATIO", 16)
        monkeypatch.setattr(packing, "MOST_RATIO", 16)
        save_file({"w": torch.zeros(300, 300)}, tmp_path / "a.safetensors")
        receipt = pack(tmp_path / "a.safetensors", tmp_path / "a.packed.safetensors")
        assert 16 * receipt.size_bytes >= 360_000 - 1000 >= 15 * receipt.size_bytes
        assert not load(tmp_path / "a.packed.safetensors")["w"].any()


def test_packing_files_does_not_load_torch(source):
    code = (
        "import sys\nfrom secateurs.checkpoint.packing import pack, unpack\n"
        "from secateurs.checkpoint.verifying import verify\n"
        f"pack({str(source)!r}, {str(source.with_name('a.packed.safetensors'))!r})\n"
        f"assert verify({str(source.with_name('a.packed.safetensors'))!r}).is_ok\n"
        f"unpack({str(source.with_name('a.packed.safetensors'))!r}, {str(source.with_name('b.safetensors'))!r})\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_dtype_of_the_index_is_known():
    from secateurs.checkpoint.dtypes import BITS

    assert set(packed_index.DTYPE_NAMES) == set(BITS)
    assert set(packed_index.LOSSY) < set(KINDS)


GOLDEN = sorted(Path(__file__).parents[2].joinpath("golden/packed").glob("*.json"))


@pytest.mark.parametrize("sums", GOLDEN, ids=lambda path: path.stem)
def test_golden_files_are_read_for_ever(sums):
    """Files that some version wrote (tests/golden/make_packed.py), and the bytes that were in them."""
    path = sums.with_name(f"{sums.stem}.packed.safetensors")
    found = {name: hashlib.sha256(bits_of(tensor)).hexdigest() for name, tensor in load(path).items()}
    assert found == json.loads(sums.read_text("utf-8"))
    assert verify(path).is_ok


@pytest.mark.parametrize("sums", GOLDEN, ids=lambda path: path.stem)
def test_the_description_alone_is_enough_to_read_them(sums):
    """The reader that was written from docs/packed-files.md finds the same bytes."""
    reader = runpy.run_path(str(sums.parents[1] / "reader.py"))
    found = reader["tensors"](sums.with_name(f"{sums.stem}.packed.safetensors"))
    expected = json.loads(sums.read_text("utf-8"))
    assert {name: hashlib.sha256(dense).hexdigest() for name, dense in found.items()} == expected


def test_golden_files_have_every_kind_of_positions_and_values():
    positions, values = set(), set()
    for sums in GOLDEN:
        path = sums.with_name(f"{sums.stem}.packed.safetensors")
        data = path.read_bytes()
        with open_checkpoint(path) as checkpoint:
            for record in checkpoint.records.values():
                values.add(record.values.name)
                positions |= {data[N_HEADER + part.start] for part in record.pieces}
    assert {first & 0x7F for first in positions} == set(range(len(pieces.POSITIONS)))
    assert any(first & pieces.MINUS for first in positions)
    assert values == {"exact", "int", "codebook"}
