"""`secateurs compress`: a target in; the network that meets it, packed, and what was tried, out."""

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from secateurs.checks import extra
from secateurs.cli import options
from secateurs.cli.networks import Given, named, opened
from secateurs.cli.quantities import quantity
from secateurs.cli.runs import command, shown
from secateurs.cli.safe import plain, plain_console
from secateurs.cli.screen import Shown, watch
from secateurs.errors import InputError
from secateurs.experiments.backends import connected
from secateurs.experiments.cells import keep_weights, stored_weights
from secateurs.experiments.compressed import CompressionRun
from secateurs.experiments.compression import Compression, Ground
from secateurs.experiments.directory import check_directory, locked
from secateurs.experiments.pacing import Pace, pace_of
from secateurs.experiments.work import seconds_per_step
from secateurs.measure.environment import environment
from secateurs.models.files import CONFIG_FILE, network_directory, weights_file
from secateurs.see.bench_tables import milliseconds
from secateurs.see.model_card import points, speed_text, times, verdict
from secateurs.see.style import percent
from secateurs.train.training import Training

MARK = "compression.yaml"


@click.command(context_settings=options.SETTINGS)
@click.argument("model", metavar="MODEL")
@options.DATA
@options.DATA_DIR
@click.option("--max-drop", default="0.5pp", show_default=True, help="Of test accuracy, in percentage points.")
@click.option("--target-size", help="Of the packed file at most, such as 5MB.  [default: as small as it gets]")
@click.option("--target-latency", help="Of one example at most, measured here, such as 8ms.")
@click.option("--max-time", default="20min", show_default=True, help="Of the whole, about; longer searches find more.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Of the longest trainings, whatever the time.")
@click.option(
    "--trim-vocabulary", is_flag=True, help="Of a pretrained network: drop the tokens that the training data lack."
)
@options.SEED
@options.out("runs/compress")
@options.JOBS
@options.BACKEND
@options.JSON
@options.dry_run("what would be tried, and how long it would take")
@options.DEBUG
@click.pass_context
def compress(
    context: click.Context,
    model: str,
    source: str,
    data_dir: str | None,
    max_drop: str,
    target_size: str | None,
    target_latency: str | None,
    max_time: str,
    epochs: float | None,
    trim_vocabulary: bool,
    seed: int,
    out: str,
    jobs: int | None,
    backend: str,
    as_json: bool,
    dry_run: bool,
    debug: bool,
) -> None:
    """The smallest network that loses little enough: pruned, quantized and distilled, and measured.

    MODEL is the model/ directory of a run, or the name of a reference network, which is trained first. Ends with 1
    where the target was not met; the closest network is written all the same. A killed run goes on.
    """
    if not Path(model).is_dir() and Path(model).name != model and "(" not in model:
        raise InputError(f"There is no model directory '{model}'. Give the directory that holds {CONFIG_FILE}.")
    given = opened(model, source, data_dir) if Path(model).is_dir() else named(model, source, data_dir, seed)
    start = None if given.is_new else stored_weights(given.network)
    asked = Compression(
        model=given.spec,
        data=given.data_spec,
        training=given.preset.training,
        recovery=_recovery(given),
        recovery_rates=given.preset.recovery_rates,
        tuned_rates=given.preset.tuned_rates,
        distill=given.preset.distill,
        start_sha256=None if start is None else start[0],
        max_drop=quantity("--max-drop", max_drop, "share"),
        size_bytes=None if target_size is None else quantity("--target-size", target_size, "bytes"),
        latency_s=None if target_latency is None else quantity("--target-latency", target_latency, "seconds"),
        max_time_s=quantity("--max-time", max_time, "seconds"),
        epochs=epochs,
        is_trimmed=trim_vocabulary,
        seed=seed,
    )
    file_bytes = None if given.is_new else weights_file(network_directory(model)).stat().st_size
    ground = Ground(asked, given.data, given.network, file_bytes)
    ground.check()
    for module in ("altair", "vl_convert"):
        extra(module, "explore")
    n_jobs = jobs or int(environment()["cores"])
    check_directory(Path(out), asked.to_yaml(), MARK)
    if dry_run:
        _print_plan(ground, n_jobs, out, as_json)
        return
    run = CompressionRun(ground, Path(out), command(jobs=0), n_jobs)  # how many work decides how many are tried
    with locked(Path(out), asked.to_yaml(), MARK), connected(backend):
        if start is not None:
            keep_weights(*start, Path(out))
        with watch(lambda: _shown(run)):
            results = run.run()
    if as_json:
        click.echo(json.dumps(results, allow_nan=False))
    else:
        _print_results(results, out)
    if not results["is_met"]:
        context.exit(1)


