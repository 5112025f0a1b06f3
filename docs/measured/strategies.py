"""Strategies: the tables and the picture of strategies.md."""

from collections.abc import Callable
from functools import partial
from typing import Any

from measured.common import RESULTS, machine, mean, not_yet, part, provenance, read, table
from secateurs.experiments.lottery import KINDS
from secateurs.measure.intervals import half_width
from secateurs.see.curves import COMPARISON, comparison_chart, lottery_chart
from secateurs.see.pictures import svg_of


def compared(name: str, command: str) -> str:
    """Strategies (rows) at sparsities (columns), with epochs, bytes and multiply-adds at one of them."""
    if not (RESULTS / f"{name}.json").exists():
        return not_yet(command)
    results = read(name)
    dense, asked = results["dense"], list(dict.fromkeys(point["asked"] for point in results["points"]))
    at = min(asked, key=lambda s: abs(s - 0.9))
    by_point = {(point["strategy"], point["asked"]): point for point in results["points"]}
    rows = []
    for strategy in dict.fromkeys(point["strategy"] for point in results["points"]):
        points, one = [by_point[strategy, s] for s in asked], by_point[strategy, at]
        costs = [f"{one['epochs']:g}", f"{one['packed_bytes']:,.0f}", f"{one['multiply_adds']:,.0f}"]
        rows.append([COMPARISON[strategy], *map(_off_dense, points), *costs])
    costs = [f"{dense['epochs']:g}", f"{dense['packed_bytes']:,.0f}", f"{dense['multiply_adds']:,.0f}"]
    given = results["given"]
    if given is not None:
        rows.append(["dense, as given", f"{100 * given['value']:.1f}", *["″"] * (len(asked) - 1), "0", *costs[1:]])
    name_of_dense = "dense" if given is None else "dense, trained on"
    rows.append([name_of_dense, mean(dense), *["″"] * (len(asked) - 1), *costs])
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
        f"{1e3 * speed['dense_s']:.2f} and {1e3 * speed['zeroed_s']:.2f} ms for a batch of {speed['batch']} ({what}). "
        f"{provenance(results)}"
    )


def drawn(chart: Callable[[dict[str, Any]], Any], name: str) -> str:
    """The picture of a comparison or a lottery, as SVG; the same that the run itself writes."""
    return svg_of(chart(read(name)))


def _off_dense(point: dict[str, Any]) -> str:
    star = r"\*" if point["minus_dense"]["is_beyond_noise"] else ""
    reached = "" if abs(point["sparsity"] - point["asked"]) < 5e-3 else f" ({point['sparsity']:.1%})"
    empty = f" ({point['n_collapsed']} empty)" if point["n_collapsed"] else ""
    return mean(point) + star + reached + empty


def tickets(name: str, command: str) -> str:
    """The levels of a lottery: counts, accuracies, differences, early stops."""
    if not (RESULTS / f"{name}.json").exists():
        return not_yet(command)
    results = read(name)
    rows, there = [], [kind for kind in KINDS if kind in results["levels"][-1]["kinds"]]
    for level in results["levels"]:
        kinds, gaps = level["kinds"], level["gaps"]
        found = [_two(kinds[kind]) if kind in kinds else "" for kind in there]
        told = [_points(gaps[f"ticket-{kind}"]) if gaps else "" for kind in there[1:]]
        stop = " / ".join(f"{kinds[kind]['early_stop_step']['mean']:,.0f}" for kind in there if kind in kinds)
        rows.append([f"{level['kept']:.2%}", f"{level['n_kept']:,}", *found, *told, stop])
    head = [
        "kept",
        "weights",
        *(KINDS[kind] for kind in there),
        *({"reinit": "ticket − re-initialised", "random": "ticket − random"}[kind] for kind in there[1:]),
        f"early stop: {' / '.join(KINDS[kind] for kind in there)}",
    ]
    n = len(results["seeds"])
    mean_of = f"mean of {n} seeds ± the 95 % t interval, n" if n > 1 else "of one seed, n"
    noise = (
        "differences in points, seed by seed, **bold** where the interval is off zero, the others are within seed noise"
        if n > 1
        else "differences in points. One seed has no interval: which of them are more than seed noise is not known"
    )
    return (
        f"{table(head, rows)}\n\nTest accuracy in % after {results['n_steps']:,} steps, {mean_of} = "
        f"{results['data']['n_test']:,} test examples; {noise}. Early stop: the step with the least validation loss. "
        f"{provenance(results)}"
    )


