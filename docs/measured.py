"""Measured: the tables of figures in the docs, read from the committed results in benchmarks/results/*.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secateurs.experiments.lottery import KINDS
from secateurs.measure.intervals import over_seeds
from secateurs.see.curves import COMPARISON
from secateurs.see.style import STRATEGIES

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def read(name: str) -> dict[str, Any]:
    """One committed result."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, figures to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def provenance(results: dict[str, Any]) -> str:
    """Command, machine, versions and seeds, in one sentence."""
    where = results["environment"]
    return (
        f"`{results['command']}`, seeds {', '.join(map(str, results['seeds']))}; {where['cpu']}, {where['vectors']}, "
        f"one thread a network; torch {where['torch']}, secateurs {where['secateurs']}."
    )


def stages(name: str) -> str:
    """The stages of one run."""
    results = read(name)
    rows = []
    for stage in results["stages"]:
        test = stage["accuracy"]["test"]
        tracked = [stage["layers"][layer] for layer in results["model"]["tracked"].values()]
        zeros = [f"{layer['n_zero'] / layer['n']:.1%}" for layer in tracked]
        title = stage["title"] + (f" ({stage['tau_text']})" if stage["tau_text"] else "")
        interval = f"{100 * test['low']:.1f}–{100 * test['high']:.1f}"
        rows.append([title, f"{stage['sparsity']:.1%}", *zeros, f"{test['value']:.2%}", interval])
    head = ["stage (first seed)", "zeros", "in the CLS head", "in the FFN", "test accuracy", "95 % interval"]
    n = results["data"]["n_test"]
    return f"{table(head, rows)}\n\nn = {n:,} test examples, Wilson's interval. {provenance(results)}"


def tradeoff(name: str) -> str:
    """Accuracy against sparsity, mean over the seeds."""
    results = read(name)
    by_point = {(point["asked"], point["strategy"]): point for point in results["tradeoff"]}
    rows = []
    for s in dict.fromkeys(point["asked"] for point in results["tradeoff"]):
        points = [by_point[s, strategy] for strategy in STRATEGIES]
        rows.append([f"{s:.0%}", *(_mean(point) for point in points)])
    dense = results["dense"]
    return (
        f"{table(['sparsity', *STRATEGIES.values()], rows)}\n\nTest accuracy in %, mean of {dense['n_seeds']} seeds "
        f"(95 % t interval), n = {dense['n_test']:,} test examples; dense with the same training budget {_mean(dense)}."
    )


def claims(name: str) -> str:
    """Each claim with its verdict."""
    rows = [[c["text"], c["verdict"], c["number"]] for c in read(name)["claims"]]
    return table(["claim", "verdict", "measured"], rows).replace("---:", "---")


def published() -> str:
    """One-shot global magnitude on the published networks."""
    results = read("one_shot_published")
    networks = results["networks"]
    rows = []
    for i, row in enumerate(next(iter(networks.values()))):
        pairs = [(f"{network[i]['n_zero']:,}", f"{network[i]['test']['value']:.2%}") for network in networks.values()]
        rows.append([f"{row['sparsity']:.0%}", *(cell for pair in pairs for cell in pair)])
    sizes = {name: network[0]["n_weights"] for name, network in networks.items()}
    head = ["sparsity asked"]
    for name, n in sizes.items():
        head += [f"{name}: zeros of {n:,}", "test accuracy"]
    return (
        f"{table(head, rows)}\n\nPruned once, `{results['recipe']}`, no training after it; n = 10,000 test examples "
        f"each. The zeros are counted again by numpy in the written file and equal `round(s * n)` in every row. "
        f"`{results['command']}`."
    )


