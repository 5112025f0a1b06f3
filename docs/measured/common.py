"""Common: what the tables of every page are made with: committed results, Markdown, figures as text."""

import json
from pathlib import Path
from typing import Any

from secateurs.measure.intervals import half_width

RESULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "results"


def read(name: str) -> dict[str, Any]:
    """One committed result."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return found


def part(name: str, key: str) -> dict[str, Any] | None:
    """One part of a committed result; None where it was not recorded yet."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text("utf-8")).get(key) if path.exists() else None
    return found


def not_yet(command: str) -> str:
    """What stands in place of a table whose result is not committed."""
    return f"Not recorded yet: `{command}`."


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, figures to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def provenance(results: dict[str, Any]) -> str:
    """Command, machine, versions and seeds, in one sentence."""
    where = results["environment"]
    return (
        f"`{results['command']}`, seeds {', '.join(map(str, results['seeds']))}; {where['cpu']}, {where['vectors']}, "
        f"one thread a network; torch {where['torch']}, secateurs {where['secateurs']}."
    )


def machine(found: dict[str, Any]) -> str:
    """Command, machine and versions, in one sentence."""
    where = found["environment"]
    threads = f"{found['threads']} threads; " if "threads" in found else ""
    return (
        f"`{found['command']}`; {threads}{where['cpu']}, {where['cores']} cores, {where['vectors']}; "
        f"python {where['python']}, numpy {where['numpy']}, torch {where['torch']}, secateurs {where['secateurs']}."
    )


def mean(point: dict[str, Any]) -> str:
    half = half_width(point)
    return f"{100 * point['mean']:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def took(times: dict[str, Any]) -> str:
    return " ".join([three(times["median_s"]), f"({three(times['min_s'])}–{three(times['max_s'])})"])


def ratio(ratio: dict[str, float]) -> str:
    return f"{three(ratio['median'])} ({three(ratio['min'])}–{three(ratio['max'])})"


def three(number: float) -> str:
    """Three digits, and no more behind the point than they need: 0.153, 12.3, 174."""
    places = 0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3
    return f"{number:.{places}f}"


def sized(n_bytes: int) -> str:
    """Bytes in MB or GB, of a thousand each."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def short_bytes(n: float) -> str:
    return f"{n / 1e6:.2f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB"