def _two(point: dict[str, Any]) -> str:
    half = half_width(point)
    return f"{100 * point['mean']:.2f}" + ("" if half is None else f" ± {100 * half:.2f}")


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


WAYS = {
    "dense": "dense",
    "taught": "dense, taught on by itself",
    "pruned-70%": "70 % gone, gradually",
    "pruned-90%": "90 % gone, gradually",
    "2:4": "2:4, at once",
}


def minilm() -> str:
    """A published transformer with a head on texts, its encoder pruned."""
    arms = part("minilm_banking77", "arms")
    if arms is None:
        return not_yet("python benchmarks/minilm_banking77.py MODEL DATA")
    results = read("minilm_banking77")
    rows = []
    for name, what in WAYS.items():
        if name not in arms:
            continue
        arm = arms[name]
        zeros = "—" if not arm["n_zero"] else f"{arm['n_zero'] / arm['n_prunable']:.1%}"
        gap = arm["minus_dense"]
        told = "" if name == "dense" else _points({**gap, "is_beyond_noise": gap["low"] > 0 or gap["high"] < 0})
        epochs = f"{arm['training']['epochs']:g}"
        rows.append([what, zeros, epochs, str(len(arm["seeds"])), _two(arm["over_seeds"]), told])
    n_test = arms["dense"]["test"]["n"]
    weights = max(arm["n_prunable"] for arm in arms.values())
    precision = arms["dense"]["training"]["precision"]
    head = ["encoder", "zeros", "epochs", "seeds", "test accuracy, %", "less dense, points"]
    return (
        f"{table(head, rows)}\n\nbanking77, 77 classes, n = {n_test:,} test queries; mean of the seeds ± the 95 % t "
        f"interval; differences with the 95 % interval over the queries, **bold** where it is off zero. Zeros are of "
        f"the encoder's {weights:,} matrix weights; the 11.7 million of the embeddings stay. Epochs are of this "
        f"training; all but the first begin with the dense network of their seed, which teaches them. In {precision}. "
        f"{provenance(results)}"
    )


# (network, what, times fewer weights, test error in %, source), as published.
PUBLISHED = (
    ("lenet-300-100", "magnitude, iterative", 12.2, 1.59, "Han et al. 2015, arXiv:1506.02626"),
    ("lenet-300-100", "dynamic network surgery", 56.0, 1.99, "Guo et al. 2016, arXiv:1608.04493"),
    ("lenet-300-100", "sparse variational dropout", 68.0, 1.92, "Molchanov et al. 2017, arXiv:1701.05369"),
    ("lenet-5", "magnitude, iterative", 12.0, 0.77, "Han et al. 2015"),
    ("lenet-5", "dynamic network surgery", 108.0, 0.91, "Guo et al. 2016"),
    ("lenet-5", "sparse variational dropout", 280.0, 0.75, "Molchanov et al. 2017"),
)


def lenets() -> str:
    """The papers' LeNets beside ours."""
    found = read("lenets")
    rows = [[net, what, f"{fewer:g} ×", f"{error:.2f}", source] for net, what, fewer, error, source in PUBLISHED]
    for net in ("lenet-300-100", "lenet-300-100-shifted", "lenet-5"):
        for stage, each in found[net]["summary"].items():
            test, shift = each["test_error"], found[net]["stages"][stage]["training"].get("shift", 0)
            if stage in ("dense", "small", "tiny"):
                moved = f", images shifted by up to {shift} pixel{'s' * (shift > 1)}" if shift else ""
                what = (
                    f"**ours, {stage}**: gradual, taught by the dense one{moved}"
                    if stage != "dense"
                    else f"ours, dense{moved}"
                )
                error = f"{test['mean']:.2f} ({test['low']:.2f}–{test['high']:.2f}), {test['n_seeds']} seeds"
                rows.append(
                    [net.removesuffix("-shifted"), what, f"{each['fewer']:.1f} ×", error, "benchmarks/lenets.py"]
                )
    rows.sort(key=lambda row: row[0])
    return table(["network", "way", "fewer weights", "test error, %", "from"], rows)


