"""Checkpoints: the tables of checkpoints.md."""

from collections.abc import Callable
from typing import Any

from measured.common import RESULTS, machine, not_yet, part, ratio, read, sized, table, took


def in_memory() -> str:
    """Weights of a live network chosen and zeroed, beside a memory copy and beside what people use."""
    found = part("checkpoints", "memory")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py memory")
    tables = []
    for title, seconds, ratios, base in (
        ("choose and zero", "seconds", "to_memory_copy", "memory copy"),
        ("the same task", "others_seconds", "others_to_pool_model", "pool model"),
    ):
        rows = [
            [name, took(times), "1" if name == base else ratio(found[ratios][name]), _memory(found, name)]
            for name, times in found[seconds].items()
        ]
        tables.append(table([title, "seconds", f"× {base}", "memory beyond the weights"], rows))
    n, n_slow = (next(iter(found[key].values()))["n"] for key in ("seconds", "others_seconds"))
    return (
        "\n\n".join(tables) + f"\n\n{found['n_weights']:,} {found['dtype']} weights in memory, {found['sparsity']:.0%} "
        f"zeroed (2:4: half); medians of {n} interleaved rounds (lower table: {n_slow}), the least and the most in "
        f"brackets. `torch.kthvalue` and `numpy.partition` only find the threshold. {machine(found)}"
    )


def from_disk() -> str:
    """A checkpoint from disk to disk, beside reading it twice and writing it once."""
    found = part("checkpoints", "disk")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py disk")
    kinds = {name: value for name, value in found.items() if isinstance(value, dict) and "to_limit" in value}
    rows, n = [], 0
    for name, value in kinds.items():
        n = value["seconds"]["secateurs prune"]["n"]
        rows.append([name, *(took(times) for times in value["seconds"].values()), ratio(value["to_limit"])])
    heads = next(iter(kinds.values()))["seconds"]
    return (
        f"{table(['the source is', *(f'{name}, seconds' for name in heads), '× the limit'], rows)}\n\n"
        f"{sized(found['size_bytes'])} in {found['n_shards']} shards, pool model, the whole command from its start, "
        f"written durably; medians of {n} interleaved rounds, the least and the most in brackets. {machine(found)}"
    )


def large() -> str:
    """The memory of one large run."""
    found = part("checkpoints", "large")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py large")
    rows = [
        ["checkpoint", f"{sized(found['size_bytes'])} in {found['n_shards']} shards"],
        ["largest tensor", sized(found["largest_tensor_bytes"])],
        ["seconds", f"{found['seconds']:.1f}"],
        ["the process's own memory at its peak", sized(found["peak_anonymous_bytes"])],
        ["the bound: twice the largest tensor + 300 MB", sized(found["bound_bytes"])],
        *_by_lamp(found.get("lamp")),
    ]
    return f"{table(['one large run', 'measured'], rows)}\n\nOne run. {machine(found)}"


def ranks() -> str:
    """Two ranks against one."""
    found = part("checkpoints", "ranks")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py ranks")
    rows = [[name, took(times)] for name, times in found["seconds"].items()]
    rows += [
        ["1 rank / 2 ranks", ratio(found["speed_up"])],
        ["the same without the starts", ratio(found["speed_up_without_start"])],
    ]
    n = next(iter(found["seconds"].values()))["n"]
    return (
        f"{table(['ranks of one thread and one core', 'seconds, or times'], rows)}\n\n{sized(found['size_bytes'])} in "
        f"{found['n_shards']} shards in a memory file system; *start* is torchrun with a program that only meets. "
        f"Medians of {n} interleaved rounds, the least and the most in brackets. {machine(found)}"
    )


def _by_lamp(found: dict[str, Any] | None) -> list[list[str]]:
    """The rows of a run by lamp; none where it was not recorded."""
    if found is None:
        return []
    size = f"{sized(found['size_bytes'])} in {found['n_shards']} shards"
    return [[f"the same peak by lamp, {size}", sized(found["peak_anonymous_bytes"])]]


def inspected() -> str:
    """Inspecting, the whole command from its start."""
    found = part("checkpoints", "inspect")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py inspect")
    titles = {
        "2 GB": "made up, float32",
        "file": "a real checkpoint",
        "start": "`secateurs --version`, the start alone",
    }
    runs = {name: value for name, value in found.items() if isinstance(value, dict) and "median_s" in value}
    rows = []
    for name, value in runs.items():
        is_sized = bool(value["size_bytes"])
        size, rate = (sized(value["size_bytes"]), f"{value['bytes_per_s'] / 1e9:.2f}") if is_sized else ("—", "—")
        rows.append([titles.get(name, name), size, took(value), rate])
    n = next(iter(runs.values()))["n"]
    return (
        f"{table(['inspect', 'bytes', 'seconds', 'GB a second'], rows)}\n\nThe whole command with `--json`; medians of "
        f"{n} interleaved rounds, the least and the most in brackets; files in the system's cache. {machine(found)}"
    )


def recounted() -> str:
    """Real checkpoints pruned, and chosen again by sorting."""
    found = part("checkpoints", "recount")
    if found is None:
        return not_yet("python benchmarks/checkpoints.py recount")
    rows = [
        [name, f"{row['sparsity']:.0%}", f"{row['n_prunable']:,}", f"{row['n_zero']:,}", f"{row['seconds']:.1f}"]
        for name, each in found["networks"].items()
        for row in each
    ]
    head = ["checkpoint", "sparsity asked", "prunable weights", "zeros in the written file", "seconds, with the start"]
    return (
        f"{table(head, rows)}\n\nEvery weight of every written file equals what a plain sort of all sizes in numpy "
        f"keeps. {machine(found)}"
    )


def torture() -> str:
    """How often a run was killed, where, and what became of it."""
    path = RESULTS / "torture.json"
    if not path.exists():
        return not_yet("python benchmarks/torture.py --kills 200")
    found = read("torture")
    rows = [[name, f"{n:,}"] for name, n in sorted(found["phases"].items(), key=_early)]
    return (
        f"{table(['what was there when it was killed', 'kills'], rows)}\n\n{found['n_kills']:,} kills with SIGKILL at "
        f"random instants of runs of {found['run_s']:.2f} s on {sized(found['source_bytes'])}; "
        f"{found['n_resumed_to_the_same_bytes']:,} resumed runs, all to the bytes of the {found['n_files']} files of "
        f"an undisturbed run. After every kill the source was untouched, and the directory either loaded whole or was "
        f"refused by the stock loader. {machine(found)}"
    )


def _early(item: tuple[str, int]) -> tuple[bool, str]:
    return item[0] != "no output yet", item[0]


def _memory(found: dict[str, Any], name: str) -> str:
    n_bytes = found["extra_bytes"].get(name)
    return "—" if n_bytes is None else sized(n_bytes)


TABLES: dict[str, Callable[[], str]] = {
    "checkpoints-memory": in_memory,
    "checkpoints-disk": from_disk,
    "checkpoints-large": large,
    "checkpoints-ranks": ranks,
    "checkpoints-inspect": inspected,
    "checkpoints-recount": recounted,
    "checkpoints-torture": torture,
}
