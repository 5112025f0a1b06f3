"""Environment: the machine and the versions a number was measured with."""

import os
import platform
from functools import cache
from pathlib import Path

import numpy
import torch

import secateurs


@cache
def environment() -> dict[str, str | int]:
    """JSON-able: versions, CPU model and its vector features, cores. Equal environments give equal bits."""
    return {
        "secateurs": secateurs.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "cpu": _cpu_name(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _cpu_name() -> str:
    """The CPU's name: /proc/cpuinfo where there is one."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
