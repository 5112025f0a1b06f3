"""Instructions: vectors of numbers in compiled loops, and kept weights spread to where their bits are set.

    w = spread8(kept, at, bits)            # 8 weights as f32: kept[at], kept[at + 1], ... where a bit is set, else 0
    total = fma(w, load8(x, column), total)

Written as vectors of LLVM, which every CPU runs in its own width. What spreads is chosen by the CPU's features: tables
of permutations on AVX2; else the expanding load, which LLVM makes of single steps: right everywhere, and slow. Both
give the same bits. CPUs with AVX-512 run bits in panels, see wide.py.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from secateurs.exact.lanes import instruction
from secateurs.running.features import features, has_avx2
from secateurs.running.vectors import FLOAT, I8, I16, I32, I64, Vector, call, cgutils, everywhere, pointer

_TILES = {n: Vector("f32", 8 * n) for n in (1, 2, 4, 8)}
F8, N8 = _TILES[1], Vector("i32", 8)
F16, N16 = _TILES[2], ir.VectorType(I32, 16)


def _table(builder: Any, name: str, rows: Any) -> Any:
    """A constant array (n, bytes) of the module; a pointer to its first byte."""
    array = ir.ArrayType(I8, rows.size)
    known = builder.module.globals.get(name)
    if known is None:
        known = ir.GlobalVariable(builder.module, array, name)
        known.linkage, known.global_constant, known.align = "internal", True, 64
        known.initializer = ir.Constant(array, bytearray(rows.astype(np.uint8).tobytes()))
    return builder.bitcast(known, I8.as_pointer())


def _row(builder: Any, table: Any, n_bytes: int, row: Any, vector: Any) -> Any:
    place = builder.gep(table, [builder.mul(row, I64(n_bytes))])
    return builder.load(builder.bitcast(place, vector.as_pointer()), align=n_bytes)


_BITS = np.arange(256)[:, None] >> np.arange(8) & 1  # (byte, place)
_BEFORE = _BITS.cumsum(axis=1) - _BITS  # (byte, place): the kept weight that belongs there


def _order(n_bytes: int) -> Any:
    """(byte, 32): for each of 8 lanes of 4 bytes, which byte of the kept weights goes there; 0x80 is none.

    A kept weight of n_bytes fills the highest bytes of its lane.
    """
    of_lane = np.full((256, 8, 4), 0x80)
    for i in range(n_bytes):
        of_lane[:, :, 4 - n_bytes + i] = np.where(_BITS, n_bytes * _BEFORE + i, 0x80)
    return of_lane


_ORDER = {1: _order(1), 2: _order(2)}
_PLACES = np.argsort(1 - _BITS, axis=1, kind="stable")  # (byte, k): the place of its k-th bit that is set
# Four whole words do not need to cross the halves of a vector, which takes AMD's CPUs three steps: each half begins
# with its own first kept weight.
_IN_HALF = _BEFORE - np.where(np.arange(8) >= 4, _BITS[:, :4].sum(axis=1, keepdims=True), 0)
_ORDER[4] = np.where(_BITS[:, :, None], 4 * _IN_HALF[:, :, None] + np.arange(4), 0x80)


def _kept8(builder: Any, data: Any, element: Any, bits: Any) -> Any:
    """8 elements from this place on, spread to the bits that are set, zero elsewhere: the expanding load of LLVM."""
    vector = ir.VectorType(element, 8)
    mask = builder.bitcast(builder.trunc(bits, I8), ir.VectorType(ir.IntType(1), 8))
    name = f"llvm.masked.expandload.v8{'f32' if element is FLOAT else f'i{element.width}'}"
    return call(builder, name, vector, [builder.bitcast(data, element.as_pointer()), mask, ir.Constant(vector, None)])


def _top(builder: Any, kept: Any) -> Any:
    """Short integers as the highest bits of 32."""
    n_bits = kept.type.element.width
    return builder.shl(builder.zext(kept, N8.vector), ir.Constant(N8.vector, [32 - n_bits] * 8))


def _shuffled(builder: Any, lower: Any, upper: Any, n_bytes: int, bits: Any) -> Any:
    """8 weights as the highest bytes of their lanes (AVX2), from the 16 bytes that each half of them stands in."""
    bytes_ = ir.VectorType(I8, 32)
    order = _row(builder, _table(builder, f"secateurs.order{n_bytes}", _ORDER[n_bytes]), 32, bits, bytes_)
    stored = builder.shuffle_vector(lower, upper, ir.Constant(ir.VectorType(I32, 32), list(range(32))))
    moved = call(builder, "llvm.x86.avx2.pshuf.b", bytes_, [stored, order])
    return builder.bitcast(moved, N8.vector)


def _sixteen(builder: Any, data: Any) -> Any:
    vector = ir.VectorType(I8, 16)
    return builder.load(builder.bitcast(data, vector.as_pointer()), align=1)


def _from_words(builder: Any, data: Any, bits: Any) -> Any:
    """float32."""
    if not has_avx2():
        return _kept8(builder, data, FLOAT, bits)
    lower = builder.and_(bits, I64(15))
    further = builder.gep(data, [builder.shl(builder.ctpop(lower), I64(2))])
    moved = _shuffled(builder, _sixteen(builder, data), _sixteen(builder, further), 4, bits)
    return builder.bitcast(moved, F8.vector)


def _from_halves(builder: Any, data: Any, bits: Any) -> Any:
    """bfloat16 in uint16: the upper half of a float32."""
    if has_avx2():
        stored = _sixteen(builder, data)
        return builder.bitcast(_shuffled(builder, stored, stored, 2, bits), F8.vector)
    return builder.bitcast(_top(builder, _kept8(builder, data, I16, bits)), F8.vector)


def _from_bytes(builder: Any, data: Any, bits: Any) -> Any:
    """int8, times 2**24: the sign needs no step of its own."""
    if has_avx2():
        whole = _from_eight(builder, builder.load(builder.bitcast(data, I64.as_pointer()), align=1), bits)
    else:
        whole = _top(builder, _kept8(builder, data, I8, bits))
    return builder.sitofp(whole, F8.vector)


def _from_eight(builder: Any, number: Any, bits: Any) -> Any:
    """The bytes of an int64 as the highest of their lanes."""
    both = builder.bitcast(everywhere(builder, number, ir.VectorType(I64, 2)), ir.VectorType(I8, 16))
    return _shuffled(builder, both, both, 1, bits)


def _from_nibbles(builder: Any, data: Any, bits: Any, is_odd: Any) -> Any:
    """int4, times 2**28; `is_odd`: the first stands in the upper half of its byte."""
    stored = builder.load(builder.bitcast(data, I64.as_pointer()), align=1)
    stored = builder.lshr(stored, builder.shl(is_odd, I64(2)))
    if has_avx2() and "bmi2" in features():
        # Each to the upper half of a byte of its own.
        stored = call(builder, "llvm.x86.bmi.pdep.64", I64, [stored, I64(0xF0F0F0F0F0F0F0F0)])
        return builder.sitofp(_from_eight(builder, stored, bits), F8.vector)
    whole = ir.Constant(N8.vector, None)
    for lane in range(8):
        before = builder.ctpop(builder.and_(bits, I64((1 << lane) - 1)))
        mine = builder.trunc(builder.lshr(stored, builder.shl(before, I64(2))), I32)
        is_set = builder.trunc(builder.lshr(bits, I64(lane)), ir.IntType(1))
        one = builder.select(is_set, builder.shl(mine, I32(28)), I32(0))
        whole = builder.insert_element(whole, one, I32(lane))
    return builder.sitofp(whole, F8.vector)


@instruction
def spread8(typing: Any, kept: Any, at: Any, bits: Any) -> Any:
    """f32 x 8: the kept weights from `at` on where `bits` (8 of an int64) are set, 0 elsewhere.

    kept  float32; bfloat16 as uint16; int8, which come times 2**24; int4, two to a byte of uint8, the lower half
          first, which come times 2**28. 8 bytes, or 8 weights, may be read beyond the last that is kept
    """
    spread = {types.float32: _from_words, types.uint16: _from_halves, types.int8: _from_bytes}

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if kept.dtype != types.uint8:
            return spread[kept.dtype](builder, pointer(context, builder, kept, args[0], args[1], I8), args[2])
        data = pointer(context, builder, kept, args[0], builder.lshr(args[1], I64(1)), I8)
        return _from_nibbles(builder, data, args[2], builder.and_(args[1], I64(1)))

    return F8(kept, types.int64, types.int64), code


@instruction
def total(typing: Any, vector: Any) -> Any:
    """The sum of all lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(FLOAT, [FLOAT, vector.vector])
        name = f"llvm.vector.reduce.fadd.v{vector.vector.count}f32"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [ir.Constant(FLOAT, 0.0), args[0]], fastmath=("reassoc",))

    return types.float32(vector), code


