"""Packed files: how small real pruned networks become, what that costs a task, and that no damaged byte passes.

    python benchmarks/packed.py sizes --path DIR ...          real checkpoints at 50, 70 and 90 %, by dtype and values
    python benchmarks/packed.py normal                        100M normal weights, against zstd and CSR
    python benchmarks/packed.py minilm --path DIR --data DIR  MiniLM with its embeddings, and what BANKING77 says of it
    python benchmarks/packed.py mutants                       10,000 changed files

DIR holds model.safetensors (minilm: a directory that transformers loads); --data is that of banking77 with its
train.parquet and test.parquet. Sizes do not depend on what else the machine does. Each part replaces its own key of the
result.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import secateurs as sc
from secateurs.checkpoint.receipt import Receipt
from secateurs.durable import write_json
from secateurs.errors import InputError

SPARSITIES = (0.5, 0.7, 0.9)
LOSSY = ("int8", "int4", "codebook:5")
ZSTD, ZSTD_MOST = 9, 19


def say(text: str) -> None:
    """A line about where we are."""
    print(text, file=sys.stderr, flush=True)


def summary(receipt: Receipt, pruned: set[str] | None = None) -> dict[str, Any]:
    """What a receipt says of the whole file, and of the pruned tensors alone."""
    found = {
        "size_bytes": receipt.size_bytes,
        "header_bytes": receipt.header_bytes,
        "dense_bytes": receipt.total("dense_bytes"),
        "position_bytes": receipt.total("position_bytes"),
        "value_bytes": receipt.total("value_bytes"),
        "table_bytes": receipt.total("table_bytes"),
        "csr": receipt.csr,
        "zstd": receipt.zstd,
        "bound": receipt.bound,
        "to_bound": receipt.size_bytes / receipt.bound,
    }
    if pruned is not None:
        lines = [line for line in receipt.lines if line.name in pruned]
        sizes, bound = sum(line.packed_bytes for line in lines), sum(line.bound or 0 for line in lines)
        found["pruned_tensors"] = {"packed_bytes": sizes, "bound": bound, "to_bound": sizes / bound}
    return found


# ------------------------------------------------------------------------------------------------ real checkpoints


def in_bf16(path: Path, out: Path) -> Path:
    """The same checkpoint, its float32 tensors rounded to bfloat16."""
    import torch
    from safetensors.torch import load_file, save_file

    out.mkdir()
    weights = load_file(path / "model.safetensors")
    save_file(
        {n: w.bfloat16() if w.dtype == torch.float32 else w for n, w in weights.items()}, out / "model.safetensors"
    )
    return out


def sizes(scratch: Path, paths: list[Path]) -> dict[str, Any]:
    """Every network pruned over the whole model, lossless in float32 and bfloat16, and with other values."""
    networks: dict[str, Any] = {}
    for path in paths:
        name = path.parent.name if path.name == "model" else path.name
        rows = []
        for dtype, source in (("float32", path), ("bfloat16", in_bf16(path, scratch / f"{name}-bf16"))):
            for s in SPARSITIES:
                out = scratch / f"{name}-{dtype}-{s}"
                manifest = sc.prune_checkpoint(source, sc.Recipe(budget=sc.sparsity(s)), out)
                pruned = {layer["name"] for layer in manifest["layers"] if layer["status"] == "pruned"}
                packed = scratch / "a.packed.safetensors"
                for values in ("exact", *(LOSSY if dtype == "float32" else ())):
                    receipt = sc.pack(out, packed, values, zstd=ZSTD if values == "exact" else None)
                    row = {"sparsity": s, "dtype": dtype, "values": values, **summary(receipt, pruned)}
                    if values == "exact":
                        assert sc.diff(out, packed).is_same
                    rows.append(row)
                    say(f"{name} {dtype} {s} {values}: {row['size_bytes']:,}, {row['to_bound']:.4f} of the bound")
        networks[name] = rows
    return {"zstd_level": ZSTD, "networks": networks}


# -------------------------------------------------------------------------------------------------- normal weights


def normal(scratch: Path, n_tensors: int = 100, side: int = 1000, n_sample: int = 10) -> dict[str, Any]:
    """Independent normal float32 weights, pruned over the whole model; the highest zstd on the first tenth of them."""
    from safetensors.numpy import load_file, save_file

    generator = np.random.default_rng(0)
    source = scratch / "source.safetensors"
    save_file({f"w{i:02}": generator.standard_normal((side, side), np.float32) for i in range(n_tensors)}, source)
    packed, found = scratch / "a.packed.safetensors", []
    for s in (0.7, 0.9):
        out = scratch / f"normal-{s}"
        sc.prune_checkpoint(source, sc.Recipe(budget=sc.sparsity(s), only=("*",)), out)
        row: dict[str, Any] = {"sparsity": s}
        for values in ("exact", "int8", "int4"):
            receipt = sc.pack(out, packed, values, zstd=ZSTD if values == "exact" else None)
            row[values] = summary(receipt)
            say(f"normal {s} {values}: {receipt.size_bytes:,}, {receipt.size_bytes / receipt.bound:.4f} of the bound")
        weights = load_file(out / "source.safetensors")
        sample = scratch / "sample.safetensors"
        save_file({name: weights[name] for name in sorted(weights)[:n_sample]}, sample)
        row["sample"] = {"zstd_level": ZSTD_MOST, **summary(sc.pack(sample, packed, zstd=ZSTD_MOST))}
        say(f"normal {s} sample: {row['sample']['size_bytes']:,}, zstd {row['sample']['zstd']:,}")
        found.append(row)
    return {"n_weights": n_tensors * side * side, "seed": 0, "zstd_level": ZSTD, "rows": found}


# ---------------------------------------------------------------------------------------------------------- MiniLM


def sentence_vectors(path: Path, texts: list[str]) -> Any:
    """(n, dim) of unit length: the mean of the last hidden states of each text's tokens, as the model card has it."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    network, info = AutoModel.from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"], info
    network.eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
    found = np.empty((len(texts), network.config.hidden_size), np.float32)
    with torch.no_grad():
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            batch = tokenizer(
                [texts[i] for i in chosen], padding=True, truncation=True, max_length=128, return_tensors="pt"
            )
            hidden = network(**batch).last_hidden_state  # (batch, tokens, dim)
            mask = batch["attention_mask"][:, :, None].float()
            mean = (hidden * mask).sum(1) / mask.sum(1)
            found[chosen] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return found


