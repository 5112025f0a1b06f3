"""Features: the vector instructions that compiled code may use, as numba is told.

NUMBA_CPU_FEATURES and NUMBA_CPU_NAME=generic, numba's own settings, switch some of them off for a process.
"""

from functools import cache

from llvmlite import binding
from numba.core import config


@cache
def features() -> frozenset[str]:
    """Names as LLVM has them: "avx2", "avx512vbmi2", "neon"."""
    asked = getattr(config, "CPU_FEATURES", None)
    if asked is not None:
        return frozenset(name[1:] for name in str(asked).split(",") if name.startswith("+"))
    if getattr(config, "CPU_NAME", None) == "generic":
        return frozenset()
    try:
        found = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know this system
        return frozenset()
    return frozenset(name for name, is_there in found.items() if is_there)


def ways() -> str:
    """How kept weights are spread over a vector here: "avx512", "avx2" or "plain"."""
    found = features()
    if {"avx512vl", "avx512vbmi2"} <= found:
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= found else "plain"
