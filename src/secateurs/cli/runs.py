"""Runs: what the commands that run cells share: the typed command, numbers, progress and the plan of --dry-run."""

import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import click

from secateurs.cli.safe import Stdout
from secateurs.cli.screen import Shown
from secateurs.data import Dataset
from secateurs.errors import RecipeError
from secateurs.experiments.work import Progress, Work, seconds_per_step
from secateurs.models import Network
from secateurs.train.training import Training


def command(**left_out: int) -> str:
    """The command that was typed, without what changes no result, and without options that are said elsewhere.

    left_out  {option without dashes: words it takes, its own included}
    """
    words, dropped = [], {"jobs": 2, "backend": 2, "json": 1, "debug": 1, **left_out}
    typed = sys.argv[1:]
    while typed:
        name, _, value = typed[0].partition("=")
        n = dropped.get(name.removeprefix("--"), 0) if name.startswith("--") else 0
        if not n:
            words.append(typed[0])
        typed = typed[1 if value else max(n, 1) :]
    return shlex.join(["secateurs", *words])


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The numbers of an option such as 0.5,0.9."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise RecipeError(f"{option} takes numbers such as 0.5,0.9; got {text!r}.") from None


def shown(progress: Progress) -> Shown:
    """A run's progress in words."""
    text = f"{progress.n_cells_done}/{progress.n_cells} networks"
    if (line := progress.latest) is not None:
        text += f" · loss {line['loss']:.3f} · accuracy {line['accuracy']:.1%} · sparsity {line['sparsity']:.0%}"
    return Shown(progress.n_steps_done, progress.n_steps, text)


def print_work(
    work: Work, network: Network, data: Dataset, training: Training, about: Mapping[str, Any], as_json: bool
) -> None:
    """What would be run and written, and how long it might take.

    about  what else the plan says with --json
    """
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    plan: dict[str, Any] = {
        "n_networks": len(work.planned),
        "n_steps": work.n_steps,
        "size_bytes": len(work.planned) * 4 * n_parameters,
        "estimated_s": work.n_steps * seconds_per_step(network, data, training, work.n_jobs) / work.n_jobs,
        "processes": work.n_jobs,
        "out": str(work.out),
        **about,
    }
    if as_json:
        click.echo(json.dumps(plan))
        return
    Stdout(highlight=False, markup=False).print(
        f"{plan['n_networks']} networks, {work.n_steps:,} training steps in {work.n_jobs} processes: about "
        f"{plan['estimated_s']:.0f} s (estimated from a few steps now); {plan['size_bytes'] / 1e6:.0f} MB of weights "
        f"in {work.out}/."
    )
