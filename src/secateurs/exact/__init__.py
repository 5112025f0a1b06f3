"""Exact: the selection engine on the bits of |w|, for arrays in memory and memory-mapped files alike; no torch.

Floating numbers of one sign are ordered as their bit patterns are, so sizes are compared, counted and zeroed as
integers, without a copy, whatever the dtype.
"""
