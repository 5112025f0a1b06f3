"""Environment: the machine and the versions a number was measured with."""

import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch

import secateurs

LIBRARIES = ("transformers", "numba", "onnx", "onnxscript", "onnxruntime", "openvino")
_BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # features that multiply it: other CPUs convert, and take longer
_FEATURES = ("avx", "fma", "f16c", "amx", "asimd", "sve", "i8mm", "bf16")


@cache
def environment() -> dict[str, str | int]:
    """JSON-able: versions, CPU model and its vector features, cores. Equal environments give equal bits."""
    return {
        "secateurs": secateurs.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "cpu": _cpu_name(),
        "vectors": torch.backends.cpu.get_cpu_capability() + (", bfloat16" if multiplies_bfloat16() else ""),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "platform": f"{platform.system()} {platform.machine()}",
    }


@cache
def cpu_features() -> tuple[str, ...]:
    """What the CPU can do with vectors and matrices, as Linux calls it; empty where it does not say."""
    words = {word for line in _cpu_info() if line.startswith(("flags", "Features")) for word in line.split()}
    return tuple(sorted(word for word in words if word.startswith(_FEATURES)))


def multiplies_bfloat16() -> bool:
    """Whether the CPU does, so that a step of training in bfloat16 is quicker."""
    return bool(_BFLOAT16 & set(cpu_features()))


def machine(threads: int) -> dict[str, Any]:
    """JSON-able: the environment, and what a time depends on beside it."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**environment(), "threads": threads, "cpu_features": list(cpu_features()), "libraries": versions}


def _cpu_name() -> str:
    """The CPU's name: /proc/cpuinfo where there is one."""
    names = [line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