def summary() -> str:
    """The README's table: what pruning cost in accuracy, bytes and milliseconds, measured."""
    rows = []
    for name in ("explore_digits", "explore_mnist"):
        results = read(name)
        by_point = {(point["asked"], point["strategy"]): point for point in results["tradeoff"]}
        label = f"{results['model']['name'].partition('(')[0]}, {results['data']['name']}"
        at = [f"{_mean(by_point[s, 'in-loop'])}" for s in (0.7, 0.9)]
        once = _mean(by_point[0.9, "one-shot"])
        size, speed = results["zeros_alone"]["size_bytes"], results["zeros_alone"]["latency"]
        is_same = speed["low"] <= 1 <= speed["high"]
        milliseconds = f"{1e3 * speed['dense_s']:.2f} → {1e3 * speed['zeroed_s']:.2f} ms"
        milliseconds += " (no difference)" if is_same else f" (× {speed['ratio']:.2f})"
        rows.append(
            [label, _mean(results["dense"]), *at, once, f"{size['dense']:,} → {size['zeroed']:,}", milliseconds]
        )
    head = ["network", "dense", "70 % in the loop", "90 % in the loop", "90 % one-shot", "bytes", "batch of 64"]
    return table(head, rows)


def part(name: str, key: str) -> dict[str, Any] | None:
    """One part of a committed result; None where it was not recorded yet."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text("utf-8")).get(key) if path.exists() else None
    return found


def machine(found: dict[str, Any]) -> str:
    """Command, machine and versions, in one sentence."""
    where = found["environment"]
    threads = f"{found['threads']} threads; " if "threads" in found else ""
    return (
        f"`{found['command']}`; {threads}{where['cpu']}, {where['cores']} cores, {where['vectors']}; "
        f"python {where['python']}, numpy {where['numpy']}, torch {where['torch']}, secateurs {where['secateurs']}."
    )


def not_yet(command: str) -> str:
    """What stands in place of a table whose result is not committed."""
    return f"Not recorded yet: `{command}`."


def in_memory() -> str:
    """Weights of a live network chosen and zeroed, beside a memory copy and beside what people use."""
    found = part("checkpoints", "memory")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py memory")
    tables = []
    for title, seconds, ratios, base in (
        ("choose and zero", "seconds", "to_memory_copy", "memory copy"),
        ("the same task", "others_seconds", "others_to_pool_model", "pool model"),
    ):
        rows = [
            [name, _seconds(times), "1" if name == base else _ratio(found[ratios][name]), _memory(found, name)]
            for name, times in found[seconds].items()
        ]
        tables.append(table([title, "seconds", f"× {base}", "memory beyond the weights"], rows))
    n, n_slow = (next(iter(found[key].values()))["n"] for key in ("seconds", "others_seconds"))
    return (
        "\n\n".join(tables) + f"\n\n{found['n_weights']:,} {found['dtype']} weights in memory, {found['sparsity']:.0%} "
        f"zeroed (2:4: half); medians of {n} interleaved rounds (lower table: {n_slow}), the least and the most in "
        f"brackets. `torch.kthvalue` and `numpy.partition` only find the threshold. {machine(found)}"
    )


def from_disk() -> str:
    """A checkpoint from disk to disk, beside reading it twice and writing it once."""
    found = part("checkpoints", "disk")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py disk")
    kinds = {name: value for name, value in found.items() if isinstance(value, dict) and "to_limit" in value}
    rows, n = [], 0
    for name, value in kinds.items():
        n = value["seconds"]["secateurs prune"]["n"]
        rows.append([name, *(_seconds(times) for times in value["seconds"].values()), _ratio(value["to_limit"])])
    heads = next(iter(kinds.values()))["seconds"]
    return (
        f"{table(['the source is', *(f'{name}, seconds' for name in heads), '× the limit'], rows)}\n\n"
        f"{_size(found['size_bytes'])} in {found['n_shards']} shards, pool model, the whole command from its start, "
        f"written durably; medians of {n} interleaved rounds, the least and the most in brackets. {machine(found)}"
    )


def large() -> str:
    """The memory of one large run."""
    found = part("checkpoints", "large")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py large")
    rows = [
        ["checkpoint", f"{_size(found['size_bytes'])} in {found['n_shards']} shards"],
        ["largest tensor", _size(found["largest_tensor_bytes"])],
        ["seconds", f"{found['seconds']:.1f}"],
        ["the process's own memory at its peak", _size(found["peak_anonymous_bytes"])],
        ["the bound: twice the largest tensor + 300 MB", _size(found["bound_bytes"])],
        *_by_lamp(found.get("lamp")),
    ]
    return f"{table(['one large run', 'measured'], rows)}\n\nOne run. {machine(found)}"


def ranks() -> str:
    """Two ranks against one."""
    found = part("checkpoints", "ranks")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py ranks")
    rows = [[name, _seconds(times)] for name, times in found["seconds"].items()]
    rows += [
        ["1 rank / 2 ranks", _ratio(found["speed_up"])],
        ["the same without the starts", _ratio(found["speed_up_without_start"])],
    ]
    n = next(iter(found["seconds"].values()))["n"]
    return (
        f"{table(['ranks of one thread and one core', 'seconds, or times'], rows)}\n\n{_size(found['size_bytes'])} in "
        f"{found['n_shards']} shards in a memory file system; *start* is torchrun with a program that only meets. "
        f"Medians of {n} interleaved rounds, the least and the most in brackets. {machine(found)}"
    )


def _by_lamp(found: dict[str, Any] | None) -> list[list[str]]:
    """The rows of a run by lamp; none where it was not recorded."""
    if found is None:
        return []
    size = f"{_size(found['size_bytes'])} in {found['n_shards']} shards"
    return [[f"the same peak by lamp, {size}", _size(found["peak_anonymous_bytes"])]]


def inspected() -> str:
    """Inspecting, the whole command from its start."""
    found = part("checkpoints", "inspect")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py inspect")
    titles = {
        "2 GB": "made up, float32",
        "file": "a real checkpoint",
        "start": "`secateurs --version`, the start alone",
    }
    runs = {name: value for name, value in found.items() if isinstance(value, dict) and "median_s" in value}
    rows = []
    for name, value in runs.items():
        is_sized = bool(value["size_bytes"])
        size, rate = (_size(value["size_bytes"]), f"{value['bytes_per_s'] / 1e9:.2f}") if is_sized else ("—", "—")
        rows.append([titles.get(name, name), size, _seconds(value), rate])
    n = next(iter(runs.values()))["n"]
    return (
        f"{table(['inspect', 'bytes', 'seconds', 'GB a second'], rows)}\n\nThe whole command with `--json`; medians of "
        f"{n} interleaved rounds, the least and the most in brackets; files in the system's cache. {machine(found)}"
    )


def recounted() -> str:
    """Real checkpoints pruned, and chosen again by sorting."""
    found = part("checkpoints", "recount")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py recount")
    rows = [
        [name, f"{row['sparsity']:.0%}", f"{row['n_prunable']:,}", f"{row['n_zero']:,}", f"{row['seconds']:.1f}"]
        for name, each in found["networks"].items()
        for row in each
    ]
    head = ["checkpoint", "sparsity asked", "prunable weights", "zeros in the written file", "seconds, with the start"]
    return (
        f"{table(head, rows)}\n\nEvery weight of every written file equals what a plain sort of all sizes in numpy "
        f"keeps. {machine(found)}"
    )


def torture() -> str:
    """How often a run was killed, where, and what became of it."""
    path = RESULTS / "torture.json"
    if not path.exists():
        return not_yet("python benchmarks/torture.py --kills 200")
    found = read("torture")
    rows = [[name, f"{n:,}"] for name, n in sorted(found["phases"].items(), key=_early)]
    return (
        f"{table(['what was there when it was killed', 'kills'], rows)}\n\n{found['n_kills']:,} kills with SIGKILL at "
        f"random instants of runs of {found['run_s']:.2f} s on {_size(found['source_bytes'])}; "
        f"{found['n_resumed_to_the_same_bytes']:,} resumed runs, all to the bytes of the {found['n_files']} files of "
        f"an undisturbed run. After every kill the source was untouched, and the directory either loaded whole or was "
        f"refused by the stock loader. {machine(found)}"
    )


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
            sizes = [_bytes(row[key]) for key in ("dense_bytes", "csr", "zstd", "size_bytes")]
            ratios = [f"{row['to_bound']:.3f}", f"{tensors:.3f}"]
            exact.append([_network(name), row["dtype"], f"{row['sparsity']:.0%}", *sizes, *ratios])
        for s in dict.fromkeys(row["sparsity"] for row in rows):
            sizes = [_bytes(row["size_bytes"]) for row in rows if row["sparsity"] == s and row["dtype"] == "float32"]
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
        sizes = [_bytes(exact[key]) for key in ("csr", "zstd", "bound", "size_bytes")]
        more = [_bytes(row[values]["size_bytes"]) for values in ("int8", "int4")]
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
        rows.append([name, _bytes(row["size_bytes"]), *cosines, *scores])
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
        f"{found['slowest_s']:.2f} s on a busy machine, and all of them took {_size(found['more_memory_bytes'])} "
        f"of memory "
        f"more than before. {machine(found)}"
    )


def packed_lenets() -> str:
    """The networks of Deep Compression, from training to the file."""
    path = RESULTS / "lenets.json"
    found = read("lenets") if path.exists() else {}
    nets = {name: found[name] for name in ("lenet-300-100", "lenet-5") if name in found}
    if not nets:
        return not_yet("python benchmarks/lenets.py lenet-300-100 DATA --seeds 0 1 2")
    rows = []
    for name, net in nets.items():
        for stage, each in net["summary"].items():
            test = each["test_error"]
            size = _bytes(each["file_bytes"]) if "file_bytes" in each else "—"
            error = f"{test['mean']:.2f} ({test['low']:.2f}–{test['high']:.2f})"
            rows.append([name, stage, f"{each['fewer']:.1f} ×", size, f"{each['validation_error']:.2f}", error])
    head = ["network", "stage", "fewer weights", "the file", "validation error, %", "test error, % (95 % t interval)"]
    seeds = {name: ", ".join(net["seeds"]) for name, net in nets.items()}
    said = "; ".join(f"{name}: seeds {each}" for name, each in seeds.items())
    return (
        f"{table(head, rows)}\n\nMNIST, 55,000 images to learn from, 5,000 to choose by, 10,000 for the test, looked "
        f"at once; no augmentation, the teacher is the own dense network; means. {said}. The error of *small-shared* "
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


def _bytes(n: float) -> str:
    return f"{n / 1e6:.2f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB"


def patterns_kept() -> str:
    """What 2:4 keeps before and after permuting, over the layers of each kind."""
    found = part("patterns", "kept")
    if found is None:
        return not_yet("python benchmarks/patterns.py kept --path MINILM")
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, lines in found.items():
        if isinstance(lines, list):
            network, _, seed = key.partition(", seed")
            for line in lines:
                if not line.get("reason"):
                    kinds.setdefault((network + (", 3 seeds" if seed else ""), _layer_kind(line)), []).append(line)
    rows = []
    for (network, kind), lines in kinds.items():
        means = [sum(line[name] for line in lines) / len(lines) for name in ("before", "after", "most")]
        closed = [line["closed"] for line in lines]
        spread = f"{min(closed):.0%}–{max(closed):.0%}" if len(lines) > 1 else f"{closed[0]:.0%}"
        gained = (means[1] - means[0]) / (means[2] - means[0])
        rows.append([network, kind, str(len(lines)), *(f"{mean:.1%}" for mean in means), f"{gained:.0%}", spread])
    head = ["network", "weights", "how many", "2:4", "permuted", "best half of each row", "gap closed", "least–most"]
    return f"{table(head, rows)}\n\nShares of Σ\\|w\\|. Outputs compared on example inputs. {machine(found)}"


def _layer_kind(line: dict[str, Any]) -> str:
    name = line["name"].removesuffix(".weight")
    name = name if name.startswith("normal") else ".".join(part for part in name.split(".")[-3:] if not part.isdigit())
    return f"{name} {line['shape'][0]} × {line['shape'][1]}"


def patterns_retrain() -> str:
    """Accuracy of 2:4 after a short retrain."""
    found = part("patterns", "retrain")
    if found is None:
        return not_yet("python benchmarks/patterns.py retrain --data DATA")
    seeds = [each for each in found["seeds"].values() if len(each) == 4]
    rows = []
    for arm in ("dense", "2:4", "2:4 permuted"):
        tests = [each[arm]["test"]["value"] for each in seeds]
        less = over_seeds([each[arm]["test"]["value"] - each["dense"]["test"]["value"] for each in seeds])
        before = [each[arm]["before"]["validation"]["value"] for each in seeds if "before" in each[arm]]
        mean = over_seeds(tests)
        rows.append(
            [
                arm,
                f"{100 * sum(before) / len(before):.2f}" if before else "—",
                f"{100 * mean.mean:.2f} ± {50 * (mean.high - mean.low):.2f}",
                "—" if arm == "dense" else f"{100 * less.mean:+.2f} ± {50 * (less.high - less.low):.2f}",
            ]
        )
    head = ["network", "validation before the retrain", "test accuracy after it", "less dense"]
    first, more = found["training"], found["retraining"]
    cut = seeds[0]["2:4"]
    return (
        f"{table(head, rows)}\n\n`{found['model']}` on MNIST, trained dense for {first['epochs']:g} epochs, then in "
        f"each row for {more['epochs']:g} epochs more; the dense row is the control with the same training. "
        f"{cut['n_pruned']:,} of {cut['n_weights']:,} weights are zero, all prunable layers. In %, mean of "
        f"{len(seeds)} seeds (95 % t interval), n = {found['n_test']:,} test examples. {machine(found)}"
    )


def _early(item: tuple[str, int]) -> tuple[bool, str]:
    return item[0] != "no output yet", item[0]


def _seconds(times: dict[str, Any]) -> str:
    return " ".join([_three(times["median_s"]), f"({_three(times['min_s'])}–{_three(times['max_s'])})"])


def _ratio(ratio: dict[str, float]) -> str:
    return f"{_three(ratio['median'])} ({_three(ratio['min'])}–{_three(ratio['max'])})"


def _three(number: float) -> str:
    """Three digits, and no more behind the point than they need: 0.153, 12.3, 174."""
    places = 0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3
    return f"{number:.{places}f}"


def _memory(found: dict[str, Any], name: str) -> str:
    n_bytes = found["extra_bytes"].get(name)
    return "—" if n_bytes is None else _size(n_bytes)


def _size(n_bytes: int) -> str:
    """Bytes in MB or GB, of a thousand each."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def compared(name: str) -> str:
    """Strategies (rows) at sparsities (columns), with epochs, bytes and multiply-adds at one of them."""
    if not (RESULTS / f"{name}.json").exists():
        return not_yet("secateurs compare")
    results = read(name)
    dense, asked = results["dense"], list(dict.fromkeys(point["asked"] for point in results["points"]))
    at = min(asked, key=lambda s: abs(s - 0.9))
    by_point = {(point["strategy"], point["asked"]): point for point in results["points"]}
    rows = []
    for strategy in dict.fromkeys(point["strategy"] for point in results["points"]):
        points, one = [by_point[strategy, s] for s in asked], by_point[strategy, at]
        costs = [f"{one['epochs']:g}", f"{one['packed_bytes']:,.0f}", f"{one['multiply_adds']:,.0f}"]
        rows.append([COMPARISON[strategy].word, *map(_off_dense, points), *costs])
    costs = [f"{dense['epochs']:g}", f"{dense['packed_bytes']:,.0f}", f"{dense['multiply_adds']:,.0f}"]
    rows.append(["dense", _mean(dense), *["″"] * (len(asked) - 1), *costs])
    head = ["strategy", *(f"{s:.0%}" for s in asked), "epochs", f"bytes at {at:.0%}", f"multiply-adds at {at:.0%}"]
    speed = results["latency"]
    same = speed["low"] <= 1 <= speed["high"]
    what = "no difference" if same else f"× {speed['ratio']:.2f}"
    sparse = f"{speed['sparsity']:.0%}"
    return (
        f"{table(head, rows)}\n\nTest accuracy in %, mean of {dense['n_seeds']} seeds ± the 95 % t interval, n = "
        f"{results['data']['n_test']:,} test examples. **\\***: the difference from dense, seed by seed, has an "
        f"interval off zero. In brackets: the sparsity that a threshold came to, and layers left empty. Bytes are "
        f"packed without loss; multiply-adds are theoretical: the dense network and one of {sparse} zeros took "
        f"{1e3 * speed['dense_s']:.2f} and {1e3 * speed['pruned_s']:.2f} ms for a batch of {speed['batch']} ({what}). "
        f"{provenance(results)}"
    )


