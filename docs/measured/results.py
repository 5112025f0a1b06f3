"""Results: the tables of results.md and of the README."""

from collections.abc import Callable
from functools import partial

from measured.common import mean, provenance, read, table
from secateurs.see.style import STRATEGIES


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
        rows.append([f"{s:.0%}", *(mean(point) for point in points)])
    dense = results["dense"]
    return (
        f"{table(['sparsity', *STRATEGIES.values()], rows)}\n\nTest accuracy in %, mean of {dense['n_seeds']} seeds "
        f"(95 % t interval), n = {dense['n_test']:,} test examples; dense with the same training budget {mean(dense)}."
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
        at = [f"{mean(by_point[s, 'in-loop'])}" for s in (0.7, 0.9)]
        once = mean(by_point[0.9, "one-shot"])
        size, speed = results["zeros_alone"]["size_bytes"], results["zeros_alone"]["latency"]
        is_same = speed["low"] <= 1 <= speed["high"]
        milliseconds = f"{1e3 * speed['dense_s']:.2f} → {1e3 * speed['zeroed_s']:.2f} ms"
        milliseconds += " (no difference)" if is_same else f" (× {speed['ratio']:.2f})"
        rows.append([label, mean(results["dense"]), *at, once, f"{size['dense']:,} → {size['zeroed']:,}", milliseconds])
    head = ["network", "dense", "70 % in the loop", "90 % in the loop", "90 % one-shot", "bytes", "batch of 64"]
    return table(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "measured-summary": summary,
    "measured-published": published,
}
for _name in ("explore_digits", "explore_mnist"):
    for _kind in (stages, tradeoff, claims):
        TABLES[f"{_name}-{_kind.__name__}"] = partial(_kind, _name)