def _at_work(training: dict[str, Any], found: dict[str, Any], seed: str) -> list[str]:
    passes = training["epochs"] * (2 if training["sharpness"] else 1)
    cells = [f"{training['sharpness']:g}", f"{training['epochs']:g}", f"{passes:g}", f"{found['fewer']:.0f} ×"]
    return [*cells, f"{found['validation_error']:.2f}", seed]


def sharpness() -> str:
    """LeNet-300-100 pruned with and without sharpness-aware steps, at equal work, on validation images."""
    found = read("lenets")
    settled = found["lenet-300-100"]
    rows = [
        _at_work(settled["stages"][name]["training"], stages[name], seed)
        for name in ("small", "tiny")
        for seed, stages in settled["seeds"].items()
    ]
    for trial in found.get("trials", []):
        training = trial.get("changes", {}).get("small", {}).get("training", {})
        if "sharpness" not in training:
            continue
        for seed, stages in trial["seeds"].items():
            rows.append(_at_work(trial["stages"]["small"]["training"], stages["small"], seed))
    rows.sort(key=lambda row: (float(row[3].split()[0]), row[0], int(row[5])))
    head = ["sharpness", "epochs", "backward passes over the data", "fewer weights", "validation error, %", "seed"]
    return (
        f"{table(head, rows)}\n\nLeNet-300-100, no shifted images, the same weight decay, n = 5,000 validation images: "
        "± 0.3 points by themselves. `python benchmarks/lenets.py lenet-300-100 DATA`; seed 100, and what has no "
        "sharpness, with `--last small --trial JSON`, the JSON of which is in benchmarks/results/lenets.json."
    )


def overhead() -> str:
    """What pruning in the loop costs a real training."""
    if not (RESULTS / "overhead.json").exists():
        return not_yet("python benchmarks/overhead.py MODEL DATA")
    found = read("overhead")
    return (
        f"In {found['n_steps']} steps of all-MiniLM-L6-v2 with 32 texts each, masks chosen anew every "
        f"{found['every']}, the pruner took **{found['share']:.1%}** of the time of forward, backward and optimizer "
        f"({found['low']:.1%} to {found['high']:.1%} between two choices): a median of "
        f"{1e3 * found['pruner_s']:.0f} ms beside {1e3 * found['step_s']:.0f} ms, and {1e3 * found['choice_s']:.0f} ms "
        "at most where masks are chosen. "
        f"`{found['recipe']}`, {machine(found)}"
    )


TABLES: dict[str, Callable[[], str]] = {
    "measured-overhead": overhead,
    "lenets-published": lenets,
    "lenets-sharpness": sharpness,
    "compare-digits": lambda: compared("compare_digits", "secateurs compare --seeds 5"),
    "minilm-banking77": minilm,
    "compare-resnet20": lambda: compared("compare_resnet20", "python benchmarks/resnet20.py DATA"),
    "lottery-digits": lambda: tickets("lottery_digits", "secateurs lottery --steps 1000 --seeds 5"),
    "lottery-mnist": lambda: tickets(
        "lottery_mnist", "secateurs lottery --data mnist --data-dir DIR --controls reinit"
    ),
    "sensitivity-lenet-5": lambda: scanned("lenet-5"),
}
for _net in ("lenet-5", "resnet-20"):
    for _view in ("size", "multiply-adds"):
        TABLES[f"{_net}-equal-{_view}"] = partial(allocated, _net, _view)


IMAGES = {
    name.replace("_", "-"): partial(drawn, chart, name)
    for name, chart in (
        ("compare_digits", comparison_chart),
        ("compare_resnet20", comparison_chart),
        ("lottery_digits", lottery_chart),
        ("lottery_mnist", lottery_chart),
    )
    if (RESULTS / f"{name}.json").exists()
}