def _off_dense(point: dict[str, Any]) -> str:
    star = r"\*" if point["minus_dense"]["is_beyond_noise"] else ""
    reached = "" if abs(point["sparsity"] - point["asked"]) < 5e-3 else f" ({point['sparsity']:.1%})"
    empty = f" ({point['n_collapsed']} empty)" if point["n_collapsed"] else ""
    return _mean(point) + star + reached + empty


def tickets(name: str, command: str) -> str:
    """The levels of a lottery: counts, accuracies, differences, early stops."""
    if not (RESULTS / f"{name}.json").exists():
        return not_yet(command)
    results = read(name)
    rows = []
    for level in results["levels"]:
        kinds, gaps = level["kinds"], level["gaps"]
        found = [_two(kinds[kind]) if kind in kinds else "" for kind in KINDS]
        told = [_points(gaps[f"ticket-{kind}"]) if gaps else "" for kind in ("reinit", "random")]
        stop = f"{kinds['ticket']['early_stop_step']['mean']:,.0f}"
        rows.append([f"{level['kept']:.2%}", f"{level['n_kept']:,}", *found, *told, stop])
    head = [
        "kept",
        "weights",
        *KINDS.values(),
        "ticket − re-initialised",
        "ticket − random",
        "early stop of the ticket",
    ]
    n_seeds = len(results["seeds"])
    return (
        f"{table(head, rows)}\n\nTest accuracy in % after {results['n_steps']:,} steps, mean of {n_seeds} seeds ± the "
        f"95 % t interval, n = {results['data']['n_test']:,} test examples; differences in points, seed by seed, "
        f"**bold** where the interval is off zero, the others are within seed noise. Early stop: the step with the "
        f"least validation loss. {provenance(results)}"
    )


