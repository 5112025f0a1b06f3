"""Progress: how far a receipt or a plan is."""

from dataclasses import dataclass


@dataclass
class Progress:
    """Read from other threads."""

    n_turns: int = 1
    n_turns_done: int = 0
    text: str = ""