def _recovery(given: Given) -> Training:
    """The preset's training, with images that move as far as it says."""
    shape, training = given.data.shape, given.preset.training
    shift = round(given.preset.shifted * shape.size[1]) if shape.kind == "image" else 0
    return Training(**{**training.values(), "shift": shift})


def _shown(run: CompressionRun) -> Shown:
    progress, asked = shown(run.search.progress()), run.ground.asked
    text = f"{run.search.text} · {progress.text}"
    if asked.epochs is None:  # then the time decides how many steps there are
        return Shown(min(run.search.clock.seconds, asked.max_time_s), asked.max_time_s, text)
    return Shown(progress.done, progress.total, text)


def _print_plan(ground: Ground, n_jobs: int, out: str, as_json: bool) -> None:
    """What would be tried, and how long it would take."""
    shapes, notes = ground.shapes()
    step_s = seconds_per_step(ground.network, ground.data, ground.asked.training, n_jobs)
    pace: Pace = pace_of(ground.asked, len(shapes), len(ground.data.y_train), step_s, n_jobs)
    plan = {
        "compression": ground.asked.values(),
        "candidates": [each.cut for each in shapes],
        "notes": notes,
        "pace": pace.values(),
        "processes": n_jobs,
        "out": out,
    }
    if as_json:
        click.echo(json.dumps(plan))
        return
    console = plain_console()
    table = Table("rung", "candidates", "epochs of each", title="What would be tried", title_justify="left")
    for rung, (epochs, kept) in enumerate(zip(pace.rungs, pace.kept, strict=True)):
        table.add_row(str(rung + 1), str(kept), f"{epochs:.3g}")
    console.print(table)
    console.print("First, each stored in every way: " + plain("; ".join(each.cut for each in shapes)))
    for note in notes:
        console.print(plain(note))
    console.print(
        f"{pace.n_steps:,} training steps in {n_jobs} processes: about {pace.seconds / 60:.1f} min (estimated from a "
        f"few steps now). Written to {plain(out)}/."
    )


def _front(results: dict[str, Any]) -> Table:
    """What no other candidate beats in both bytes and accuracy."""
    n = results["dense"]["validation"]["n"]
    title = f"What no other beats in both bytes and accuracy: validation examples, n = {n:,}"
    table = Table(
        "candidate",
        "epochs",
        "bytes",
        "smaller",
        "lost (95 %)",
        "surely under",
        "ms",
        title=title,
        title_justify="left",
    )
    for each in sorted(results["tried"], key=lambda each: -each["size_bytes"]):
        if each["is_front"]:
            ratio = times(results["dense"]["file_bytes"] / each["size_bytes"])
            lost = f"{points(each['drop'])} ({points(each['low'])} to {points(each['high'])})"
            name = f"{each['name']} in training" if each["is_tuned"] else each["name"]
            size, ms = f"{each['size_bytes']:,}", milliseconds(each["latency_s"])
            table.add_row(name, f"{each['epochs']:.3g}", size, ratio, lost, points(each["surely"]), ms)
    return table


def _print_results(results: dict[str, Any], out: str) -> None:
    """What each step gave, and the verdict."""
    title = f"{results['model']['name']} on {results['data']['name']}: test accuracy, n = {results['test']['n']:,}"
    table = Table("step", "bytes", "smaller", "accuracy", "lost", "faster", title=title, title_justify="left")
    for row in results["steps"]:
        lost = "" if row["id"] == "dense" else points(row["drop"])
        faster = speed_text(row["seconds"]) if row["seconds"] else ""
        ratio = times(results["dense"]["file_bytes"] / row["size_bytes"])
        title = f"{row['title']} (chosen)" if row["is_chosen"] else row["title"]
        table.add_row(title, f"{row['size_bytes']:,}", ratio, percent(row["accuracy"], 2), lost, faster)
    console = plain_console()
    console.print(table)
    console.print(_front(results))
    for note in results["notes"]:
        console.print(plain(note))
    console.print(plain(f"Chosen: {results['chosen']['name']}, {results['chosen']['size_bytes']:,} bytes."))
    console.print(plain(verdict(results)))
    console.print(f"Card (README.md), page (report.html), packed/, model/, results.json: {plain(out)}/")
