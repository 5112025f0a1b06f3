"""Tables: what a person reads in the terminal after `explore`, and before it with --dry-run."""

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from secateurs.cli.runs import print_work
from secateurs.cli.safe import Stdout
from secateurs.cuttable import cuttable
from secateurs.experiments.explore import Explorer
from secateurs.layers import layers
from secateurs.see.style import STRATEGIES, percent

MARKS = {"holds": "[green]holds[/]", "does not hold": "[red]does not hold[/]"}


def print_results(results: dict[str, Any], out: Path) -> None:
    """Headline, stages, trade-off, claims, and where everything lies."""
    console = Stdout(highlight=False)
    console.print(f"\n[bold]{escape(results['headline'])}[/]\n")
    stages = Table(
        "stage",
        "zeros",
        "test accuracy",
        "95 % interval",
        title=f"Stages, seed {results['seeds'][0]}",
        title_justify="left",
    )
    for stage in results["stages"]:
        test = stage["accuracy"]["test"]
        interval = f"{test['low']:.1%} to {test['high']:.1%} (n={test['n']:,})"
        title = stage["title"] + (f" (tau {stage['tau_text']})" if stage["tau_text"] else "")
        stages.add_row(title, percent(stage["sparsity"]), f"{test['value']:.1%}", interval)
    console.print(stages)
    for stage in results["stages"]:
        if stage["collapsed"]:
            names = ", ".join(stage["collapsed"])
            console.print(f"[yellow]Layer collapse[/] in '{stage['title']}': nothing is left of {escape(names)}.")
    _print_tradeoff(console, results)
    claims = Table("claim", "verdict", "measured", title="Claims, tested on this run", title_justify="left")
    for claim in results["claims"]:
        claims.add_row(claim["text"], MARKS.get(claim["verdict"], claim["verdict"]), claim["number"])
    console.print(claims)
    console.print(f"\nThe page: [bold]{escape(str(out / 'report.html'))}[/]")
    console.print(f"Pictures, models, results.json, recipe.yaml: {escape(str(out))}/")


def _print_tradeoff(console: Stdout, results: dict[str, Any]) -> None:
    dense = results["dense"]
    n = len(results["seeds"])
    title = f"Test accuracy against sparsity, mean of {n} seed{'s' if n > 1 else ''}; dense {dense['mean']:.1%}"
    table = Table("sparsity", *STRATEGIES.values(), title=title, title_justify="left")
    by_point = {(point["asked"], point["strategy"]): point for point in results["tradeoff"]}
    for s in dict.fromkeys(point["asked"] for point in results["tradeoff"]):
        cells = [by_point[s, strategy] for strategy in STRATEGIES]
        table.add_row(percent(s, 0), *(f"{cell['mean']:.1%}{_reached(cell)}" for cell in cells))
    console.print(table)


def _reached(point: dict[str, Any]) -> str:
    """What a point of the trade-off really is, where that is not what was asked."""
    text = "" if abs(point["sparsity"] - point["asked"]) < 5e-3 else f" (at {percent(point['sparsity'])})"
    return text + (f" ({point['n_collapsed']} layers empty)" if point["n_collapsed"] else "")


def print_plan(explorer: Explorer, as_json: bool) -> None:
    """What would be pruned, run and written."""
    run = explorer.run_value
    found = layers(run.network, run.recipe.skip, run.recipe.only)
    candidates, reasons = cuttable(found, run.recipe, run.recipe.budget)
    cut = {layer.name for layer in candidates}
    rows: list[dict[str, Any]] = [
        {
            "name": layer.name,
            "shape": list(layer.shape),
            "n": layer.n,
            "status": "prune" if layer.name in cut else reasons.get(layer.name, ("skip", ""))[0],
            "reason": layer.reason or reasons.get(layer.name, ("", ""))[1],
        }
        for layer in found
    ]
    if not as_json:
        console = Stdout(highlight=False)
        title = str(run.exploration.experiment.model)
        table = Table("weight", "shape", "n", "", "why", title=title, title_justify="left")
        for row in rows:
            shape = " × ".join(map(str, row["shape"]))
            table.add_row(escape(row["name"]), shape, f"{row['n']:,}", row["status"], escape(row["reason"]))
        console.print(table)
        console.print(f"Recipe: {escape(str(run.recipe))}")
    about = {"layers": rows, "exploration": run.exploration.values()}
    print_work(explorer.work, run.network, run.data, run.exploration.experiment.training, about, as_json)
