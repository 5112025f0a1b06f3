"""Lanes: 32 neighbouring weights compared at once, the answers as bits; and what bits are asked.

    below, inside, odd = compare(stored, start, mask, low, high, end)
    while inside: place = first(inside); ...; inside &= inside - 1

They are instructions for compiled loops only. Written as vectors of LLVM, which every CPU has in its own width; a loop
over single weights would cost a branch for each that is found.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

N_LANES = 32


def instruction(code: Callable[..., Any]) -> Any:
    """numba's own decorator, which is typed in parts only."""
    return intrinsic(code)


@instruction
def compare(typing: Any, stored: Any, start: Any, mask: Any, low: Any, high: Any, end: Any) -> Any:
    """Of the keys of stored[start : start + 32]: which are below `low`, in [low, high], at least `end`; as uint32."""
    if not isinstance(stored, types.Array) or stored.layout != "C":
        return None  # numba says that there is no such function
    key = stored.dtype

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(key.bitwidth), N_LANES)

        def spread(number: Any) -> Any:
            nothing, places = ir.Constant(vector, ir.Undefined), ir.VectorType(ir.IntType(32), N_LANES)
            one = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(one, nothing, ir.Constant(places, [0] * N_LANES))

        def bits(truths: Any) -> Any:
            return builder.bitcast(truths, ir.IntType(N_LANES))

        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())
        keys = builder.and_(builder.load(place, align=key.bitwidth // 8), spread(args[2]))
        below = bits(builder.icmp_signed("<", keys, spread(args[3])))
        above = bits(builder.icmp_signed(">", keys, spread(args[4])))
        odd = bits(builder.icmp_signed(">=", keys, spread(args[5])))
        inside = builder.not_(builder.or_(below, above))
        return context.make_tuple(builder, signature.return_type, [below, inside, odd])

    answers = types.UniTuple(types.uint32, 3)  # type: ignore[no-untyped-call]
    return answers(stored, types.intp, key, key, key, key), code


@instruction
def n_set(typing: Any, bits: Any) -> Any:
    """How many of 32 bits are set."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(builder.ctpop(args[0]), ir.IntType(64))

    return types.int64(types.uint32), code


@instruction
def first(typing: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set; there must be one."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(builder.cttz(args[0], ir.Constant(ir.IntType(1), 1)), ir.IntType(64))

    return types.int64(types.uint32), code
