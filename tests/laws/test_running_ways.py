"""Weights are spread in three ways, by what the CPU has; all give the same bits, wherever each is fast.

Here the AVX-512 way runs as LLVM rewrites it for a CPU without AVX-512: its code is tested, its speed is not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import hashlib, json, sys
import secateurs.running.features as features, secateurs.running.instructions as instructions
way, cases = sys.argv[1], json.loads(sys.argv[2])
if way == "avx512":
    features.ways = instructions.ways = lambda: "avx512"
elif way == "plain":
    assert features.features() == frozenset(), features.features()
import numpy as np
import torch
from secateurs.formats import bitmask
from secateurs.running.products import product
from secateurs.running.ready import ready
found = {"ways": instructions.ways()}
draw = torch.Generator().manual_seed(0)
weight = torch.randn(9, 77, generator=draw) * (torch.rand(9, 77, generator=draw) < 0.4)
# Whole numbers: sums are exact in any order, and with or without a fused multiply-add.
weight, x = (weight * 50).round(), (torch.randn(5, 77, generator=draw) * 50).round()
for values, n in cases:
    packed = bitmask.pack(weight.bfloat16() if values == "bf16" else weight, None,
                          "exact" if values == "bf16" else values)
    of = ready(packed)
    one = 1.0 if not values.startswith("int") else 2.0**-24 if values == "int8" else 2.0**-28
    of.scales[...] = np.float32(one).view(np.uint32) >> 16  # as bfloat16
    found[f"{values} {n}"] = hashlib.sha256(product(of, x[:n]).numpy().tobytes()).hexdigest()
print(json.dumps(found))
"""


ALL = [(values, n) for values in ("exact", "bf16", "int8", "int4/32") for n in (1, 4, 5)]


def found(way: str, cases: list[tuple[str, int]], folder: Path) -> dict[str, str]:
    """Hashes of products in a new process that spreads this way."""
    environ = dict(os.environ)
    if way != "here":
        environ["NUMBA_CACHE_DIR"] = str(folder)
    if way == "plain":
        environ["NUMBA_CPU_NAME"] = "generic"
    command = [sys.executable, "-c", CODE, way, json.dumps(cases)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize(
    "cases", [[("exact", 1), ("int8", 1)], pytest.param(ALL, marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.parametrize("way", ["plain", "avx512"])
def test_every_way_gives_the_same_bits(way: str, cases: list[tuple[str, int]], tmp_path: Path) -> None:
    here, there = found("here", cases, tmp_path), found(way, cases, tmp_path)
    assert there.pop("ways") == way
    here.pop("ways")
    assert len(here) == len(cases)
    assert there == here
