"""Patterns: the tables of patterns.md."""

from collections.abc import Callable
from typing import Any

from measured.common import machine, not_yet, part, table
from secateurs.measure.intervals import over_seeds


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


TABLES: dict[str, Callable[[], str]] = {
    "patterns-kept": patterns_kept,
    "patterns-retrain": patterns_retrain,
}
