"""Main: `secateurs COMMAND`; loads a command's code only when it is called, and turns errors into exit codes.

To add a command: its file in this folder with a click command of the same name, and its line in COMMANDS.
"""

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import FrameType, ModuleType
from typing import Any

import click

from secateurs import __version__
from secateurs.errors import SecateursError

COMMANDS = {
    "explore": "See what pruning does to one network: four stages, pictures, a page, numbers.",
    "compress": "Reach a target: pruned, quantized and distilled, measured, in one command.",
    "compare": "Compare the ways to a pruned network, fairly: one table, one plot.",
    "train": "Train or fine-tune one network while a recipe prunes it.",
    "lottery": "Find lottery tickets: prune and rewind round by round, with both controls.",
    "run": "Answer examples with a compressed or trained network: answers, accuracy, time.",
    "inspect": "See what is in a checkpoint, in exact numbers, without loading it.",
    "prune": "Zero the weights of a checkpoint of any size, exactly, streamed.",
    "shrink": "Remove neurons, filters and heads for real; an ordinary smaller network.",
    "bench": "Time and weigh a network under every runtime: the receipt, never noise as a speed-up.",
    "diff": "See what changed from one checkpoint to another.",
    "pack": "Store a checkpoint without its zeros, in one file that checks itself.",
    "unpack": "Write a packed file as plain, dense safetensors.",
    "verify": "Check that a pruned checkpoint or packed file is still, byte by byte, what was written.",
}


@contextmanager
def _read_enough() -> Iterator[None]:
    """Whoever reads the output may close it: exit 0, where click would exit 1, which is for gates."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(0) from None


class Commands(click.Group):
    """The commands by name; `--help` lists them without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the story."""
        return list(COMMANDS)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, which prints the help there."""
        with _read_enough():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does."""
        with _read_enough():
            return super().invoke(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"secateurs.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name for an unknown one."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from secateurs.checks import nearest

            ctx.fail(f"No such command '{args[0]}'. {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and one line each."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="secateurs")
def secateurs() -> None:
    """Pruning shears for neural networks.

    Exit codes: 0 ok, 1 a gate was not met, 2 usage or recipe,
    3 bad input, 4 cannot write, 5 output locked, 130 and 143 interrupted.
    """


class _NoBlas(MetaPathFinder):
    """Tells numba that there is no scipy: where there is one, numba loads it for its BLAS before the first kernel runs,
    which takes a third of the start, and no kernel of ours multiplies matrices by it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """ImportError where numba asks for scipy; whoever else asks is served by the finders that follow."""
        if name == "scipy" or name.startswith("scipy."):
            frame: FrameType | None = sys._getframe(1)
            while frame and frame.f_globals.get("__name__", "").startswith(("importlib", "secateurs.cli.main")):
                frame = frame.f_back
            if frame and frame.f_globals.get("__name__", "").startswith("numba"):
                raise ModuleNotFoundError("not needed", name=name)


def main() -> None:
    """Run the command line and exit with the documented code."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.meta_path.insert(0, _NoBlas())
    try:
        code = secateurs.main(standalone_mode=False)
    except SecateursError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.Abort:
        _fail("Interrupted. Run the same command again to go on.", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except KeyboardInterrupt:
        _fail("Interrupted. Run the same command again to go on.", 130)
    except OSError as error:
        _fail(f"{error.filename or 'Input or output'}: {error.strerror or error}.", 4)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    from secateurs.cli.safe import plain  # names out of files are in messages

    click.echo(f"secateurs: {plain(message)}", err=True)
    sys.exit(code)


def _terminated(number: int, frame: FrameType | None) -> None:
    click.echo("secateurs: Terminated. Run the same command again to go on.", err=True)
    raise SystemExit(143)
