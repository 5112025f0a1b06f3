"""Structure: the tables of docs/structure.md, from benchmarks/results/structure.json."""

from collections.abc import Callable, Iterable
from typing import Any

from measured.common import machine, not_yet, part, table
from secateurs.measure.intervals import over_seeds

COMMAND = "python benchmarks/structure.py"
NETWORKS = {"mlp": "LeNet-300-100 without half of its hidden units", "transformer": "CLS transformer, half of its FFN"}
ARMS = {
    "dense": "dense",
    "dense on": "dense, trained on as long as the cut one",
    "cut": "cut, not trained after it",
    "shrunk": "cut and fine-tuned",
    "scratch-E": "the small network from new weights, as many epochs as dense",
    "scratch-B": "the same, as much computation as dense",
}


def halves() -> str:
    """Half of the units gone, with the controls."""
    found = part("structure", "halves")
    if found is None:
        return not_yet(f"{COMMAND} halves --data DATA")
    rows, sizes = [], []
    for name, title in NETWORKS.items():
        seeds = [each for each in found.get(name, {}).values() if len(each) == len(ARMS)]
        if not seeds:
            continue
        epochs = [seeds[0][arm].get("epochs") for arm in ARMS]
        for (arm, what), n in zip(ARMS.items(), epochs, strict=True):
            tests = [each[arm]["test"]["value"] for each in seeds]
            less = [each[arm]["test"]["value"] - each["dense"]["test"]["value"] for each in seeds]
            said = "—" if arm == "dense" else _mean(less, signed=True)
            rows.append([f"{title}: {what}", "—" if n is None else f"{n:.3g}", _mean(tests), said])
        cut = seeds[0]["cut"]
        parameters, macs = (f"{cut[key][0]:,} → {cut[key][1]:,}" for key in ("n_parameters", "macs"))
        sizes.append(f"{name}: {parameters} parameters, {macs} multiply-adds, {len(seeds)} seeds")
    head = ["network", "epochs", "test accuracy", "less dense"]
    return (
        f"{table(head, rows)}\n\n`{found['recipe']}` on MNIST, in %, mean over the seeds (95 % t interval), n = "
        f"{found['n_test']:,} test examples; epochs of this training alone. {'; '.join(sizes)}. {machine(found)}"
    )


def resnet() -> str:
    """ResNet-20 at half its multiply-adds, ours beside torch-pruning's."""
    found = part("structure", "resnet")
    if found is None:
        return not_yet(f"{COMMAND} resnet --data DATA")
    dense = found["dense"]
    rows = [["published, dense", f"{dense['macs'] / 1e6:.2f} M", "—", f"{100 * dense['test']['value']:.2f}", "—"]]
    arms = {name: _tuned(arm) for name, arm in found.items() if isinstance(arm, dict) and _tuned(arm)}
    for name, seeds in arms.items():
        cut, tuned = ([each[key]["test"]["value"] for each in seeds] for key in ("cut", "tuned"))
        chosen = ", ".join(dict.fromkeys(f"`{each['by']}`" for each in seeds))
        macs = sum(each["macs"] for each in seeds) / len(seeds)
        rows.append(
            [
                f"{name} ({len(seeds)} seed{'s' * (len(seeds) > 1)})",
                f"{macs / 1e6:.2f} M",
                _mean(cut),
                _mean(tuned),
                chosen,
            ]
        )
    how = found["training"]
    return (
        f"{table(['network', 'multiply-adds', 'cut', 'fine-tuned', 'by'], rows)}\n\nTest accuracy on CIFAR-10 in %, "
        f"n = {found['n_test']:,}. Fine-tuned for {how['epochs']:g} epochs of 8,000 training images, rate "
        f"{how['learning_rate']:g}, images shifted and mirrored, all arms alike; BatchNorm's statistics are "
        're-estimated before "cut" is measured, ours are repaired by least squares first, where it does not say not. '
        f"{machine(found)}"
    )


