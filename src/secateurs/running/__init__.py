"""Running: products with packed weights that skip what is not kept, and modules that use them.

    y = linear(packed, x, bias)                          # any format, any number of tokens
    layer = PackedLinear.from_linear(layer, "bitmask", "int8")
    accelerated = accelerate(model, x)                   # swaps the layers for which measuring says so

instructions.py has the vectors, few.py the loops for few tokens, many.py those for many; where a CPU has AVX-512,
wide.py has the vectors and panels.py the loops, and where it has AMX amx.py the registers and squares.py the loops for
many tokens. ready.py is what they read.
"""