def evaluated(place: Path, train: dict[str, Any], test: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The vectors of the test texts, and the score of the task."""
    import torch

    torch.set_num_threads(1)
    vectors, learnt = sentence_vectors(place, test["text"]), sentence_vectors(place, train["text"])
    return vectors, task_score(learnt, train["label"], vectors, np.array(test["label"]))


def task_score(train: Any, labels: Any, test: Any, expected: Any) -> dict[str, Any]:
    """Test accuracy of a logistic regression on frozen sentence vectors; the same setting for all, none chosen."""
    from sklearn.linear_model import LogisticRegression

    from secateurs.measure.accuracy import Accuracy

    classifier = LogisticRegression(C=10, max_iter=2000).fit(train, labels)
    return Accuracy(int((classifier.predict(test) == expected).sum()), len(expected)).values()


def minilm(scratch: Path, path: Path, data: Path) -> Iterator[dict[str, Any]]:
    """70 % of the encoder gone at once, without training; packed; unpacked, loaded by transformers, and evaluated.

    Gives what is known after every step: the sizes, then what becomes of each network, one by one.
    """
    from pyarrow.parquet import read_table

    train, test = (read_table(data / f"{split}.parquet").to_pydict() for split in ("train", "test"))
    pruned, tables = scratch / "pruned", "*_embeddings.weight"
    manifest = sc.prune_checkpoint(path, sc.Recipe(budget=sc.sparsity(0.7)), pruned)
    ways = {
        "pruned, exact": {"": "exact"},
        "pruned, int8, embeddings int8": {"": "int8", tables: "int8"},
        "pruned, int8, embeddings int4": {"": "int8", tables: "int4"},
    }
    networks: dict[str, Path] = {"dense": path}
    rows: dict[str, dict[str, Any]] = {"dense": {"size_bytes": (path / "model.safetensors").stat().st_size}}
    for i, (name, values) in enumerate(ways.items()):
        networks[name] = scratch / f"packed-{i}"  # what stock loaders read beside the packed file holds the same bits
        receipt = sc.pack_beside(pruned, networks[name], values)
        rows[name] = {"size_bytes": receipt.size_bytes, "receipt": summary(receipt)}
        say(f"minilm {name}: {receipt.size_bytes:,}")
    found = {
        "recipe": manifest["recipe"],
        "n_pruned": manifest["totals"]["n_pruned"],
        "n_prunable": manifest["totals"]["n_prunable"],
        "n_train": len(train["text"]),
        "n_test": len(test["text"]),
        "classifier": "logistic regression, C=10, on frozen vectors of the train split",
        "networks": rows,
    }
    yield found
    with ProcessPoolExecutor(len(networks), get_context("spawn")) as pool:  # of one thread each
        tasks = {name: pool.submit(evaluated, place, train, test) for name, place in networks.items()}
        dense = tasks["dense"].result()[0]
        for name, task in tasks.items():
            vectors, rows[name]["accuracy"] = task.result()
            cosines = (vectors * dense).sum(axis=1)
            low = float(np.percentile(cosines, 5))
            rows[name]["cosine"] = {"mean": float(cosines.mean()), "low_5_percent": low, "least": float(cosines.min())}
            say(f"minilm {name}: cosine {cosines.mean():.4f}, accuracy {rows[name]['accuracy']['value']:.4f}")
            yield found


# --------------------------------------------------------------------------------------------------------- mutants


KINDS = ("one bit", "one bit", "one bit", "one bit", "nine bytes", "cut off", "bytes put in", "forty bytes exchanged")


def mutations(data: bytes, n: int) -> Iterator[tuple[str, bytes]]:
    """(what was done, the changed file), n of them but those that changed nothing; the same ones every time."""
    generator = np.random.default_rng(0)
    for i in range(n):
        changed = bytearray(data)
        kind = KINDS[i % len(KINDS)]
        at = int(generator.integers(len(data)))
        if kind == "one bit":
            # Every byte is a payload byte: of the header, of a stream, of the index.
            changed[at] ^= 1 << int(generator.integers(8))
        elif kind == "nine bytes":
            changed[at : at + 9] = generator.bytes(9)
        elif kind == "cut off":
            del changed[at:]
        elif kind == "bytes put in":
            changed[at:at] = generator.bytes(int(generator.integers(1, 9)))
        else:
            to = int(generator.integers(len(data)))
            changed[at : at + 40], changed[to : to + 40] = changed[to : to + 40], changed[at : at + 40]
        if bytes(changed) != data:
            yield kind, bytes(changed)


def network() -> dict[str, Any]:
    """Tensors of several dtypes and odd shapes, most of their weights zero."""
    import torch

    torch.manual_seed(0)

    def pruned(*shape: int) -> torch.Tensor:
        weight = torch.randn(shape)
        return torch.where(weight.abs() > 1.3, weight, 0.0)

    return {
        "a.weight": pruned(60, 50),
        "a.bias": torch.randn(60),
        "b.weight": pruned(40, 30),
        "conv.weight": pruned(8, 4, 3, 3),
        "half": pruned(16, 16).half(),
        "brain": pruned(16, 16).bfloat16(),
        "ids": torch.arange(100),
        "empty": torch.zeros(3, 0),
    }


def mutants(scratch: Path, n: int) -> dict[str, Any]:
    """n changed files, each loaded whole: refused, or loaded as if nothing were wrong, or an exception that escapes."""
    from safetensors.torch import save_file

    save_file(network(), scratch / "a.safetensors")
    path, mutant = scratch / "a.packed.safetensors", scratch / "mutant.packed.safetensors"
    sc.pack(scratch / "a.safetensors", path, {"": "exact", "b.weight": "codebook:4", "conv.weight": "int8"})
    sc.load(path)  # so that no time is that of a compiler
    data, found, slowest = path.read_bytes(), Counter[str](), 0.0
    n_kinds: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, changed in mutations(data, n):
        mutant.write_bytes(changed)
        begin = time.perf_counter()
        try:
            sc.load(mutant)
            found["loaded"] += 1
        except InputError as error:
            is_part = "were changed" in str(error)
            found["refused, the damaged tensor named" if is_part else "refused when it was opened"] += 1
        except Exception:
            found["another exception"] += 1
        slowest = max(slowest, time.perf_counter() - begin)
        n_kinds[kind] += 1
    return {
        "n": n_kinds.total(),
        "file_bytes": len(data),
        "kinds": dict(n_kinds),
        "became": {"loaded": 0, "another exception": 0, **found},
        "slowest_s": slowest,
        "more_memory_bytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024,
    }


def main() -> None:
    """Run one part and write it into the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("sizes", "normal", "minilm", "mutants"))
    parser.add_argument("--path", type=Path, nargs="*", default=[], help="sizes, minilm: directories of checkpoints")
    parser.add_argument("--data", type=Path, help="minilm: the directory of banking77")
    parser.add_argument("--n", type=int, default=10_000, help="mutants: how many")
    parser.add_argument("--scratch", type=Path, help="a directory with room, by default a temporary one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "packed.json")
    arguments = parser.parse_args()
    if arguments.part == "sizes" and not arguments.path:
        parser.error("sizes takes the directories of checkpoints: --path DIR ...")
    if arguments.part == "minilm" and (len(arguments.path) != 1 or arguments.data is None):
        parser.error("minilm takes one --path, and --data, the directory of banking77")
    from secateurs.measure.environment import environment

    given = {"sizes": " --path DIR ...", "minilm": " --path DIR --data DIR", "mutants": f" --n {arguments.n}"}
    command = f"python benchmarks/packed.py {arguments.part}{given.get(arguments.part, '')}"
    about = {"command": command, "environment": environment()}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        if arguments.part == "sizes":
            steps = iter([sizes(Path(scratch), arguments.path)])
        elif arguments.part == "normal":
            steps = iter([normal(Path(scratch))])
        elif arguments.part == "minilm":
            steps = minilm(Path(scratch), arguments.path[0], arguments.data)
        else:
            steps = iter([mutants(Path(scratch), arguments.n)])
        for found in steps:
            results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
            write_json(arguments.out, {**results, arguments.part: {**about, **found}})


if __name__ == "__main__":
    main()
