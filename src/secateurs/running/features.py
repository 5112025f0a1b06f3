"""Features: the vector instructions that compiled code may use, as numba is told.

NUMBA_CPU_FEATURES, NUMBA_CPU_NAME=generic and NUMBA_ENABLE_AVX=0, numba's own settings, switch some of them off for a
process.
"""

import ctypes
import platform
import sys
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
    # Numba compiles without AVX where its setting ENABLE_AVX is off, as it is by itself on some virtual machines.
    is_known = bool(getattr(config, "ENABLE_AVX", True))
    return frozenset(name for name, is_there in found.items() if is_there and (is_known or not _is_avx(name)))


def _is_avx(name: str) -> bool:
    return name.startswith("avx") or name in ("fma", "f16c", "vaes", "vpclmulqdq", "gfni")


def has_avx512() -> bool:
    """Whether weights are expanded, and bytes multiplied, by instructions of their own: VBMI2 and VNNI."""
    return {"avx512bw", "avx512vbmi2", "avx512vnni"} <= features()


_ARCH_PRCTL, _REQUEST, _MATRICES = 158, 0x1023, 18  # Linux on x86-64: asm/unistd_64.h, asm/prctl.h


@cache
def has_amx() -> bool:
    """Whether bytes and bfloat16 are multiplied by registers of 16 rows, which Linux gives to those that ask."""
    if not ({"amx-tile", "amx-int8", "amx-bf16"} <= features() and has_avx512()):
        return False
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _MATRICES) == 0)


def has_avx2() -> bool:
    """Whether weights are spread by tables of permutations."""
    return {"avx2", "fma"} <= features()


def ways() -> str:
    """How kept weights are spread and multiplied here: "amx", "avx512", "avx2" or "plain"."""
    return "amx" if has_amx() else "avx512" if has_avx512() else "avx2" if has_avx2() else "plain"
