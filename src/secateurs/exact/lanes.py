"""Lanes: 32 neighbouring weights compared at once, with numbers or with each other; and what bits are asked.

    below, inside, odd = compare(stored, start, mask, low, high, end)
    while inside: place = first(inside); ...; inside &= inside - 1
    keep_best(stored, start, mask, (0,) * m, n_keep, tile, place)

They are instructions for compiled loops only. Written as vectors of LLVM, which every CPU has in its own width; a loop
over single weights would cost a branch for each that is found.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

N_LANES = 32
AHEAD = 1024  # bytes from what is compared to what is asked of memory
LINE = 64  # bytes that memory gives at a time


def instruction(code: Callable[..., Any]) -> Any:
    """numba's own decorator, which is typed in parts only."""
    return intrinsic(code)


def _at(context: Any, builder: Any, signature: Any, args: Any, array: int, place: int) -> Any:
    """Where the lanes of the argument `array` begin at the index that the argument `place` says."""
    found = signature.args[array]
    data = context.make_array(found)(context, builder, args[array]).data
    vector = ir.VectorType(ir.IntType(found.dtype.bitwidth), N_LANES)
    return builder.bitcast(builder.gep(data, [args[place]]), vector.as_pointer())


def _spread(builder: Any, number: Any) -> Any:
    """One number in every lane."""
    vector, places = ir.VectorType(number.type, N_LANES), ir.VectorType(ir.IntType(32), N_LANES)
    nothing = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(places, [0] * N_LANES))


def _bits(builder: Any, truths: Any) -> Any:
    return builder.bitcast(truths, ir.IntType(N_LANES))


def _ask(builder: Any, place: Any, n_bytes: int) -> None:
    """Have memory bring what will be read soon; a CPU sees by itself that it is read in order, but too late."""
    text, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    words = [ir.Constant(number, word) for word in (0, 3, 1)]  # to read, to keep, data
    kind = ir.FunctionType(ir.VoidType(), [text, number, number, number])
    fetch = builder.module.declare_intrinsic("llvm.prefetch", [text], kind)
    for ahead in range(AHEAD, AHEAD + n_bytes, LINE):
        there = builder.gep(builder.bitcast(place, text), [ir.Constant(ir.IntType(64), ahead)])
        builder.call(fetch, [there, *words])


@instruction
def compare(typing: Any, stored: Any, start: Any, mask: Any, low: Any, high: Any, end: Any) -> Any:
    """Of the keys of stored[start : start + 32]: which are below `low`, in [low, high], at least `end`; as uint32."""
    if not isinstance(stored, types.Array) or stored.layout != "C":
        return None  # numba says that there is no such function
    key = stored.dtype

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _at(context, builder, signature, args, 0, 1)
        _ask(builder, place, N_LANES * key.bitwidth // 8)
        keys = builder.and_(builder.load(place, align=key.bitwidth // 8), _spread(builder, args[2]))
        below = _bits(builder, builder.icmp_signed("<", keys, _spread(builder, args[3])))
        above = _bits(builder, builder.icmp_signed(">", keys, _spread(builder, args[4])))
        odd = _bits(builder, builder.icmp_signed(">=", keys, _spread(builder, args[5])))
        inside = builder.not_(builder.or_(below, above))
        return context.make_tuple(builder, signature.return_type, [below, inside, odd])

    answers = types.UniTuple(types.uint32, 3)  # type: ignore[no-untyped-call]
    return answers(stored, types.intp, key, key, key, key), code


@instruction
def keep_best(typing: Any, stored: Any, start: Any, mask: Any, group: Any, n_keep: Any, tile: Any, place: Any) -> Any:
    """Of stored[start : start + 32] the n_keep largest of every group, else 0, into tile[place : place + 32]; among
    equals the earlier. `group` is a tuple as long as a group, as the machine code depends on it; it divides 32."""
    if not all(isinstance(each, types.Array) and each.layout == "C" for each in (stored, tile)):
        return None
    key, m = stored.dtype, len(group)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers, places = (ir.VectorType(ir.IntType(n), N_LANES) for n in (key.bitwidth, 32))
        source = _at(context, builder, signature, args, 0, 1)
        _ask(builder, source, N_LANES * key.bitwidth // 8)
        found = builder.load(source, align=key.bitwidth // 8)
        keys = builder.and_(found, _spread(builder, args[2]))
        rank = ir.Constant(numbers, [0] * N_LANES)
        for step in range(1, m):
            # Each against the one `step` on, around its group; an earlier one also where it is equal.
            others = [i // m * m + (i + step) % m for i in range(N_LANES)]
            other = builder.shuffle_vector(keys, keys, ir.Constant(places, others))
            least = builder.sub(keys, ir.Constant(numbers, [int(other < i) for i, other in enumerate(others)]))
            rank = builder.add(rank, builder.zext(builder.icmp_signed(">", other, least), numbers))
        is_kept = builder.icmp_signed("<", rank, _spread(builder, args[4]))
        kept = builder.select(is_kept, found, ir.Constant(numbers, [0] * N_LANES))
        builder.store(kept, _at(context, builder, signature, args, 5, 6), align=key.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(stored, types.intp, key, group, key, tile, types.intp), code


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
