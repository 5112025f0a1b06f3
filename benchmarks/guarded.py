"""Guarded: random products of packed weights, and what a fused block does between them, whose arrays all end where the
memory ends: a stray read would kill this.

    python benchmarks/guarded.py [--calls 1000000] [--seed 0] [--out benchmarks/results/guarded.json]

Every array that the loops are given, copies of the input among them, is placed so that its last byte is the last before
a page that must not be touched (what a loop allocates and forgets is not); the arrays behind which the loops may read
keep their documented room (secateurs.running.ready.ROOM) and no more. Results are checked against dense products,
attention, norms and activations by torch in float64. Shapes, sparsities, formats, values, biases and numbers of tokens
are drawn by chance; one weight in twenty is large, and one call in five has its tokens side by side, as a convolution.
"""

import argparse
import ctypes
import dataclasses
import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from secateurs.durable import write_json
from secateurs.formats.table import FORMATS
from secateurs.measure.environment import environment
from secateurs.running import curves, encoding, panels, products, squares
from secateurs.running.features import ways
from secateurs.running.products import product, product_beside
from secateurs.running.ready import EXACT, Ready, ready

PAGE = mmap.PAGESIZE
CALLS = 10  # of one weight


def guarded(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy that ends where a forbidden page begins."""
    n_pages = -(-array.nbytes // PAGE)
    memory = mmap.mmap(-1, (n_pages + 1) * PAGE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(begin + n_pages * PAGE), ctypes.c_size_t(PAGE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    found = np.frombuffer(memory, array.dtype, array.size, n_pages * PAGE - array.nbytes).reshape(array.shape)
    found[...] = array
    return found


class Guarding:
    """numpy, whose new arrays are guarded."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if name not in ("empty", "zeros", "take", "concatenate"):
            return found
        return lambda *given, **options: guarded(found(*given, **options))


def drawn(rng: np.random.Generator) -> tuple[Ready, torch.Tensor, bool]:
    """A guarded weight, the dense one that it stands for, and whether its inputs are rounded to 8 bits."""
    format = str(rng.choice(["bitmask", "index", "nm", "blocks", "slabs", "rows"]))
    values = str(rng.choice(["exact", "bf16", "int8", "int4"]))
    if format in ("bitmask", "nm") and values.startswith("int"):
        values += str(rng.choice(["", "/32", "/64", "/96"]))
    is_rounded = values.startswith("int") and rng.random() < 0.3
    size = 1 if rng.random() < 0.95 else 10
    rows, columns = int(rng.integers(1, 40 * size)), int(rng.integers(1, 300 * size))
    columns += -columns % int(rng.choice([4, 32]))  # whole words are read otherwise than what is left of one
    if format == "slabs":  # blocks that run in panels where a CPU has AVX-512
        rows, columns = 32 * (rows // 20 + 1), columns + -columns % 16
    weight = torch.from_numpy(rng.standard_normal((rows, columns), np.float32))
    keep = torch.from_numpy(rng.random((rows, columns)) >= rng.choice([0.0, 0.3, 0.7, 0.95, 1.0]))
    options = {}
    if format == "nm":
        keep[:] = torch.tensor([True, False, False, True]).repeat(columns // 4)
        options = {"n": 2, "m": 4}
    if format == "blocks":
        keep, options = keep[:, ::4].repeat_interleave(4, 1)[:, :columns], {"h": 1, "w": 4}
    if format == "slabs":
        format, options = "blocks", {"h": 32, "w": 16}
        keep = keep[::32, ::16].repeat_interleave(32, 0).repeat_interleave(16, 1)
    if format == "rows":
        n_left = int(rng.integers(columns + 1)) // (step := int(rng.choice([1, 8, 32]))) * step
        keep = keep[:, :1] & torch.from_numpy(rng.permutation(columns) < n_left)
    weight = torch.where(keep, weight, 0.0)
    packed = FORMATS[format].pack(
        weight.bfloat16() if values == "bf16" else weight, keep, "exact" if values == "bf16" else values, **options
    )
    of = ready(packed, 1 if is_rounded else EXACT)
    arrays = {key: guarded(value) for key, value in vars(of).items() if isinstance(value, np.ndarray)}
    is_rounded = is_rounded and getattr(of, "n_planes", EXACT) == 1  # elsewhere inputs stay as they are
    return dataclasses.replace(of, **arrays), FORMATS[format].unpack(packed).float(), is_rounded


def run(n_calls: int, seed: int) -> dict[str, Any]:
    """That many products; how many weights, and the largest error as a share of the largest sum of |weight| |input|."""
    rng = np.random.default_rng(seed)
    torch.set_num_threads(1)
    products.np = Guarding()  # type: ignore[assignment]
    # Panels make their copy of the input in compiled code, but for threads that are not OpenMP's.
    products.address, products.ALONE_PANELS = lambda: 0, 0
    for loops in (panels, squares):
        loops.placed = lambda *given, placed=loops.placed: tuple(map(guarded, placed(*given)))  # type: ignore
    products.n_threads, products.together = lambda: 2, lambda parts, n: [part() for part in parts]
    done, n_weights, worst = 0, 0, 0.0
    while done < n_calls:
        of, dense, is_rounded = drawn(rng)
        n_weights += 1
        for _ in range(min(CALLS, n_calls - done)):
            n = int(rng.choice([1, 1, 2, 3, 4, 5, 8, 13, 20, 40, 70]))
            x = torch.from_numpy(guarded(rng.standard_normal((n, of.columns), np.float32)))
            bias = torch.from_numpy(guarded(rng.standard_normal(of.rows, np.float32))) if rng.random() < 0.5 else None
            if is_beside := rng.random() < 0.2:
                beside = torch.from_numpy(guarded(np.ascontiguousarray(x.T.numpy())))
            y = product_beside(of, beside, bias).T if is_beside else product(of, x, bias)
            added = 0.0 if bias is None else bias
            exact = x @ dense.T + added
            # A sum of a few products may all but cancel: what it is made of is the measure.
            size = (x.abs() @ dense.abs().T + abs(added)).max().clamp_min(1e-6)
            error = (y - exact).abs()
            if is_rounded:  # each input by half of a 127th of its token's largest
                error = (error - x.abs().amax(1, keepdim=True) * dense.abs().sum(1) / 253).clamp_min(0.0)
            worst = max(worst, float(error.max() / size))
            done += 1
    assert worst < 1e-4, worst
    between = [run_between(rng) for _ in range(n_calls // CALLS)]
    assert max(between) < 1e-5, max(between)
    return {
        "calls": done,
        "weights": n_weights,
        "between": len(between),
        "seed": seed,
        "worst_error": worst,
        "worst_between": max(between),
        "vectors": ways(),
    }


def run_between(rng: np.random.Generator) -> float:
    """An attention, a norm and an activation of one random layer; the largest error."""
    n_keys, heads, dim = int(rng.integers(1, 70)), int(rng.integers(1, 5)), int(rng.integers(1, 40))
    shape = (int(rng.integers(1, 4)), n_keys, int(rng.integers(1, n_keys + 1)), heads, dim)
    n_sequences, _, n_queries, _, _ = shape
    qkv = guarded(rng.standard_normal((n_sequences * n_keys, 3 * heads * dim), np.float32))
    rows = int(rng.choice([0, 1, n_queries]))
    mask = rng.standard_normal((n_sequences, rows, n_keys), np.float32)
    mask = guarded(mask) if rows else mask
    out = guarded(np.empty((n_sequences * n_queries, heads * dim), np.float32))
    room = guarded(np.empty(encoding.room_of(shape), np.float32))
    steps = (rows * n_keys, n_keys if rows == n_queries else 0)
    encoding.mix(qkv.reshape(-1), shape, mask.reshape(-1), steps, room, out.reshape(-1), encoding.TILE, 0, 1)
    split = torch.from_numpy(qkv).double().view(n_sequences, n_keys, 3, heads, dim).permute(2, 0, 3, 1, 4)
    added = torch.from_numpy(mask).double()[:, None] if rows else None
    found = F.scaled_dot_product_attention(split[0][:, :, :n_queries], split[1], split[2], attn_mask=added)
    errors = [torch.from_numpy(out) - found.transpose(1, 2).reshape(out.shape)]
    width = heads * dim
    weight, bias = (guarded(rng.standard_normal(width, np.float32)) for _ in range(2))
    summed, normed = guarded(np.empty_like(out)), guarded(np.empty_like(out))
    encoding.norm(out.reshape(-1), out.reshape(-1), weight, bias, 1e-2, summed.reshape(-1), normed.reshape(-1), 0, 1)
    given = [torch.from_numpy(each).double() for each in (summed, weight, bias)]
    errors.append(torch.from_numpy(normed) - F.layer_norm(given[0], (width,), given[1], given[2], 1e-2))
    active = guarded(normed)
    encoding.activate(active.reshape(-1), curves.GELU, 0, 1)
    errors.append(torch.from_numpy(active) - F.gelu(torch.from_numpy(normed).double()))
    return max(float(each.abs().max()) for each in errors)


def main() -> None:
    """Run, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    name = "guarded.json" if ways() == "avx512" else f"guarded_{ways()}.json"
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / name)
    arguments = parser.parse_args()
    found = run(arguments.calls, arguments.seed)
    command = f"python benchmarks/guarded.py --calls {arguments.calls} --seed {arguments.seed}"
    write_json(arguments.out, {"command": command, "environment": environment(), **found})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
