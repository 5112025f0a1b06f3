"""Decoding: a causal language model token by token with its cache of keys and values, by torch and by packed layers.

    python benchmarks/running.py decode [--threads 1 2] [--n 9]

GPT-2 small's configuration with a head of its own (163M parameters), weights at random (seed 1), 70 % of every layer
zero, the head's too, embeddings aside. Every contender runs in a process of its own. After 16 tokens that are read at
once, each turn decodes TOKENS given ones one by one, after one that is not counted, and forgets them; every round has a
turn of each, the order reversed in every other. Milliseconds per token are a turn's by its tokens; ratios are to
torch's float32 in the same round, with a bootstrap interval over the rounds. `difference` is the largest of the logits
to torch's float32, as a share of the largest. "linear" says that GPT-2's Conv1D was replaced by nn.Linear: in bfloat16
torch is several times faster with it, int8 it has for nothing else; in float32 there is no difference.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import in_turn

from secateurs.measure.bench.worker import settle
from secateurs.measure.environment import environment
from secateurs.measure.intervals import paired_ratio
from secateurs.measure.memory import anonymous_bytes, mapped_bytes

SPARSITY, PROMPT, TOKENS = 0.7, 16, 6
TORCH = "torch float32"
CONTENDERS = (
    TORCH,
    "torch bfloat16, linear",
    "torch dynamic int8, linear",
    "secateurs fp32",
    "secateurs int8",
    "secateurs w8a8",
)


def make(folder: str) -> dict[str, Any]:
    """Write the pruned network; what it is."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    import secateurs as sc

    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(tie_word_embeddings=False))
    sc.prune(model, sc.Recipe(budget=sc.sparsity(SPARSITY)))
    model.save_pretrained(folder)
    return {"parameters": model.num_parameters(), "zeros": sum(int((each == 0).sum()) for each in model.parameters())}


def with_linear(model: Any) -> None:
    """Every Conv1D as the nn.Linear that it is."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, Conv1D):
                linear = nn.Linear(part.nx, part.nf)
                linear.weight = nn.Parameter(part.weight.detach().T.contiguous(), requires_grad=False)
                linear.bias = part.bias
                setattr(parent, name, linear)


class Decoder:
    """One contender, in its own process."""

    def __init__(self, name: str, folder: str, threads: int) -> None:
        import torch
        from transformers import GPT2LMHeadModel, logging
        from transformers.cache_utils import DynamicCache

        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        kind = torch.bfloat16 if "bfloat16" in name else torch.float32
        self.model = GPT2LMHeadModel.from_pretrained(folder, dtype=kind).eval().requires_grad_(False)
        if "linear" in name:
            with_linear(self.model)
        if "dynamic int8" in name:
            kinds = {torch.nn.Linear}
            self.model = torch.ao.quantization.quantize_dynamic(self.model, kinds, dtype=torch.qint8)
        draw = torch.Generator().manual_seed(2)
        self.ids = torch.randint(0, self.model.config.vocab_size, (1, PROMPT + 1 + TOKENS), generator=draw)
        self.cache = DynamicCache(config=self.model.config)
        with torch.inference_mode():
            self.model(self.ids[:, :PROMPT], past_key_values=self.cache)
        self.choices: list[str] = []
        if name.startswith("secateurs"):
            import secateurs as sc

            found = sc.accelerate(
                self.model,
                self.ids[:, :1],
                past_key_values=self.cache,
                values=name.split()[-1],
                is_reversible=False,
            )
            self.choices = [each.chosen for each in found.choices]

    def decode(self, n: int) -> tuple[float, Any]:
        """Seconds of n tokens after the first, and the last logits."""
        import torch

        with torch.inference_mode():
            for i in range(n + 1):
                if i == 1:
                    start = time.perf_counter()
                at = PROMPT + i
                logits = self.model(self.ids[:, at : at + 1], past_key_values=self.cache).logits
            seconds = time.perf_counter() - start
            self.cache.crop(-(n + 1))
        return seconds, logits.float().numpy().reshape(-1)


def serve(name: str, folder: str, threads: int) -> None:
    """One line for each turn asked for."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    settle()
    decoder = Decoder(name, folder, threads)
    _, logits = decoder.decode(TOKENS)
    np.save(Path(folder) / f"{name}.npy", logits)
    held = {"anonymous": anonymous_bytes(), "mapped": mapped_bytes(), "chosen": decoder.choices}
    print(json.dumps(held), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(decoder.decode(TOKENS)[0]), file=answers, flush=True)


def ask(process: "subprocess.Popen[str]", is_new: bool = False) -> Any:
    """What a process says to the next question; when it is new, to none."""
    assert process.stdin is not None
    assert process.stdout is not None
    if not is_new:
        process.stdin.write("\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} ended with {process.wait()}")
    return json.loads(line)


def measure(n_threads: int, n: int) -> dict[str, Any]:
    """All contenders with so many threads."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        about, processes, held = make(folder), {}, {}
        environ = {**os.environ, "OMP_NUM_THREADS": str(n_threads)}
        for name in CONTENDERS:
            processes[name] = subprocess.Popen(
                [sys.executable, "-W", "ignore", __file__, name, folder, str(n_threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environ,
            )
            stack.callback(processes[name].wait)
            stack.callback(processes[name].kill)
            held[name] = ask(processes[name], is_new=True)
            print(name, "is ready", flush=True)
        right = np.load(Path(folder) / f"{TORCH}.npy")
        off = {name: np.abs(np.load(Path(folder) / f"{name}.npy") - right).max() for name in CONTENDERS}
        turns = in_turn({name: partial(_turn, process) for name, process in processes.items()}, n)
    runs = {}
    for name, seconds in turns.items():
        ratio = paired_ratio(turns[TORCH], seconds)
        runs[name] = {
            "median_ms_per_token": 1000 * statistics.median(seconds) / TOKENS,
            "faster": {"median": ratio.mean, "low": ratio.low, "high": ratio.high},
            "difference": float(off[name] / np.abs(right).max()),
            "held": held[name],
        }
        print(n_threads, name, round(runs[name]["median_ms_per_token"], 2), runs[name]["faster"], flush=True)
    assert runs["secateurs fp32"]["difference"] < 1e-3, runs
    return {"threads": n_threads, "rounds": n, "sparsity": SPARSITY, "prompt": PROMPT, "tokens": TOKENS, **about,
            "runs": runs, "environment": environment()}  # fmt: skip


def _turn(process: "subprocess.Popen[str]") -> float:
    time.sleep(0.01)  # in which the threads of the last one stop waiting for more work
    return float(ask(process))


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
