"""Running: the tables of docs/running.md and, for other CPUs, running-avx2.md and running-amx.md.

`end` is what the names of their results end with.
"""

from functools import partial
from typing import Any

from measured.common import RESULTS, machine, not_yet, part, read, table
from secateurs.measure.intervals import LEAST

RIVALS = ("torch bfloat16", "torch CSR", "ONNX Runtime float32", "ONNX Runtime int8", "OpenVINO float32",
          "OpenVINO bfloat16", "OpenVINO int8", "OpenVINO sparse int8")  # fmt: skip


def _cell(run: dict[str, Any] | None) -> str:
    """The ratio to torch's float32 layer; "no difference" where the interval contains 1."""
    if run is None:
        return "—"
    ratio = run["faster"]
    if ratio["low"] <= 1.0 <= ratio["high"]:
        return "no difference"
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def _threads(n: int) -> str:
    return f"{n} thread" + "s" * (n > 1)


def _rows(n: int) -> str:
    return f"{n} row" + "s" * (n > 1) + " of input"


def square(end: str = "") -> list[dict[str, Any]]:
    """The measured cases of the square layer."""
    return [case for case in part(f"running{end}", "layers") or [] if case["shape"] == [4096, 4096]]


def _from(cases: Any) -> str:
    """Where the weights came from."""
    if all("evicted_bytes" in case for case in cases):
        return "read from memory"
    return "read from the last cache where that held them (what should have emptied it between two calls did not)"


def layers(end: str = "") -> str:
    """Every measured case: how many times faster than torch's float32 layer."""
    cases = part(f"running{end}", "layers")
    if not cases:
        return not_yet("python benchmarks/running.py layers")
    found = []
    shapes = sorted({(tuple(case["shape"]), case["threads"]) for case in cases})
    for shape, threads in shapes:
        mine = [case for case in cases if (tuple(case["shape"]), case["threads"]) == (shape, threads)]
        sparsities = sorted({case["sparsity"] for case in mine})
        for tokens in sorted({case["tokens"] for case in mine}):
            of = {case["sparsity"]: case["runs"] for case in mine if case["tokens"] == tokens}
            ours = {name for runs in of.values() for name in runs if "to_limit" in runs[name]}
            rows = [
                [f"**{name}**" if name in ours else name, *(_cell(of.get(each, {}).get(name)) for each in sparsities)]
                for name in [*RIVALS, *sorted(ours)]
                if any(name in runs for runs in of.values())
            ]
            head = [_rows(tokens), *(f"{each:.0%} zeros" for each in sparsities)]
            title = f"**{shape[0]} × {shape[1]}, {_threads(threads)}, {_rows(tokens)}**"
            found.append(f"{title}\n\n{table(head, rows)}")
    n = sorted({case["rounds"] for case in cases})
    few = f" (of {n[0]} rounds the range, which holds the median {1 - 2 * 0.5 ** n[0]:.0%} of the time)"
    said = (
        "Times faster than torch's float32 layer in the same run: median of paired ratios and its 95 % interval"
        f"{few if n[0] < LEAST else ''}; "
        f"packed layers bold; {n[0]} to {n[-1]} rounds, weights at random (seed 1), {_from(cases)}. "
        f"{machine(read(f'running{end}'))}"
    )
    return "\n\n".join([said, *found])


def limits(end: str = "") -> str:
    """One row of input: how far the packed layers are from the time that reading their bytes takes."""
    cases = [case for case in part(f"running{end}", "layers") or [] if case["tokens"] == 1]
    if not cases:
        return not_yet("python benchmarks/running.py layers")
    rows, found = [], [name for name in FORMATS if any(name in case["runs"] for case in cases)]
    for case in sorted(cases, key=lambda case: (case["shape"], case["threads"], case["sparsity"])):
        mine = {name: run for name, run in case["runs"].items() if "to_limit" in run}
        about = f"{case['shape'][0]} × {case['shape'][1]}, {_threads(case['threads'])}, {case['sparsity']:.0%}"
        rate = f"{case['read_gb_per_s']:.1f}"
        limits = [f"{mine[name]['to_limit']:.1f}" if name in mine else "—" for name in found]
        rows.append([about, rate, *limits])
    return table(["layer", "read, GB/s", *found], rows)


