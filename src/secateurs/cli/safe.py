"""Safe: text that came out of a file, made fit for a terminal: no markup, no control characters, no reordering."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console


def plain(text: str) -> str:
    r"""The text with what is not printable written out.

    >>> print(plain("a\x1b[31m[red]b"))
    a\x1b[31m[red]b
    """
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


@contextmanager
def warnings_told() -> Iterator[None]:
    """Warnings on stderr as they come, a line each, before what they warn of is done."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest: click.echo(f"secateurs: {plain(str(message))}", err=True)
        yield


class Stdout(Console):
    """A console on stdout; that it was closed is for `main` to tell, where rich alone would exit 1."""

    def on_broken_pipe(self) -> None:
        """Called while the error is handled."""
        raise


def plain_console() -> Stdout:
    """A console on stdout that takes text as it is: the terminal's width, or wide enough where a program reads it."""
    return Stdout(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else 1000)
