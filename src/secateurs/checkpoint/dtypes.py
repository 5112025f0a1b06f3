"""Dtypes: the bits of one element.

DTYPES  what safetensors knows, by its names        BITS  and what other sources hold besides
"""

import numpy as np

DTYPES = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
BITS = DTYPES | {"C32": 32, "C128": 128}


def storage_of(dtype: str) -> "np.dtype[np.unsignedinteger]":
    """The unsigned integers that hold the bits of one element; bytes where none has its size.

    >>> storage_of("BF16"), storage_of("F4")
    (dtype('uint16'), dtype('uint8'))
    """
    return np.dtype(f"u{BITS[dtype] // 8 if BITS[dtype] in (8, 16, 32, 64) else 1}")