def _two(point: dict[str, Any]) -> str:
    half = "" if point["low"] is None else f" ± {50 * (point['high'] - point['low']):.2f}"
    return f"{100 * point['mean']:.2f}{half}"


def _points(gap: dict[str, Any]) -> str:
    if gap["low"] is None:
        return f"{100 * gap['mean']:+.2f}"
    text = f"{100 * gap['mean']:+.2f} ({100 * gap['low']:+.2f} to {100 * gap['high']:+.2f})"
    return f"**{text}**" if gap["is_beyond_noise"] else text


def allocated(network: str, view: str) -> str:
    """Allocations side by side, cut once, of one published network."""
    found = part("sensitivity", "networks")
    if found is None or network not in found:
        return not_yet("python benchmarks/sensitivity.py DATA")
    lines = [line for line in found[network]["allocations"] if line["view"] == view]
    names, asked = (list(dict.fromkeys(line[key] for line in lines)) for key in ("allocation", "asked"))
    by = {(line["allocation"], line["asked"]): line for line in lines}
    other = "multiply_adds" if view == "size" else "n_kept"
    rows = [
        [name, *(f"{by[name, s]['accuracy']:.1%}" for s in asked), f"{by[name, asked[-1]][other]:,}"] for name in names
    ]
    gone = "weights" if view == "size" else "multiply-adds"
    last = f"{'multiply-adds' if view == 'size' else 'weights'} left at {asked[-1]:.0%}"
    dense = found[network]["dense"]
    return (
        f"{table(['allocation', *(f'{s:.0%} of the {gone} gone' for s in asked), last], rows)}\n\n{network}, cut once, "
        f"no training after it; test accuracy, dense {dense['value']:.1%}, n = {dense['n']:,}; the scan saw "
        f"{found[network]['n_scan']:,} other examples. One network, so no interval over seeds: "
        f"± {100 * (dense['high'] - dense['low']) / 2:.1f} points at the dense accuracy (Wilson). "
        f"`python benchmarks/sensitivity.py DATA`."
    )


