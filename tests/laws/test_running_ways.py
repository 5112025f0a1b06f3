"""Weights are spread in three ways and multiplied in a fourth, by what the CPU has; all give the same bits.

On a CPU without AVX-512 that way runs as LLVM rewrites it: its code is tested, its speed is not. AMX runs on AMX alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from secateurs.running.features import has_amx, has_avx2, has_avx512

CODE = """
import hashlib, json, sys
import secateurs.running.features as features
way, cases = sys.argv[1], json.loads(sys.argv[2])
if way not in ("here", "amx"):
    features.ways, features.has_amx = lambda: way, lambda: False
if way in ("plain", "panels of any CPU"):
    assert features.features() == frozenset(), features.features()
if way == "panels of any CPU":
    features.ways = lambda: "avx512"
import numpy as np
import torch
from secateurs.formats import bitmask
from secateurs.running.products import product
from secateurs.running.ready import ready
found = {"kind": None}
draw = torch.Generator().manual_seed(0)
weight = torch.randn(9, 77, generator=draw) * (torch.rand(9, 77, generator=draw) < 0.4)
# Whole numbers: sums are exact in any order, and with or without a fused multiply-add.
weight, x = (weight * 50).round(), (torch.randn(30, 77, generator=draw) * 50).round()
for values, n in cases:
    packed = bitmask.pack(weight.bfloat16() if values == "bf16" else weight, None,
                          "exact" if values == "bf16" else values)
    of = ready(packed)
    found["kind"] = type(of).__name__
    one = 1.0 if not values.startswith("int") else 2.0**-24 if values == "int8" else 2.0**-28
    if found["kind"] == "Panels" and values.startswith("int"):
        one *= 2.0**24
    of.scales[...] = np.float32(one).view(np.uint32) >> 16  # as bfloat16
    found[f"{values} {n}"] = hashlib.sha256(product(of, x[:n]).numpy().tobytes()).hexdigest()
print(json.dumps(found))
"""


ALL = [(values, n) for values in ("exact", "bf16", "int8", "int4/32") for n in (1, 4, 5, 30)]


def found(way: str, cases: list[tuple[str, int]], folder: Path) -> dict[str, str]:
    """Hashes of products in a new process that spreads this way."""
    environ = dict(os.environ)
    if way != "here":
        environ["NUMBA_CACHE_DIR"] = str(folder)
    if way in ("plain", "panels of any CPU"):
        environ["NUMBA_CPU_NAME"] = "generic"
    command = [sys.executable, "-c", CODE, way, json.dumps(cases)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout)
    return result


def test_where_numba_compiles_without_avx_nothing_here_uses_it() -> None:
    """As on virtual machines whose CPU LLVM does not know by its name: an instruction of AVX would end the process."""
    code = "from secateurs.running.features import features, ways; print(ways(), sorted(features()))"
    environ = {**os.environ, "NUMBA_ENABLE_AVX": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    way, _, names = done.stdout.partition(" ")
    assert way == "plain"
    assert "avx" not in names


@pytest.mark.parametrize(
    "cases", [[("exact", 1), ("int8", 1)], pytest.param(ALL, marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.parametrize(
    ("way", "kind"),
    [("plain", "Bits"), ("avx2", "Bits"), ("panels of any CPU", "Panels"), ("avx512", "Panels"), ("amx", "Panels")],
)
def test_every_way_gives_the_same_bits(way: str, kind: str, cases: list[tuple[str, int]], tmp_path: Path) -> None:
    if way in (has := {"avx2": has_avx2, "avx512": has_avx512, "amx": has_amx}) and not has[way]():
        pytest.skip(f"this CPU has no {way}")
    here, there = found("here", cases, tmp_path), found(way, cases, tmp_path)
    assert there.pop("kind") == kind
    here.pop("kind")
    assert len(here) == len(cases)
    assert there == here
