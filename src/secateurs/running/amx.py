"""AMX: registers of 16 rows of 64 bytes in compiled loops, and products of two of them.

    begin(shape)                                       # until `end`, on one thread
    clear(pair)                                        # sums of one or two squares of tokens with 32 rows of a weight
    weights_from(room, there)                          # 64 bytes of each of 32 rows: two squares
    inputs_from(pair, x, at, of_token, apart)          # of as many tokens: one or two squares
    multiply(pair, kept)                               # sums += inputs times weights
    sums_to(pair, sums, at)
    end()

A square has in each row 64 bytes of one token, or four bytes (int8) or two numbers (bfloat16) of each of 16 rows of a
weight. `pair` is a tuple of one zero for every square of inputs. Inputs of integer weights are unsigned.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from secateurs.exact.lanes import instruction
from secateurs.running.vectors import I8, I64, call, pointer
from secateurs.running.wide import I32X16, ROWS, is_whole

SQUARE = 64  # bytes of a row, of which there are 16
SUMS, INPUTS, WEIGHTS = (0, 1, 2, 3), (4, 5), (6, 7)  # registers; of sums those of the first inputs come first


def shape_of(n_tokens: int, n_bytes: int = SQUARE) -> Any:
    """What `begin` is told, for squares of so many tokens, at most 16, and so many bytes of each, which 4 divides."""
    found = np.zeros(64, np.uint8)
    found[0] = 1
    found[16:32:2] = [SQUARE] * len(SUMS) + [n_bytes] * len(INPUTS) + [SQUARE] * len(WEIGHTS)
    found[48:56] = [n_tokens] * len(SUMS + INPUTS) + [n_bytes // 4] * len(WEIGHTS)
    return found


def _step(builder: Any, name: str, registers: tuple[int, ...], *others: Any) -> None:
    call(builder, f"llvm.x86.{name}", ir.VoidType(), [*map(I8, registers), *others])


@instruction
def begin(typing: Any, shape: Any) -> Any:
    """Shape the registers."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _step(builder, "ldtilecfg", (), pointer(context, builder, shape, args[0], I64(0), I8))
        return context.get_dummy_value()

    return types.void(shape), code


@instruction
def end(typing: Any) -> Any:
    """Let go of them: what they hold would be saved whenever the thread stops."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _step(builder, "tilerelease", ())
        return context.get_dummy_value()

    return types.void(), code


@instruction
def clear(typing: Any, pair: Any) -> Any:
    """Sums are zero."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for register in SUMS[: 2 * len(pair)]:
            _step(builder, "tilezero", (register,))
        return context.get_dummy_value()

    return types.void(pair), code


@instruction
def sums_from(typing: Any, pair: Any, sums: Any, at: Any, apart: Any) -> Any:
    """Sums are what `sums_to` wrote there."""
    return types.void(pair, sums, types.int64, types.int64), _of_sums("tileloadd64", pair, sums)


@instruction
def sums_to(typing: Any, pair: Any, sums: Any, at: Any, apart: Any) -> Any:
    """Write the sums of every token, 32 of each, from sums[at] on, and those of the second square from `apart` on."""
    return types.void(pair, sums, types.int64, types.int64), _of_sums("tilestored64", pair, sums)


def _of_sums(name: str, pair: Any, sums: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for register in SUMS[: 2 * len(pair)]:
            i, side = divmod(register, 2)
            place = builder.add(builder.add(args[2], I64(ROWS * side)), builder.mul(args[3], I64(i)))
            _step(builder, name, (register,), pointer(context, builder, sums, args[1], place, I8), I64(2 * SQUARE))
        return context.get_dummy_value()

    return code


@instruction
def weights_from(typing: Any, room: Any, there: Any) -> Any:
    """Two squares of weights, which stand beside each other from room[there] on; both in bytes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for side, register in enumerate(WEIGHTS):
            place = builder.add(args[1], I64(SQUARE * side))
            data = pointer(context, builder, room, args[0], place, I8)
            _step(builder, "tileloadd64", (register,), data, I64(2 * SQUARE))
        return context.get_dummy_value()

    return types.void(room, types.int64), code


@instruction
def inputs_from(typing: Any, pair: Any, x: Any, at: Any, of_token: Any, apart: Any) -> Any:
    """Squares of inputs from x[at] and x[at + apart] on, `of_token` for each token, all in bytes.

    They do not take the first cache from weights.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for i, register in enumerate(INPUTS[: len(pair)]):
            place = builder.add(args[2], builder.mul(args[4], I64(i)))
            data = pointer(context, builder, x, args[1], place, I8)
            _step(builder, "tileloaddt164", (register,), data, args[3])
        return context.get_dummy_value()

    return types.void(pair, x, types.int64, types.int64, types.int64), code


@instruction
def multiply(typing: Any, pair: Any, kept: Any) -> Any:
    """Of every square of inputs and of weights the product is added to its sums."""
    name = "tdpbusd" if is_whole(kept) else "tdpbf16ps"

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for i, inputs in enumerate(INPUTS[: len(pair)]):
            for side, weights in enumerate(WEIGHTS):
                _step(builder, name, (SUMS[2 * i + side], inputs, weights))
        return context.get_dummy_value()

    return types.void(pair, kept), code


@instruction
def plus(typing: Any, first: Any, sums: Any, at: Any, apart: Any) -> Any:
    """first[2 p] and first[2 p + 1] plus what `sums_to` wrote to sums[at + p * apart : ... + 32]."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found, vector = [], first.dtype.vector
        one = builder.add if first.dtype is I32X16 else builder.fadd
        for i in range(first.count):
            p, side = divmod(i, 2)
            place = builder.add(builder.add(args[2], I64(ROWS * side)), builder.mul(args[3], I64(p)))
            data = builder.load(pointer(context, builder, sums, args[1], place, vector), align=4)
            found.append(one(builder.extract_value(args[0], i), data))
        return context.make_tuple(builder, first, found)

    return first(first, sums, types.int64, types.int64), code