def minilm() -> str:
    """MiniLM without half of its FFN and a third of its heads."""
    found = part("structure", "minilm")
    seeds = [each for each in (found or {}).values() if isinstance(each, dict) and "shrunk" in each]
    if found is None or not seeds:
        return not_yet(f"{COMMAND} minilm --data DATA --path MINILM")
    dense, shrunk = ([each[arm]["test"]["value"] for each in seeds] for arm in ("dense", "shrunk"))
    less = [b - a for a, b in zip(dense, shrunk, strict=True)]
    cut = seeds[0]["cut"]
    taught = (part("minilm_banking77", "arms") or {})["taught"]
    rows = [
        ["dense", f"{cut['n_parameters'][0]:,}", _mean(dense), "—"],
        [
            "dense, taught by itself for as long, at half the rate",
            f"{cut['n_parameters'][0]:,}",
            _over(taught["over_seeds"]),
            _over(taught["minus_dense"]["over_seeds"], signed=True),
        ],
        ["shrunk", f"{cut['n_parameters'][1]:,}", _mean(shrunk), _mean(less, signed=True)],
    ]
    recipes = ", then ".join(f"`{recipe}`" for recipe in found["recipes"])
    when_cut, before = (_mean(each[arm]["validation"]["value"] for each in seeds) for arm in ("cut", "dense"))
    macs = cut["macs"][0] / cut["macs"][1]
    return (
        f"{table(['encoder', 'parameters', 'banking77 accuracy', 'less dense'], rows)}\n\n{recipes}, repaired by least "
        f"squares, then {found['training']['epochs']:g} epochs with the dense network as the teacher; {len(seeds)} "
        f"seeds, n = {found['n_test']:,} test queries, in %, mean ± the 95 % t interval. When cut, not trained: "
        f"{when_cut} of the validation queries (dense {before}). Beside the dense network that was taught for as long, "
        f"it is {_mean([sum(shrunk) / len(shrunk) - taught['over_seeds']['mean']], signed=True)}. "
        f"{macs:.2f} times fewer multiply-adds. {machine(found)}"
    )


def time() -> str:
    """Seconds before and after."""
    found = part("structure", "time")
    if found is None:
        return not_yet(f"{COMMAND} time --data DATA --path MINILM")
    rows = []
    for name, each in found.items():
        if isinstance(each, dict) and "speed_up" in each:
            ratio, (before, after) = each["speed_up"], each["seconds"]
            is_same = ratio["low"] <= 1 <= ratio["high"]
            said = "no difference" if is_same else f"× {ratio['ratio']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
            macs = each["macs"]
            theory = f"× {macs[0] / macs[1]:.2f}" if isinstance(macs, list) else "—"
            rows.append([name, f"{1e3 * before:.3g}", f"{1e3 * after:.3g}", said, theory])
    head = ["network", "ms before", "ms after", "measured speed-up", "multiply-adds (theoretical)"]
    return f"{table(head, rows)}\n\nMedians of interleaved pairs, 95 % interval. {machine(found)}"


def graphs() -> str:
    """What torch-pruning's graph makes of the networks that are supported here."""
    found = part("structure", "graphs")
    if found is None:
        return not_yet(f"{COMMAND} graphs --data DATA")
    rows = [[name, each["ours"], each["torch-pruning"]] for name, each in found["networks"].items()]
    head = ["network", "shrink", f"torch-pruning {found['version']}"]
    return f"{table(head, rows).replace('---:', '---')}\n\n{machine(found)}"


def _tuned(arm: dict[str, Any]) -> list[dict[str, Any]]:
    """The seeds of an arm that are done."""
    return [each for each in arm.values() if isinstance(each, dict) and "tuned" in each]


def _over(found: dict[str, Any], signed: bool = False) -> str:
    """A mean over seeds as it was recorded."""
    return f"{100 * found['mean']:{'+' if signed else ''}.2f} ± {50 * (found['high'] - found['low']):.2f}"


def _mean(values: Iterable[float], signed: bool = False) -> str:
    values = list(values)
    found = over_seeds(values)
    mean = f"{100 * found.mean:{'+' if signed else ''}.2f}"
    return mean if len(values) < 2 else f"{mean} ± {50 * (found.high - found.low):.2f}"


TABLES: dict[str, Callable[[], str]] = {
    "structure-graphs": graphs,
    "structure-halves": halves,
    "structure-minilm": minilm,
    "structure-resnet": resnet,
    "structure-time": time,
}
