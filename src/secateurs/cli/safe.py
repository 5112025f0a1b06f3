"""Safe: text that came out of a file, made fit for a terminal: no markup, no control characters, no reordering."""

import sys

from rich.console import Console


def plain(text: str) -> str:
    r"""The text with what is not printable written out.

    >>> print(plain("a\x1b[31m[red]b"))
    a\x1b[31m[red]b
    """
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def plain_console() -> Console:
    """A console on stdout that takes text as it is: the terminal's width, or wide enough where a program reads it."""
    return Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else 1000)
