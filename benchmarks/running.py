"""Running without the zeros: one linear layer, packed, beside dense layers of the runtimes that people use.

    python benchmarks/running.py layers [--shape 4096 4096] [--tokens 1 8 32 128] [--threads 1 2]
    python benchmarks/running.py start | teams | decode | bert | blocks [--sparsity 0.7 0.8 0.9]
    python benchmarks/running.py minilm --path MINILM [--sparsity 0.7 0.9]

`layers`: normal weights with zeros at random; float32 inputs, float32 outputs, a bias everywhere. Before every timed
call 64 MB are read by one thread, so that weights come from memory, and the runtime multiplies a small layer, as one
that comes before in a network, so that its threads are awake: one that sleeps may get its core a millisecond late.
Every round times all contenders once, in turn; medians, and ratios to torch's float32 layer round by round with a
bootstrap interval. The limit of a packed layer is its bytes by the rate at which torch sums float32 numbers, measured
in the same rounds. Each contender's largest error, as a share of the largest output, beside the product of the float32
weights in float64 is in the result; for blocks, which have zeros of their own, none is, nor for "own dense": our own
loops over a weight without zeros. Missing runtimes are said to be.
`start`: seconds of the first product in a new process, with no compiled code kept and with it kept.
`teams`: a packed layer on torch's own threads, on Python's and on one, each after an operation of torch, whose threads
then still spin; ratios to one thread.
`decode`: see decoding.py. `bert`: BERT-base's shape with random weights, 70, 80 and 90 % of them zero, by `sc.bench`;
`blocks`: the same of whole blocks of 32 x 32.
`minilm`: the published all-MiniLM-L6-v2, as much of its encoder zero, the same way.
Run it on a machine that does nothing else.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import decoding
import numpy as np
import torch
from checkpoints import in_turn
from torch import Tensor, nn

import secateurs as sc
from secateurs.durable import write_json
from secateurs.measure.environment import environment
from secateurs.measure.intervals import LEAST, paired_ratio
from secateurs.running import products, together
from secateurs.running.features import has_amx, has_avx512, ways

END = "" if ways() == "avx512" else f"_{ways()}"  # of the results' names: those of one kind of CPU stand together
TORCH, READ, DENSE = "torch float32", "read", "own dense"
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
# More than any cache holds; ones, since zeros that nobody wrote are one page. Numpy reads it with one thread.
EVICT = np.ones(128 << 20, np.float32)
REST_S = 0.03  # in which the threads of ONNX Runtime and OpenVINO, which wait for more work, go to sleep
WAKE_S = 0.02  # in which those of the next are woken: virtual machines take long to let a second thread run again

SMALL = 512, 16  # side of the layer that wakes, rows of its input

Contender = Callable[[Tensor], Any]


class Woken:
    """A contender that wakes its runtime's threads by something small; others use torch's."""

    def __init__(self, call: Contender, wake: Callable[[], Any]) -> None:
        self.call, self.wake = call, wake

    def __call__(self, x: Tensor) -> Any:
        return self.call(x)


def dense_rivals(linear: nn.Linear, x: Tensor, n_threads: int, missing: dict[str, str]) -> dict[str, Contender]:
    """Dense layers of other kinds, by name."""
    found: dict[str, Contender] = {TORCH: linear}
    half = nn.Linear(linear.in_features, linear.out_features, dtype=torch.bfloat16).requires_grad_(False)
    half.load_state_dict({name: value.bfloat16() for name, value in linear.state_dict().items()})
    found["torch bfloat16"] = lambda x: half(x.bfloat16()).float()
    csr, bias = linear.weight.detach().to_sparse_csr(), linear.bias.detach()[:, None]
    found["torch CSR"] = lambda x: ((csr @ x.T) + bias).T
    largest = float(x.abs().max())
    for name, make in (("ONNX Runtime", onnx_runtime), ("OpenVINO", partial(openvino, largest=largest))):
        try:
            found |= make(linear, n_threads)
        except ImportError as error:
            missing[name] = f"not installed ({error.name})"
    return found


def onnx_runtime(linear: nn.Linear, n_threads: int) -> dict[str, Contender]:
    """float32, and int8 weights with inputs rounded to 8 bits as they come ("dynamic")."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper, save
    from onnxruntime.quantization import QuantType, quantize_dynamic

    weight, bias = linear.weight.detach().numpy().T.copy(), linear.bias.detach().numpy()
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Add", ["z", "b"], ["y"])]
    nodes.append(helper.make_node("MatMul", ["u", "v"], ["t"]))  # the small one
    side, rows = SMALL
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"n{name}", size]) for name, size in each]
        for each in ((("x", linear.in_features), ("u", side)), (("y", linear.out_features), ("t", side)))
    ]
    small = numpy_helper.from_array(np.ones((side, side), np.float32), "v")
    values = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b"), small]
    # It runs all that it has, so what is not asked for gets no rows.
    u, none = np.ones((rows, side), np.float32), [np.zeros((0, n), np.float32) for n in (linear.in_features, side)]
    model = helper.make_model(
        helper.make_graph(nodes, "layer", *sides, values), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    found: dict[str, Contender] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain, short = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        save(model, plain)
        # reduce_range: without it, sums of 16-bit steps overflow on a CPU without VNNI.
        is_reduced = not has_avx512()
        quantize_dynamic(plain, short, per_channel=True, reduce_range=is_reduced, weight_type=QuantType.QInt8)
        for name, path in (("ONNX Runtime float32", plain), ("ONNX Runtime int8", short)):
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            found[name] = Woken(
                lambda x, session=session: session.run(["y"], {"x": x.numpy(), "u": none[1]})[0],
                lambda session=session: session.run(["t"], {"x": none[0], "u": u}),
            )
    return found


def openvino(linear: nn.Linear, n_threads: int, largest: float) -> dict[str, Contender]:
    """float32, and bfloat16 where it has that; int8, inputs rounded to their largest, and the same without zeros."""
    import openvino as ov
    from openvino import opset13

    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    x = opset13.parameter([-1, linear.in_features], np.float32)
    y = opset13.add(opset13.matmul(x, opset13.constant(weight), False, True), opset13.constant(bias))
    u = opset13.parameter([SMALL[1], SMALL[0]], np.float32)
    small = opset13.matmul(u, opset13.constant(np.ones((SMALL[0], SMALL[0]), np.float32)), False, True)
    core, found = ov.Core(), {}
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for name, hint in (("float32", "f32"), ("bfloat16", "bf16"))[: 1 + has_bf16]:
        settings = {"INFERENCE_NUM_THREADS": n_threads, "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(ov.Model([y], [x]), "CPU", settings).create_infer_request()
        other = core.compile_model(ov.Model([small], [u]), "CPU", settings).create_infer_request()
        found[f"OpenVINO {name}"] = Woken(
            lambda x, request=request: request.infer([x.numpy()], share_inputs=True)[0],
            lambda other=other: other.infer([np.ones((SMALL[1], SMALL[0]), np.float32)]),
        )
    wake = found["OpenVINO float32"].wake  # type: ignore[attr-defined]
    # Its sparse int8 wakes with FakeQuantize, inputs of three dimensions and AMX.
    scale = np.maximum(np.abs(weight).max(1, keepdims=True), 1e-9) / np.float32(127)
    steps = opset13.constant(np.round(weight / scale).astype(np.int8))
    for name, rate in (("int8", 1.0), ("sparse int8", 0.5))[: 2 if has_amx() else 1]:
        x = opset13.parameter([1, -1, linear.in_features], np.float32)
        ends = [opset13.constant(np.float32(each)) for each in (-largest * 128 / 127, largest)]
        rounded = opset13.fake_quantize(x, *ends, *ends, 256)
        weights = opset13.multiply(opset13.convert(steps, np.float32), opset13.constant(scale))
        y = opset13.add(opset13.matmul(rounded, weights, False, True), opset13.constant(bias))
        settings = {"INFERENCE_NUM_THREADS": n_threads, "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": rate}
        request = core.compile_model(ov.Model([y], [x]), "CPU", settings | {"PERFORMANCE_HINT": "LATENCY"})
        request = request.create_infer_request()
        found[f"OpenVINO {name}"] = Woken(
            lambda x, request=request: request.infer([x.numpy()[None]], share_inputs=True)[0][0], wake
        )
    return found


def packed(linear: nn.Linear, sparsity: float, n_tokens: int) -> dict[str, sc.PackedLinear]:
    """Ours, by name."""
    found = {}
    for values in ("fp32", "bf16", "int8", "w8a8", "int4/64"):
        found[f"bitmask {values}"] = sc.PackedLinear.from_linear(linear, "bitmask", values)
    if sparsity >= 0.8:
        found["index fp32"] = sc.PackedLinear.from_linear(linear, "index", "fp32")
        found["index int8"] = sc.PackedLinear.from_linear(linear, "index", "int8")
    if n_tokens > 4:
        blocks = with_zeros(linear.weight.detach(), sparsity, (32, 32))
        whole = nn.Linear(linear.in_features, linear.out_features)
        whole.load_state_dict({"weight": blocks, "bias": linear.bias.detach()})
        for values in ("fp32", "bf16", "w8a8"):
            found[f"blocks 32x32 {values}"] = sc.PackedLinear.from_linear(whole, "blocks", values, h=32, w=32)
    if has_avx512():  # the same loops over all weights, zeros or not
        full = nn.Linear(linear.in_features, linear.out_features)
        full.load_state_dict({"weight": linear.weight.masked_fill(linear.weight == 0, 1e-3), "bias": linear.bias})
        for values in ("fp32", "w8a8"):
            found[f"{DENSE} {values}"] = sc.PackedLinear.from_linear(full, "blocks", values, h=32, w=64)
    return found


def with_zeros(weight: Tensor, sparsity: float, block: tuple[int, int] = (1, 1)) -> Tensor:
    """The weight with blocks of it zero, chosen at random."""
    rows, columns = weight.shape
    draw = torch.Generator().manual_seed(0)
    keep = torch.rand(rows // block[0], columns // block[1], generator=draw) >= sparsity
    return weight * keep.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


def timed(contender: Contender, wake: Callable[[], Any], x: Tensor) -> float:
    """Seconds of one call that finds no weights in the caches, its own code and threads awake, and no others'."""
    time.sleep(REST_S)
    contender(x)
    EVICT.sum()
    until = time.perf_counter() + WAKE_S
    while time.perf_counter() < until:
        wake()
    start = time.perf_counter()
    contender(x)
    return time.perf_counter() - start


def case(rows: int, columns: int, sparsity: float, n_tokens: int, n_threads: int, n: int) -> dict[str, Any]:
    """One layer at one sparsity and number of tokens."""
    torch.set_num_threads(n_threads)
    draw = torch.Generator().manual_seed(1)
    linear = nn.Linear(columns, rows).requires_grad_(False)
    linear.weight.copy_(with_zeros(torch.randn(rows, columns, generator=draw) / columns**0.5, sparsity))
    x = torch.randn(n_tokens, columns, generator=draw)
    missing: dict[str, str] = {}
    rivals = dense_rivals(linear, x, n_threads, missing)
    ours = packed(linear, sparsity, n_tokens)
    contenders: dict[str, Contender] = {**rivals, **ours}
    exact = x.double() @ linear.weight.double().T + linear.bias.double()
    errors = {}
    for name, each in contenders.items():
        found = torch.as_tensor(each(x)).double()
        each(x)  # the second call is as the others will be
        if name.startswith(("blocks", DENSE)):
            continue
        errors[name] = float((found - exact).abs().max() / exact.abs().max())
    assert errors[TORCH] < 1e-5 > errors["bitmask fp32"], errors
    assert max(errors["bitmask bf16"], errors["bitmask int8"]) < 0.02, errors
    small, u = nn.Linear(SMALL[0], SMALL[0]).requires_grad_(False), torch.ones(SMALL[1], SMALL[0])
    contenders[READ] = lambda _: linear.weight.sum()
    own = packed(small, sparsity, n_tokens)

    def wake(name: str) -> None:
        small(u)  # torch's threads, which ours run on
        if name in own:
            own[name](u)

    wakes = {name: each.wake if isinstance(each, Woken) else partial(wake, name) for name, each in contenders.items()}
    work = {name: partial(timed, each, wakes[name], x) for name, each in contenders.items()}
    seconds = in_turn(work, n)
    rate = linear.weight.nbytes / statistics.median(seconds[READ])
    results = {}
    for name, values in seconds.items():
        ratio = paired_ratio(seconds[TORCH], values)
        row: dict[str, Any] = {"median_s": statistics.median(values), "min_s": min(values), "max_s": max(values)}
        row["faster"] = {"median": ratio.mean, "low": ratio.low, "high": ratio.high}
        if name in ours:
            row |= {"bytes": ours[name].nbytes, "to_limit": row["median_s"] / (ours[name].nbytes / rate)}
        if name in errors:
            row["error"] = errors[name]
        results[name] = row
    about = {"shape": [rows, columns], "sparsity": sparsity, "tokens": n_tokens, "threads": n_threads, "rounds": n}
    about["evicted_bytes"] = EVICT.nbytes
    return {**about, "read_gb_per_s": rate / 1e9, "missing": missing, "runs": results}


START = """
import time, torch, secateurs as sc
from torch import nn
linear = nn.Linear(256, 256)
linear.weight.data *= torch.rand(256, 256) < 0.5
seconds = 0.0
for values in ("fp32", "int8"):
    layer = sc.PackedLinear.from_linear(linear, values=values)
    for n in (1, 4, 64):
        begun = time.perf_counter(); layer(torch.randn(n, 256)); seconds += time.perf_counter() - begun
print(seconds)
"""


def start(n: int) -> dict[str, list[float]]:
    """Seconds of six first products (float32 and int8; 1, 4 and 64 tokens) in new processes."""
    found: dict[str, list[float]] = {"first": [], "kept": []}
    for _ in range(n):
        with tempfile.TemporaryDirectory() as folder:
            for name in found:
                environ = {**os.environ, "NUMBA_CACHE_DIR": folder}
                done = subprocess.run([sys.executable, "-c", START], env=environ, capture_output=True, check=True)
                found[name].append(float(done.stdout))
    return found


def teams(n: int) -> list[dict[str, Any]]:
    """Two threads, whose they may be."""
    torch.set_num_threads(2)
    found, before = [], torch.randn(16, 4096)
    for side, sparsity, tokens, format, values in TEAMS:
        linear = nn.Linear(side, side).requires_grad_(False)
        linear.weight.copy_(with_zeros(torch.randn(side, side, generator=torch.Generator().manual_seed(1)), sparsity))
        layer, x = sc.PackedLinear.from_linear(linear, format, values), torch.randn(tokens, side)

        def run(call: Contender, n_threads: int = 2, has_team: bool = True, x: Tensor = x) -> float:
            nn.functional.gelu(before)
            products.n_threads, known = (lambda: n_threads), together.gnu_openmp
            if not has_team:
                together.gnu_openmp = lambda: None
            try:
                start = time.perf_counter()
                call(x)
                return time.perf_counter() - start
            finally:
                products.n_threads, together.gnu_openmp = together.n_threads, known

        work = {
            "one thread": partial(run, layer, 1),
            "Python's threads": partial(run, layer, 2, False),
            "torch dense": partial(run, linear),
        }
        if together.gnu_openmp() is not None:
            work["torch's threads"] = partial(run, layer)
        seconds = {name: values[2:] for name, values in in_turn(work, n + 2).items()}
        ratios = {name: paired_ratio(seconds["one thread"], each) for name, each in seconds.items()}
        runs = {
            name: {
                "median_s": statistics.median(each),
                "faster": {"median": ratios[name].mean, "low": ratios[name].low, "high": ratios[name].high},
            }
            for name, each in seconds.items()
        }
        case = {"side": side, "sparsity": sparsity, "tokens": tokens, "packed": layer.name, "rounds": n, "runs": runs}
        print({name: round(run["faster"]["median"], 2) for name, run in runs.items()}, layer.name, tokens, flush=True)
        found.append(case)
    return found


TEAMS = (
    (1536, 0.7, 1, "bitmask", "int8"),
    (4096, 0.7, 1, "bitmask", "int8"),
    (2048, 0.9, 16, "index", "fp32"),
    (1536, 0.7, 64, "bitmask", "fp32"),
)


def bert(sparsity: float, name: str, unit: str = "element") -> None:
    """BERT-base's shape, random, in a directory of this name."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    model = BertModel(BertConfig()).eval()
    sc.prune(model, sc.Recipe(unit=unit, budget=sc.sparsity(sparsity)))
    model.save_pretrained(name)


def minilm(path: Path, sparsity: float, name: str) -> None:
    """The published network with its encoder pruned."""
    words = ["prune", str(path), "-o", name, "--sparsity", str(sparsity)]
    subprocess.run([sys.executable, "-m", "secateurs", *words], check=True, capture_output=True)


def networks(
    make: Callable[[float, str], None], part: str, name: str, sparsities: list[float], asked: argparse.Namespace
) -> None:
    """A network under every runtime; the result grows by one run after another."""
    runs: list[dict[str, Any]] = []
    out = asked.out.resolve().with_name(f"bench_{part}{END}.json")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for n_threads in asked.threads:
            for sparsity in sparsities:
                shutil.rmtree(name, ignore_errors=True)
                make(sparsity, name)  # the result names the network by this path
                tokens = asked.tokens or [1, 16, 32, 128]
                found = sc.bench(name, tokens=tokens, rounds=asked.n, threads=n_threads).values()
                command = f"python benchmarks/running.py {part} --threads {n_threads} --n {asked.n}"
                for row in found["rows"]:  # what every layer and every turn took is too much to keep
                    row.pop("choices", None)
                    for latency in row.get("latencies", ()):
                        latency.pop("turn_medians_s", None)
                runs.append({"sparsity": sparsity, "threads": n_threads, "result": {"command": command, **found}})
                write_json(out, {"command": command, "runs": runs})
                print(part, n_threads, sparsity, flush=True)


def main() -> None:
    """Measure, and write the result: a part replaces its own key, `layers` the cases it measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["layers", "start", "teams", "decode", "bert", "blocks", "minilm"])
    parser.add_argument("--shape", type=int, nargs=2, default=[4096, 4096])
    parser.add_argument("--tokens", type=int, nargs="+")
    parser.add_argument("--sparsity", type=float, nargs="+")
    parser.add_argument("--path", type=Path, help="the directory of all-MiniLM-L6-v2")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--n", type=int, default=11, help="rounds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"running{END}.json")
    arguments = parser.parse_args()
    result = json.loads(arguments.out.read_text("utf-8")) if arguments.out.exists() else {}
    if arguments.part == "start":
        result["start"] = {**start(3), "environment": environment()}
        write_json(arguments.out, result)
        print(json.dumps(result["start"], indent=1))
        return
    if arguments.part == "teams":
        result["teams"] = teams(arguments.n)
        write_json(arguments.out, result)
        return
    if arguments.part == "decode":
        result["decode"] = [decoding.measure(n_threads, arguments.n) for n_threads in arguments.threads]
        write_json(arguments.out, result)
        return
    if arguments.part == "bert":
        networks(bert, "bert", "bert-base", arguments.sparsity or [0.7, 0.8, 0.9], arguments)
        return
    if arguments.part == "blocks":
        make = partial(bert, unit="block(32, 32)")
        networks(make, "blocks", "bert-base", arguments.sparsity or [0.7, 0.8, 0.9], arguments)
        return
    if arguments.part == "minilm":
        make = partial(minilm, arguments.path.resolve())
        networks(make, "minilm", "all-MiniLM-L6-v2", arguments.sparsity or [0.7, 0.9], arguments)
        return
    result |= {"command": "python benchmarks/running.py layers", "environment": environment(), "vectors": ways()}
    for n_threads in arguments.threads:
        for n_tokens in arguments.tokens or [1, 8, 32, 128]:
            for sparsity in arguments.sparsity or SPARSITIES:
                n = max(LEAST, arguments.n if n_tokens < 128 else arguments.n // 2)
                found = case(*arguments.shape, sparsity, n_tokens, n_threads, n) | {"environment": environment()}
                keys = ("shape", "sparsity", "tokens", "threads")
                others = [each for each in result.get("layers", []) if any(each[key] != found[key] for key in keys)]
                result["layers"] = [*others, found]
                write_json(arguments.out, result)
                shown = {name: round(run["faster"]["median"], 2) for name, run in found["runs"].items()}
                print(n_threads, n_tokens, sparsity, shown, flush=True)


if __name__ == "__main__":
    main()
