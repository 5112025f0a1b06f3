"""Packed files: the tables of packed-files.md."""

from collections.abc import Callable
from typing import Any

from measured.common import RESULTS, machine, not_yet, part, read, short_bytes, sized, table


def packed_sizes() -> str:
    """Real checkpoints, packed, against the entropy bound and against other ways to store them."""
    found = part("packed", "sizes")
    if found is None:
        return not_yet("python benchmarks/packed.py sizes --path DIR ...")
    exact, lossy, most = [], [], 0.0
    for name, rows in found["networks"].items():
        for row in rows:
            if row["values"] != "exact":
                continue
            tensors = row["pruned_tensors"]["to_bound"]
            most = max(most, tensors)
            sizes = [short_bytes(row[key]) for key in ("dense_bytes", "csr", "zstd", "size_bytes")]
            ratios = [f"{row['to_bound']:.3f}", f"{tensors:.3f}"]
            exact.append([_network(name), row["dtype"], f"{row['sparsity']:.0%}", *sizes, *ratios])
        for s in dict.fromkeys(row["sparsity"] for row in rows):
            sizes = [
                short_bytes(row["size_bytes"]) for row in rows if row["sparsity"] == s and row["dtype"] == "float32"
            ]
            lossy.append([_network(name), f"{s:.0%}", *sizes])
    level = found["zstd_level"]
    head = ["checkpoint", "dtype", "zeros", "dense", "CSR", f"zstd -{level}", "packed", "× bound", "of pruned tensors"]
    values = dict.fromkeys(row["values"] for rows in found["networks"].values() for row in rows)
    head_lossy = ["checkpoint, float32", "zeros", *values]
    return (
        f"{table(head, exact)}\n\nExact values, every bit compared. Zeros are of the prunable weights, chosen by size "
        f"over the whole model; bytes are of whole checkpoints, with what is never pruned. *× bound* is the whole "
        f"file, "
        f"header and index included, against the sum of the bounds of its tensors; *pruned tensors* are these "
        f"alone, at "
        f"most {most:.4f}.\n\n{table(head_lossy, lossy)}\n\nThe values are those of the prunable weights; all others "
        f"stay exact. {machine(found)}"
    )


def packed_normal() -> str:
    """100M independent normal weights."""
    found = part("packed", "normal")
    if found is None:
        return not_yet("python benchmarks/packed.py normal")
    rows = []
    for row in found["rows"]:
        exact, sample = row["exact"], row["sample"]
        sizes = [short_bytes(exact[key]) for key in ("csr", "zstd", "bound", "size_bytes")]
        more = [short_bytes(row[values]["size_bytes"]) for values in ("int8", "int4")]
        rows.append([f"{row['sparsity']:.0%}", *sizes, *more, f"{1 - sample['size_bytes'] / sample['zstd']:.1%}"])
    level = found["rows"][0]["sample"]["zstd_level"]
    head = [
        "zeros",
        "CSR",
        f"zstd -{found['zstd_level']}",
        "bound",
        "packed",
        "int8",
        "int4",
        f"less than zstd -{level}",
    ]
    return (
        f"{table(head, rows)}\n\n{found['n_weights']:,} normal float32 weights in 100 tensors, seed {found['seed']}; "
        f"dense they are 400 MB. The last column is of the first tenth of them, since that zstd is slow. "
        f"{machine(found)}"
    )


def packed_minilm() -> str:
    """MiniLM with its embeddings: bytes, how its vectors turn, and what a task says."""
    found = part("packed", "minilm")
    if found is None:
        return not_yet("python benchmarks/packed.py minilm --path DIR --data DIR")
    rows = []
    for name, row in found["networks"].items():
        cosine, score = row.get("cosine"), row.get("accuracy")
        cosines = [f"{cosine[key]:.4f}" for key in ("mean", "low_5_percent", "least")] if cosine else ["—"] * 3
        scores = (
            [f"{score['value']:.2%}", f"{100 * score['low']:.1f}–{100 * score['high']:.1f}"] if score else ["—"] * 2
        )
        rows.append([name, short_bytes(row["size_bytes"]), *cosines, *scores])
    missing = " What is not measured yet stands as —." if any("—" in row for row in rows) else ""
    head = ["all-MiniLM-L6-v2", "bytes", "cosine", "5 % below", "least", "accuracy", "95 % interval"]
    return (
        f"{table(head, rows)}\n\n{found['n_pruned']:,} of {found['n_prunable']:,} weights of the encoder are zero, "
        f"chosen "
        f"once by size, without any training after it. Cosines are those of the sentence vectors (mean of the tokens, "
        f"unit length) to the dense network's, on the {found['n_test']:,} test queries of BANKING77; the accuracy "
        f"is that "
        f"of a {found['classifier']} ({found['n_train']:,} queries), n = {found['n_test']:,}.{missing} {machine(found)}"
    )


