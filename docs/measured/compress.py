"""Compress: the tables of docs/compress.md, from benchmarks/results/compress.json."""

from collections.abc import Callable
from typing import Any

from measured.common import RESULTS, machine, not_yet, part, read, table
from secateurs.measure.intervals import over_seeds
from secateurs.see.pareto import pareto_picture
from secateurs.see.pictures import svg_of

PRUNED = 0.8
COMMAND = "python benchmarks/compress.py"
UNCUT = {"after": "rounded", "with": "learned"}  # the steps of a seed of which nothing was cut
STEPS = {
    "dense": "dense, packed without loss",
    "longer": "dense, trained on, as long",
    "rounded": "quantization alone",
    "learned": "quantized while taught by the dense network, nothing pruned",
    "smaller": "units removed, nothing trained",
    "once": "pruning alone, at once",
    "labels": "pruned while trained on labels",
    "taught": "pruned while taught by the dense network",
    "after": "the same, quantized after",
    "with": "the same, quantized in training",
}


def steps(case: str) -> str:
    """What each step gave, mean over the seeds, and what was chosen for each."""
    found = part("compress", case)
    if found is None or "run" not in found:
        return not_yet(f"{COMMAND} run {case} --data DATA")
    seeds, rows = found["run"], []
    for name, title in STEPS.items():
        by_seed = [(each, row) for each in seeds.values() for row in each["steps"] if _kind(row, each) == name]
        of = [row for _, row in by_seed]
        if not of:
            continue
        n_bytes = sum(row["size_bytes"] for row in of) / len(of)
        whole = next(iter(seeds.values()))["dense"]["file_bytes"]
        times = [each["times"][row["id"]]["speed_up"] for each, row in by_seed if row["id"] in each["times"]]
        lost = "—" if name == "dense" else _points([row["drop"] for row in of])
        shown = f"{len(of)} of {len(seeds)}" if len(of) < len(seeds) else str(len(seeds))
        rows.append([title, shown, f"{n_bytes:,.0f}", f"{whole / n_bytes:.1f}×", _share(of), lost, _times(times)])
    head = ["step", "seeds", "bytes", "smaller", "test accuracy, %", "lost, points", "faster"]
    first = next(iter(seeds.values()))
    return f"{table(head, rows)}\n\n{_chosen(seeds, first)} {machine(found)}"


def _kind(row: dict[str, Any], one: dict[str, Any]) -> str:
    """Which of STEPS a row is: where nothing was cut, what is quantized has no pruning before it."""
    is_cut = any(each["id"] == "taught" for each in one["steps"])
    kind: str = row["id"] if is_cut else UNCUT.get(row["id"], row["id"])
    return kind


def _chosen(seeds: dict[str, Any], first: dict[str, Any]) -> str:
    said = []
    for seed, one in seeds.items():
        chosen, test = one["chosen"], one["test"]
        ratio = one["dense"]["file_bytes"] / chosen["size_bytes"]
        lost = f"{100 * test['drop']:+.2f} points lost ({100 * test['low']:+.2f} to {100 * test['high']:+.2f})"
        is_met = "target met" if one["is_met"] else "target **not met**"
        size = f"{chosen['size_bytes']:,} bytes ({ratio:.1f}×, {_name(chosen)})"
        notes = "".join(f" ({note.rstrip('.')})" for note in one["notes"] if note.startswith("In rung"))
        said.append(f"seed {seed}: {size}, {lost}, {is_met}, {one['duration_s'] / 60:.1f} min{notes}")
    return (
        f"Mean over the seeds (95 % t interval), n = {first['test']['n']:,} test examples, the dense file "
        f"{first['dense']['file_bytes']:,} bytes; at most {100 * first['goal']['max_drop']:g} points asked. Faster: "
        f"one example on {first['seconds']['threads']} threads, dense time by own, median over the seeds. Chosen: "
        f"{'; '.join(said)}."
    )


