"""`secateurs verify PATH`: whether a pruned checkpoint or a packed file is still what was written."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from secateurs.cli.safe import plain, plain_console
from secateurs.errors import InputError

if TYPE_CHECKING:
    from secateurs.checkpoint.compliance import Compliance
    from secateurs.checkpoint.verifying import Verification

N_SHOWN = 50


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("path")
@click.option("--pattern", help="Ask, too, whether every prunable tensor that it fits keeps it: 2:4 or 'block(4, 4)'.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def verify(path: str, pattern: str | None, as_json: bool, debug: bool) -> None:
    """Check a pruned checkpoint, every byte and every zero against its manifest; or a packed file, by its checksums.

    A packed file is decoded whole. Any other checkpoint without a manifest is checked for its structure alone. Exits
    with 3 if anything is damaged, and with 1 if a pattern that was asked about does not hold.
    """
    from secateurs.checkpoint.compliance import compliance, read_pattern
    from secateurs.checkpoint.verifying import verify as verification_of

    if pattern is not None:
        read_pattern(pattern)  # before any work
    found = verification_of(path)
    held = compliance(path, pattern) if pattern is not None and found.is_ok else None
    if as_json:
        more = {} if held is None else {"pattern": {"holds": held.holds, **asdict(held)}}
        click.echo(json.dumps({**found.values(), **more}, allow_nan=False))
    else:
        _print(found)
        if held is not None:
            _print_pattern(held)
    if not found.is_ok:
        again = "Pack" if found.is_packed else "Prune"
        raise InputError(
            f"'{plain(path)}' is damaged in {_many(len(found.problems), 'place')}. {again} again or restore it."
        )
    if held is not None and not held.holds:
        click.get_current_context().exit(1)


def _print(found: "Verification") -> None:
    console = plain_console()
    for problem in found.problems[:N_SHOWN]:
        console.print(plain(str(problem)), style="red")
    if len(found.problems) > N_SHOWN:
        console.print(f"... and {len(found.problems) - N_SHOWN:,} more; --json says them all.")
    for note in found.notes[:N_SHOWN]:
        console.print(plain(note), style="yellow")
    if len(found.notes) > N_SHOWN:
        console.print(f"... and {len(found.notes) - N_SHOWN:,} more; --json says them all.")
    files = f"{_many(found.n_files, 'file')} of {found.size_bytes:,} bytes"
    zeros = f"{found.n_zero:,} of {found.n:,} weights are zero in {_many(found.n_layers, 'tensor')}"
    if not found.is_ok:
        console.print(f"Damaged: {_many(len(found.problems), 'problem')} in {files}.", style="bold red")
    elif found.is_packed:
        console.print(f"Good: {files}, every part as its checksums say, packed and decoded; {zeros}.", style="bold")
    elif found.has_manifest:
        groups = f"; n:m holds in every group of {_many(found.n_nm, 'tensor')}" if found.n_nm else ""
        beside = "; the packed weights are the plain ones, bit for bit" if found.n_beside else ""
        console.print(
            f"Good: {files}, each with its SHA-256; {zeros}, as the manifest says{groups}{beside}.", style="bold"
        )
    else:
        console.print(f"Readable: {files}; {zeros}.", style="bold")


def _print_pattern(held: "Compliance") -> None:
    console = plain_console()
    broken = [each for each in held.tensors if not each.reason and not each.holds]
    for each in broken[:N_SHOWN]:
        share = f"{each.n_held:,} of {each.n_groups:,} groups"
        console.print(plain(f"{each.name}: {held.pattern} holds in {share}."), style="red")
    for each in [each for each in held.tensors if each.reason][:N_SHOWN]:
        console.print(plain(f"{each.name}: {held.pattern} does not fit, {each.reason}."), style="yellow")
    fitting = [each for each in held.tensors if not each.reason]
    n_groups = sum(each.n_groups for each in fitting)
    said = f"holds in {len(fitting) - len(broken)} of {_many(len(fitting), 'tensor')} that it fits, {n_groups:,} groups"
    console.print(f"{held.pattern} {said}.", style="bold" if held.holds else "bold red")


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