def scanned(network: str) -> str:
    """The sensitivity of every layer."""
    found = part("sensitivity", "networks")
    if found is None or network not in found:
        return not_yet("python benchmarks/sensitivity.py DATA")
    rows = [
        [f"`{name}`", *(f"{point['accuracy']:.1%}" for point in points)]
        for name, points in found[network]["scan"].items()
    ]
    at = [f"{point['sparsity']:.0%}" for point in next(iter(found[network]["scan"].values()))]
    n = found[network]["n_scan"]
    return f"{table(['only this layer is cut', *at], rows)}\n\n{network}, accuracy on {n:,} examples."


def _mean(point: dict[str, Any]) -> str:
    if point["low"] is None:
        return f"{100 * point['mean']:.1f}"
    return f"{100 * point['mean']:.1f} ± {50 * (point['high'] - point['low']):.1f}"


TABLES: dict[str, Callable[[], str]] = {
    "measured-summary": summary,
    "measured-published": published,
    "checkpoints-memory": in_memory,
    "checkpoints-disk": from_disk,
    "checkpoints-large": large,
    "checkpoints-ranks": ranks,
    "checkpoints-inspect": inspected,
    "checkpoints-recount": recounted,
    "checkpoints-torture": torture,
    "packed-sizes": packed_sizes,
    "packed-normal": packed_normal,
    "packed-minilm": packed_minilm,
    "packed-mutants": packed_mutants,
    "packed-speed": packed_speed,
    "packed-lenets": packed_lenets,
    "compare-digits": lambda: compared("compare_digits"),
    "lottery-digits": lambda: tickets("lottery_digits", "secateurs lottery --steps 1000 --seeds 5"),
    "lottery-mnist": lambda: tickets("lottery_mnist", "secateurs lottery --data mnist --data-dir DIR"),
    "sensitivity-lenet-5": lambda: scanned("lenet-5"),
    "patterns-kept": patterns_kept,
    "patterns-retrain": patterns_retrain,
}
for _net in ("lenet-5", "resnet-20"):
    for _view in ("size", "multiply-adds"):
        TABLES[f"{_net}-equal-{_view}"] = lambda name=_net, view=_view: allocated(name, view)  # type: ignore[misc]
for _name in ("explore_digits", "explore_mnist"):
    for _kind in (stages, tradeoff, claims):
        TABLES[f"{_name}-{_kind.__name__}"] = lambda kind=_kind, name=_name: kind(name)  # type: ignore[misc]