@instruction
def add(typing: Any, first: Any, second: Any) -> Any:
    """Lane by lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args)

    return first(first, first), code


@instruction
def times(typing: Any, first: Any, second: Any) -> Any:
    """Lane by lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(*args)

    return first(first, first), code


@instruction
def fma(typing: Any, first: Any, second: Any, third: Any) -> Any:
    """first * second + third, lane by lane; rounded once where the CPU can."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name = "fma" if has_avx2() else "fmuladd"
        return call(builder, f"llvm.{name}.v{first.vector.count}f32", first.vector, list(args))

    return first(first, first, first), code


@instruction
def load8(typing: Any, array: Any, at: Any) -> Any:
    """f32 x 8 from array[at] on."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(pointer(context, builder, signature.args[0], args[0], args[1], F8.vector), align=4)

    return F8(array, types.int64), code


@instruction
def turn8(typing: Any, source: Any, at: Any, step: Any, target: Any, to: Any, stride: Any, square: Any) -> Any:
    """target[to + j * stride + i] = source[at + i * step + j] for j < 8 and i < n, of 4 bytes each.

    square  as long as n, which is 4 or 8
    """
    n = len(square)
    vector = ir.VectorType(I32, n)

    def zipped(builder: Any, first: Any, second: Any, half: int) -> Any:
        order = [n * (k % 2) + half * n // 2 + k // 2 for k in range(n)]
        return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, n), order))

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for first in range(0, 8, n):
            rows = []
            for i in range(n):
                place = builder.add(args[1], builder.add(builder.mul(args[2], I64(i)), I64(first)))
                rows.append(builder.load(pointer(context, builder, source, args[0], place, vector), align=4))
            for _ in range(n.bit_length() - 1):  # each round moves one bit of a row's number behind those of a column's
                pairs = zip(rows[: n // 2], rows[n // 2 :], strict=True)
                rows = [zipped(builder, *pair, half) for pair in pairs for half in range(2)]
            for j, row in enumerate(rows):
                place = builder.add(args[4], builder.mul(args[5], I64(first + j)))
                builder.store(row, pointer(context, builder, target, args[3], place, vector), align=4)
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, target, types.int64, types.int64, square), code


@instruction
def every8(typing: Any, number: Any) -> Any:
    """f32 x 8 of one number."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return everywhere(builder, args[0], F8.vector)

    return F8(types.float32), code


@instruction
def zeros16(typing: Any) -> Any:
    """f32 x 16 of zeros."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(F16.vector, None)

    return F16(), code


@instruction
def zeros8(typing: Any) -> Any:
    """f32 x 8 of zeros."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(F8.vector, None)

    return F8(), code


def tile(n_tokens: int) -> tuple[int, ...]:
    """What tells the instructions below how wide a tile is: a tuple of one zero for every 8 tokens, by its type."""
    return (0,) * (n_tokens // 8)


@instruction
def load_tile(typing: Any, array: Any, at: Any, wide: Any) -> Any:
    """f32 x the tile's width from array[at * width] on."""
    vector = _TILES[wide.count]

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.mul(args[1], I64(8 * wide.count))
        return builder.load(pointer(context, builder, signature.args[0], args[0], place, vector.vector), align=4)

    return vector(array, types.int64, wide), code


@instruction
def store_tile(typing: Any, array: Any, at: Any, wide: Any, value: Any) -> Any:
    """Write a tile to array[at * width], ..."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.mul(args[1], I64(8 * wide.count))
        builder.store(args[3], pointer(context, builder, signature.args[0], args[0], place, value.vector), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, wide, value), code


@instruction
def every_tile(typing: Any, number: Any, wide: Any) -> Any:
    """A tile of one number."""
    vector = _TILES[wide.count]

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return everywhere(builder, args[0], vector.vector)

    return vector(types.float32, wide), code


@instruction
def list8(typing: Any, places: Any, at: Any, bits: Any, base: Any) -> Any:
    """Write base + place, of each bit that is set in 8 of an int64, to places[at], ...; 8 are written in any case.

    places  int32
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        order = _row(builder, _table(builder, "secateurs.places", _PLACES), 8, args[2], ir.VectorType(I8, 8))
        found = builder.add(builder.zext(order, N8.vector), everywhere(builder, builder.trunc(args[3], I32), N8.vector))
        builder.store(found, pointer(context, builder, signature.args[0], args[0], args[1], N8.vector), align=4)
        return context.get_dummy_value()

    return types.void(places, types.int64, types.int64, types.int64), code


@instruction
def number(typing: Any, kept: Any, at: Any) -> Any:
    """One kept weight as float32, as `spread8` has it."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if kept.dtype == types.uint8:
            data = pointer(context, builder, kept, args[0], builder.lshr(args[1], I64(1)), I8)
            stored = builder.zext(builder.load(data, align=1), I32)
            is_lower = builder.icmp_unsigned("==", builder.and_(args[1], I64(1)), I64(0))
            stored = builder.select(is_lower, builder.shl(stored, I32(28)), builder.shl(stored, I32(24)))
            return builder.sitofp(builder.and_(stored, I32(0xF0000000)), FLOAT)
        element = ir.IntType(kept.dtype.bitwidth)
        stored = builder.load(pointer(context, builder, kept, args[0], args[1], element), align=element.width // 8)
        if kept.dtype == types.float32:
            return builder.bitcast(stored, FLOAT)
        top = builder.shl(builder.zext(stored, I32), I32(32 - element.width))
        return builder.sitofp(top, FLOAT) if kept.dtype == types.int8 else builder.bitcast(top, FLOAT)

    return types.float32(kept, types.int64), code


@instruction
def word(typing: Any, mask: Any, at: Any) -> Any:
    """mask[at] as an int64, without numba's look at what a negative place would mean."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = pointer(context, builder, signature.args[0], args[0], args[1], I32)
        return builder.zext(builder.load(place, align=4), I64)

    return types.int64(mask, types.int64), code


@instruction
def picked(typing: Any, x: Any, places: Any, at: Any) -> Any:
    """x[places[at]], the same way; places are unsigned, x float32."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = ir.IntType(places.dtype.bitwidth)
        stored = builder.load(pointer(context, builder, places, args[1], args[2], element), align=element.width // 8)
        place = builder.zext(stored, I64) if element.width < 64 else stored
        return builder.load(pointer(context, builder, x, args[0], place, FLOAT), align=4)

    return types.float32(x, places, types.int64), code


@instruction
def gathered(typing: Any, sums: Any, x: Any, places: Any, kept: Any, at: Any, bits: Any) -> Any:
    """sums + kept[at + i] * x[places[at + i]] in lane i of 16, where a bit is set; kept not int4.

    By AVX-512's gathers; nothing is read where no bit is set.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found, array, listed, weights, begin, which = args
        mask = builder.bitcast(builder.trunc(which, I16), ir.VectorType(ir.IntType(1), 16))

        def some(kind: Any, data: Any) -> Any:
            width = kind.dtype.bitwidth
            vector = ir.VectorType(ir.IntType(width), 16)
            source = pointer(context, builder, kind, data, begin, vector)
            given = [source, I32(width // 8), mask, ir.Constant(vector, None)]
            return call(builder, f"llvm.masked.load.v16i{width}.p0", vector, given)

        def widened(numbers: Any) -> Any:
            return numbers if numbers.type == N16 else builder.zext(numbers, N16)

        from_x = pointer(context, builder, x, array, I64(0), I8)
        nothing, scale = ir.Constant(F16.vector, None), I32(4)
        given = [nothing, from_x, widened(some(places, listed)), mask, scale]
        inputs = call(builder, "llvm.x86.avx512.mask.gather.dps.512", F16.vector, given)
        stored = some(kept, weights)
        top = builder.shl(widened(stored), ir.Constant(N16, [32 - kept.dtype.bitwidth] * 16))
        is_whole = kept.dtype == types.int8
        factors = builder.sitofp(top, F16.vector) if is_whole else builder.bitcast(top, F16.vector)
        return call(builder, "llvm.fma.v16f32", F16.vector, [factors, inputs, found])

    return sums(sums, x, places, kept, types.int64, types.int64), code


@instruction
def n_set(typing: Any, bits: Any) -> Any:
    """How many bits of an int64 are set."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.int64), code


@instruction
def prefetch(typing: Any, array: Any, at: Any) -> Any:
    """Ask for array[at], which may lie beyond its end, before it is needed."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = pointer(context, builder, signature.args[0], args[0], args[1], I8)
        call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), code
