"""Eights: a CPU without the shuffle moves the same weights."""

import os
import subprocess
import sys
from pathlib import Path

WORK = """
import numpy as np
from numba.core.registry import cpu_target
from secateurs.formats import kernels

assert "+avx2" not in cpu_target.target_context.codegen().magic_tuple()[2]
generator = np.random.default_rng(0)
for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
    for n_columns in (64, 37):
        keep = generator.random((20, n_columns)) < 0.4
        stored = generator.integers(1, np.iinfo(dtype).max, keep.shape, dtype) * keep
        mask = np.packbits(keep, axis=1, bitorder="little").reshape(-1)
        kept, found = np.zeros(keep.sum() + kernels.SLACK, dtype), np.empty(keep.size, dtype)
        assert kernels.gather(stored.reshape(-1), mask, n_columns, kept) == keep.sum()
        assert np.array_equal(kept[: keep.sum()], stored[keep])
        assert kernels.scatter(mask, kept, n_columns, found) == keep.sum()
        assert np.array_equal(found.reshape(stored.shape), stored)
"""


def test_a_plain_cpu_moves_the_same_weights(tmp_path: Path) -> None:
    environ = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", WORK]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
