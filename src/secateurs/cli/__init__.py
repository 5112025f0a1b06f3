"""The command line: the only code that prints or exits. `main` is its entry."""

from secateurs.cli.main import main

__all__ = ["main"]