FORMATS = (
    "bitmask fp32",
    "bitmask bf16",
    "bitmask int8",
    "bitmask w8a8",
    "bitmask int4/64",
    "index fp32",
    "index int8",
)


def networks(end: str = "") -> str:
    """MiniLM pruned, under every runtime."""
    command = "python benchmarks/running.py minilm --path MINILM"
    return _networks(f"bench_minilm{end}", "all-MiniLM-L6-v2", "the encoder's weights", command)


def bert(end: str = "") -> str:
    """The shape of BERT-base, with random weights."""
    return _networks(f"bench_bert{end}", "BERT-base, random", "the weights", "python benchmarks/running.py bert --n 6")


def blocks(end: str = "") -> str:
    """The same with whole blocks of zeros."""
    command = "python benchmarks/running.py blocks --n 6"
    return _networks(f"bench_blocks{end}", "BERT-base, random, blocks of 32 × 32", "the weights", command)


def _networks(name: str, network: str, weights: str, command: str) -> str:
    if not (RESULTS / f"{name}.json").exists():
        return not_yet(command)
    found = []
    for run in read(name)["runs"]:
        timed = [row for row in run["result"]["rows"] if row["outcome"] == "timed"]
        sizes = [_tokens(each["tokens"]) for each in timed[0]["latencies"]]
        rows = [
            [f"**{row['contender']}**" if row["contender"].startswith("secateurs") else row["contender"]]
            + [_of_network(each) for each in row["latencies"]]
            for row in timed
        ]
        title = f"{run['sparsity']:.0%} of {weights} zero, {_threads(run['threads'])}"
        where = run["result"]["environment"]
        said = f"`{run['result']['command']}`; {run['result']['n_rounds']} rounds, torch {where['torch']}."
        found.append(f"**{network}, {title}**\n\n{table(['contender', *sizes], rows)}\n\n{said}")
    return "\n\n".join(found)


def decode(end: str = "") -> str:
    """A causal language model token by token."""
    cases = part(f"running{end}", "decode")
    if not cases:
        return not_yet("python benchmarks/running.py decode")
    names = list(cases[0]["runs"])
    rows = [
        [f"**{name}**" if name.startswith("secateurs") else name]
        + [f"{_of_torch(name, each)}, {each['runs'][name]['median_ms_per_token']:.1f} ms" for each in cases]
        for name in names
    ]
    first = cases[0]
    said = (
        f"{first['parameters'] / 1e6:.0f}M random parameters, {first['sparsity']:.0%} of every layer zero, "
        f"{first['tokens']} tokens a turn after {first['prompt']}, {first['rounds']} rounds. "
        f"{machine({**first, 'command': 'python benchmarks/running.py decode'})}"
    )
    return f"{table(['contender', *(_threads(each['threads']) for each in cases)], rows)}\n\n{said}"


def _tokens(n: int) -> str:
    return "1 token" if n == 1 else f"{n} tokens"


def _of_torch(name: str, case: dict[str, Any]) -> str:
    return "1" if name == next(iter(case["runs"])) else _cell(case["runs"][name])


def teams() -> str:
    """Whose threads take the parts of a product."""
    cases = part("running", "teams")
    if not cases:
        return not_yet("python benchmarks/running.py teams --n 40")
    names = [name for name in cases[0]["runs"] if name != "one thread"]
    rows = []
    for case in cases:
        about = f"{case['side']} × {case['side']}, {case['sparsity']:.0%}, {case['packed']}, {_rows(case['tokens'])}"
        rows.append([about, *(_cell(case["runs"][name]) for name in names)])
    return table(["times faster than one thread", *names], rows)