def _name(chosen: dict[str, Any]) -> str:
    return str(chosen["name"])


def line(case: str) -> str:
    """One sentence: what the command made of it."""
    found = part("compress", case)
    if found is None or "run" not in found:
        return not_yet(f"{COMMAND} run {case} --data DATA")
    seeds = list(found["run"].values())
    first = seeds[0]
    ratios = [each["dense"]["file_bytes"] / each["chosen"]["size_bytes"] for each in seeds]
    lost = [each["test"]["drop"] for each in seeds]
    n_met = sum(each["is_met"] for each in seeds)
    minutes = max(each["duration_s"] for each in seeds) / 60
    return (
        f"`secateurs compress {first['model']['name']} --data {first['data']['name']}` makes {_between(ratios, '.0f')} "
        f"times smaller files of it in {minutes:.0f} minutes on {found['environment']['cores']} cores, for "
        f"{_between([100 * each for each in lost], '.2f')} points of test accuracy ({len(seeds)} seeds, {n_met} within "
        f"the {100 * first['goal']['max_drop']:g} points asked, n = {first['test']['n']:,})."
    )


def _between(values: list[float], form: str) -> str:
    low, high = (f"{each:{form}}" for each in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def quantized(case: str) -> str:
    """What rounding costs the networks that were pruned to 80 %, on validation examples; of each seed the longest."""
    found = part("compress", case)
    if found is None or "run" not in found:
        return not_yet(f"{COMMAND} run {case} --data DATA")
    drops: dict[str, list[float]] = {}
    sizes: dict[str, list[int]] = {}
    epochs, n = [], 0
    for each in found["run"].values():
        of = [
            one
            for one in each["tried"]
            if one["candidate"]["sparsity"] == PRUNED and not one["candidate"]["student"] and not one["is_tuned"]
        ]
        longest = max(one["epochs"] for one in of)
        last = {one["candidate"]["values"]: one for one in of if one["epochs"] == longest}
        epochs.append(longest)
        n = last["exact"]["n"]
        for values, one in last.items():
            drops.setdefault(values, []).append(one["drop"] - last["exact"]["drop"])
            sizes.setdefault(values, []).append(one["size_bytes"])
    rows = [
        [
            values,
            f"{sum(sizes[values]) / len(sizes[values]):,.0f}",
            "—" if values == "exact" else _points(drops[values]),
        ]
        for values in drops
    ]
    return (
        f"{table(['values', 'bytes', 'lost by rounding, points'], rows)}\n\n"
        f"{100 * PRUNED:.0f} % zeros, pruned for {' / '.join(f'{each:.3g}' for each in epochs)} epochs, rounded after; "
        f"mean over {len(epochs)} seeds (95 % t interval), n = {n:,} validation examples."
    )


def hand(case: str, name: str) -> str:
    """The same dense networks, pruned and quantized with torch alone, with NNCF, and with this library's own parts."""
    found = part("compress", name)
    if found is None or "torch" not in found or "run" not in found:
        return not_yet(f"{COMMAND} torch {case} --data DATA")
    rows = []
    for way, name in (("torch", "torch"), ("nncf", "NNCF and OpenVINO"), ("secateurs", "secateurs")):
        for key, title in (("pruned", f"{name}: 80 % pruned and fine-tuned"), ("int8", f"{name}: the same, int8")):
            of = [each["rows"][key] for each in found.get(way, {}).values()]
            if not of:
                continue
            sizes = [sum(row[size] for row in of) / len(of) for size in ("size_bytes", "zipped_bytes")]
            lost = _points([row["drop"] for row in of])
            rows.append([title, str(len(of)), *(f"{size:,.0f}" for size in sizes), _share(of), lost])
    ours = [each["test"] for each in found["run"].values()]
    size = sum(each["chosen"]["size_bytes"] for each in found["run"].values()) / len(ours)
    lost = _points([row["drop"] for row in ours])
    rows.append(["`secateurs compress`", str(len(ours)), f"{size:,.0f}", "—", _share(ours), lost])
    steps = [each["n_steps"] for each in found["torch"].values()]
    epochs = [next(row["epochs"] for row in each["steps"] if row["id"] == "with") for each in found["run"].values()]
    head = ["way", "seeds", "bytes", "zipped", "test accuracy, %", "lost, points"]
    trained = " / ".join(f"{each:,}" for each in steps)
    return (
        f"{table(head, rows)}\n\n`{COMMAND} torch {case} --data DATA`, the same with `nncf` and `secateurs`; {trained} "
        f"steps, 20 epochs, from the same dense networks; those that `compress` chose had {min(epochs):.0f} to "
        f"{max(epochs):.0f}. Mean over the seeds (95 % t interval), n = {ours[0]['n']:,} test examples. "
        f"{machine(found)}"
    )


def latency() -> str:
    """The dense network and the compressed one under every runtime, one example of 32 tokens."""
    if not (RESULTS / "bench_compressed.json").exists():
        return not_yet("secateurs bench dense/model --vs compressed/model --tokens 32")
    found = read("bench_compressed")
    rows = []
    for name in dict.fromkeys(row["contender"] for row in found["rows"] if row["outcome"] in ("timed", "wrong")):
        pair = [row for row in found["rows"] if row["contender"] == name]
        rows.append([name, *(_speed(row) for row in sorted(pair, key=lambda row: row["model"]))])
    where = found["environment"]
    return (
        f"{table(['runs with', 'dense', 'compressed'], rows)}\n\nTimes faster than torch's float32 with the dense "
        f"network, one example of 32 tokens; median of {found['n_rounds']} rounds and a bootstrap interval. "
        f"`{found['command']}`; {where['cpu']}, {where['threads']} threads, {where['vectors']}; torch {where['torch']}."
    )


def _speed(row: dict[str, Any]) -> str:
    if row["outcome"] != "timed":
        return f"{row['outcome']}: off by {row['difference']:.0%} of the largest answer"
    (one,) = row["latencies"]
    ms = f"{1000 * one['p50_s']:.1f} ms"
    if one["speedup"] is None:
        return f"1, {ms}"
    if not one["is_difference"]:
        return f"no difference, {ms}"
    return f"{one['speedup']['median']:.2f} ({one['speedup']['low']:.2f}–{one['speedup']['high']:.2f}), {ms}"


def _share(rows: list[dict[str, Any]]) -> str:
    return _mean([100 * row["n_correct"] / row["n"] for row in rows])


def _points(drops: list[float]) -> str:
    return _mean([100 * drop for drop in drops], signed=True)


def _times(ratios: list[float]) -> str:
    return f"{sorted(ratios)[len(ratios) // 2]:.2f}×" if ratios else "—"


def _mean(values: list[float], *, signed: bool = False) -> str:
    found = over_seeds(values)
    half = "" if len(values) == 1 else f" ± {(found.high - found.low) / 2:.2f}"
    return f"{found.mean:{'+' if signed else ''}.2f}{half}"


def drawn(case: str) -> str:
    """Everything that was tried for the first seed whose search had time for all of its rungs, as SVG."""
    found = part("compress", case)
    assert found is not None
    seeds = list(found["run"].values())
    return svg_of(pareto_picture(next((each for each in seeds if not each["notes"]), seeds[0])))


TABLES: dict[str, Callable[[], str]] = {
    "compress-mnist": lambda: steps("mnist"),
    "compress-banking77": lambda: steps("banking77"),
    "compress-banking77-half": lambda: steps("banking77-half"),
    "compress-line": lambda: line("mnist"),
    "compress-latency": latency,
    "compress-quantized": lambda: quantized("mnist"),
    "compress-hand": lambda: hand("mnist", "mnist-earlier"),
}
IMAGES: dict[str, Callable[[], str]] = {"compress-mnist": lambda: drawn("mnist")}