def packed_mutants() -> str:
    """What became of changed files."""
    found = part("packed", "mutants")
    if found is None:
        return not_yet("python benchmarks/packed.py mutants")
    rows = [[name, f"{n:,}"] for name, n in sorted(found["became"].items(), key=lambda item: -item[1])]
    kinds = ", ".join(f"{n:,} × {name}" for name, n in found["kinds"].items())
    return (
        f"{table(['a changed file was', 'files'], rows)}\n\n{found['n']:,} changes of one packed file of "
        f"{found['file_bytes']:,} bytes with exact, int8 and codebook values, each loaded whole: {kinds}. The "
        f"slowest took "
        f"{found['slowest_s']:.2f} s on a busy machine, and all of them took {sized(found['more_memory_bytes'])} "
        f"of memory "
        f"more than before. {machine(found)}"
    )


def packed_lenets() -> str:
    """The networks of Deep Compression, from training to the file."""
    path = RESULTS / "lenets.json"
    found = read("lenets") if path.exists() else {}
    nets = {name: found[name] for name in ("lenet-300-100", "lenet-300-100-shifted", "lenet-5") if name in found}
    if not nets:
        return not_yet("python benchmarks/lenets.py lenet-300-100 DATA --seeds 0 1 2")
    rows = []
    for name, net in nets.items():
        for stage, each in net["summary"].items():
            test = each["test_error"]
            size = short_bytes(each["file_bytes"]) if "file_bytes" in each else "—"
            error = f"{test['mean']:.2f} ({test['low']:.2f}–{test['high']:.2f})"
            rows.append([name, stage, f"{each['fewer']:.1f} ×", size, f"{each['validation_error']:.2f}", error])
    head = ["network", "stage", "fewer weights", "the file", "validation error, %", "test error, % (95 % t interval)"]
    seeds = {name: ", ".join(net["seeds"]) for name, net in nets.items()}
    shifts = {
        name: ", ".join(f"{stage} {each['training'].get('shift', 0)}" for stage, each in net["stages"].items())
        for name, net in nets.items()
    }
    said = "; ".join(
        f"{name}: seeds {seeds[name]}, images shifted by up to so many pixels: {shifts[name]}" for name in nets
    )
    return (
        f"{table(head, rows)}\n\nMNIST, 55,000 images to learn from, 5,000 to choose by, 10,000 for the test, looked "
        f"at once; the teacher is the own dense network; means. {said}. The error of *small-shared* "
        f"is that of the file, read again. {machine(next(iter(nets.values())))}"
    )


def packed_speed() -> str:
    """Dense bytes a second, in memory, beside a copy and what people use."""
    if not (RESULTS / "packed_speed.json").exists():
        return not_yet("python benchmarks/packed_speed.py")
    found = read("packed_speed")
    ours, others = found["ours"], found["others"]

    def line(name: str, pack: str, load: str, size: int, side: dict[str, Any]) -> list[str]:
        runs = side["runs"]
        spread = [
            f"{runs[way]['gb_per_s']:.3g} ({4 * side['n_weights'] / runs[way]['max_s'] / 1e9:.3g}–"
            f"{4 * side['n_weights'] / runs[way]['min_s'] / 1e9:.3g})"
            for way in (pack, load)
        ]
        return [name, *spread, f"{size / (4 * side['n_weights']):.1%}"]

    rows = [
        line(
            f"bitmask, {values}",
            f"bitmask pack {values}",
            f"bitmask unpack {values}",
            ours["sizes"][f"bitmask {values}"],
            ours,
        )
        for values in ("exact", "int8")
    ]
    rows += [
        line(
            f"packed file, {values}",
            f"file pack {values}",
            f"file load {values}",
            ours["sizes"][f"file {values}"],
            ours,
        )
        for values in ("exact", "int8")
    ]
    rows += [line(name, f"{name} pack", f"{name} unpack", size, others) for name, size in others["sizes"].items()]
    rows.append(line("memory copy", "memory copy", "memory copy", 4 * ours["n_weights"], ours))
    head = ["", "pack, GB a second", "back, GB a second", "of the dense bytes"]
    n, n_others = (next(iter(side["runs"].values()))["n"] for side in (ours, others))
    return (
        f"{table(head, rows)}\n\n{ours['n_weights']:,} normal float32 weights, {found['n_zero']:,} of them zero; "
        f"gigabytes of dense weights, in memory (files in /dev/shm), medians of {n} interleaved rounds, the least and "
        f"the most in brackets. zlib, zstd and CSR: {others['n_weights']:,} of the weights, {n_others} rounds, one "
        f"thread, as whoever uses them has it. {machine(found)}"
    )


def _network(name: str) -> str:
    """A directory as people know the network in it: weights_lenet5_mnist."""
    return name.removeprefix("weights_")


TABLES: dict[str, Callable[[], str]] = {
    "packed-sizes": packed_sizes,
    "packed-normal": packed_normal,
    "packed-minilm": packed_minilm,
    "packed-mutants": packed_mutants,
    "packed-speed": packed_speed,
    "packed-lenets": packed_lenets,
}