def _of_network(latency: dict[str, Any]) -> str:
    ratio = latency["speedup"]
    if ratio is None:
        return f"1 ({1000 * latency['p50_s']:.1f} ms)"
    if not latency["is_difference"]:
        return "no difference"
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def start(end: str = "") -> str:
    """Compilation of the loops."""
    found = part(f"running{end}", "start")
    if found is None:
        return not_yet("python benchmarks/running.py start")
    first, kept = (sorted(found[key]) for key in ("first", "kept"))
    return (
        f"The first six products of a process (float32 and int8; 1, 4 and 64 rows) take {first[len(first) // 2]:.1f} s "
        f"where nothing is compiled yet ({first[0]:.1f}–{first[-1]:.1f}, n = {len(first)}), and "
        f"{kept[len(kept) // 2]:.2f} s ({kept[0]:.2f}–{kept[-1]:.2f}) with the compiled loops kept on disk."
    )


def guarded() -> str:
    """Products whose arrays end where the memory ends, on each kind of CPU that was at hand."""
    found = [read(name) for name in ("guarded", "guarded_avx2", "guarded_amx") if (RESULTS / f"{name}.json").exists()]
    if not found:
        return not_yet("python benchmarks/guarded.py")
    *some, last = [
        f"{each['calls']:,} random products of {each['weights']:,} weights with {VECTORS[each['vectors']]}"
        for each in found
    ]
    counts = f"{', '.join(some)} and {last}" if some else last
    between = sum(each.get("between", 0) for each in found)
    return (
        f"{counts}, and {between:,} times what a fused block does between them, every array ending where the memory of "
        f"the process ends, read nothing beyond and were right (`{found[0]['command']}`)."
    )


VECTORS = {"amx": "AMX", "avx512": "AVX-512", "avx2": "AVX2", "plain": "single steps"}


def line() -> str:
    """What the README says of one layer."""
    cases = {(case["threads"], case["tokens"], case["sparsity"]): case for case in square()}
    if (1, 1, 0.7) not in cases:
        return not_yet("python benchmarks/running.py layers")
    case = cases[1, 1, 0.7]
    rows, columns = case["shape"]
    runs = {name: run["faster"]["median"] for name, run in case["runs"].items()}
    spans = {name: f"{run['faster']['low']:.1f}–{run['faster']['high']:.1f}" for name, run in case["runs"].items()}
    return (
        f"A layer of {rows} × {columns} weights, 70 % of them zero, one row of input, one thread: "
        f"{runs['bitmask fp32']:.1f} times ({spans['bitmask fp32']}) as fast as torch's float32 without any loss, "
        f"{runs['bitmask w8a8']:.1f} times ({spans['bitmask w8a8']}) with int8 weights and inputs. The same loops "
        f"without skipping are {runs['own dense fp32']:.1f} and {runs['own dense w8a8']:.1f} times as fast (ONNX "
        f"Runtime's int8: {runs['ONNX Runtime int8']:.1f}); the rest is the zeros'. On a CPU with AVX-512 VNNI; "
        "[all of it, and where it loses](docs/running.md)."
    )


TABLES = {
    "running-line": line,
    "measured-running": layers,
    "measured-running-limits": limits,
    "measured-running-networks": networks,
    "measured-running-bert": bert,
    "measured-running-decode": decode,
    "measured-running-teams": teams,
    "measured-running-start": start,
    "measured-guarded": guarded,
    "measured-running-blocks": blocks,
    "measured-running-avx2": partial(layers, "_avx2"),
    "measured-running-limits-avx2": partial(limits, "_avx2"),
    "measured-running-networks-avx2": partial(networks, "_avx2"),
    "measured-running-bert-avx2": partial(bert, "_avx2"),
    "measured-running-decode-avx2": partial(decode, "_avx2"),
    "measured-running-amx": partial(layers, "_amx"),
    "measured-running-networks-amx": partial(networks, "_amx"),
    "measured-running-decode-amx": partial(decode, "_amx"),
    "measured-running-start-amx": partial(start, "_amx"),
    "measured-running-bert-amx": partial(bert, "_amx"),
    "measured-running-blocks-amx": partial(blocks, "_amx"),
}
