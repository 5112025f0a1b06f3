"""Formats: one weight without its zeros, in memory; five ways to say where the kept weights are, four to store them.

    packed = bitmask.pack(weight, keep)                  # positions: bitmask, index, nm, blocks, rows
    packed = bitmask.pack(weight, keep, "int8")          # values: exact, int8, int4, codebook:2 to codebook:8
    weight = bitmask.unpack(packed)                      # dense again; what is not kept is exactly zero
    bitmask.nbytes(packed)                               # what it takes
    y = bitmask.linear(packed, x)                        # x W^T without the zeros: bitmask, index, nm, blocks

FORMATS in table.py has them all. The packed file (checkpoint/packed_file.py) stores the same streams, entropy-coded.
"""
