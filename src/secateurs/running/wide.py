"""Wide: vectors of 512 bits in compiled loops: 16 rows of a weight side by side, and kept weights spread over them.

    weights = spread(kept, at, bits)                  # of 16 rows and 1, 2 or 4 columns, zero where no bit is set
    sums = step(sums, weights, others, x, place)      # two such times the inputs of their columns, for every token
    whole = scaled(whole, sums, scales, group)        # integers become float32

`sums` and `whole` are tuples of vectors, as long as `zeros` made them. With AVX-512 (VBMI2, VNNI) these are its own
instructions; elsewhere LLVM makes the same of what the CPU has, slowly.
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from secateurs.exact.lanes import instruction
from secateurs.running.features import has_amx, has_avx512
from secateurs.running.vectors import FLOAT, I8, I16, I32, I64, Vector, call, cgutils, everywhere, pointer

ROWS = 16
PANEL = 2 * ROWS  # what every input that is loaded is multiplied with
AHEAD, FURTHER = 2048, 6144  # bytes from what is read to what is asked of memory, into the first and second cache
F16, I16X32, I8X64 = Vector("f32", 16), Vector("i16", 32), Vector("i8", 64)
I32X16 = Vector("i32", 16)

# How many columns' weights are spread at once, and as what.
_SPREAD = {types.float32: F16, types.uint16: I16X32, types.int8: I8X64, types.uint8: I8X64}
COLUMNS = {"float32": 1, "uint16": 2, "int8": 4, "uint8": 4}


def is_whole(kept: Any) -> bool:
    """Whether weights are integers."""
    return kept.dtype in (types.int8, types.uint8)


def _constant(vector: Any, number: int) -> Any:
    return ir.Constant(vector, [number] * vector.count)


def _loaded(builder: Any, place: Any, vector: Any) -> Any:
    return builder.load(builder.bitcast(place, vector.as_pointer()), align=1)


def _expanded(builder: Any, stored: Any, bits: Any) -> Any:
    """The first elements of a vector moved to where bits are set, zero elsewhere."""
    vector, n = stored.type, stored.type.count
    mask = builder.bitcast(bits if n == 64 else builder.trunc(bits, ir.IntType(n)), ir.VectorType(ir.IntType(1), n))
    kind = f"v{n}{'f32' if vector.element is FLOAT else f'i{vector.element.width}'}"
    if has_avx512():
        # Expanded in a register: AMD's CPUs take an expanding load apart into single loads, and LLVM would make one of
        # a load and what expands it. An assembly without instructions in between hides the one from the other.
        stored = builder.asm(ir.FunctionType(vector, [vector]), "", "=v,0", [stored], False)
        return call(builder, f"llvm.x86.avx512.mask.expand.{kind}", vector, [stored, ir.Constant(vector, None), mask])
    room = cgutils.alloca_once_value(builder, stored)
    data = builder.bitcast(room, vector.element.as_pointer())
    return call(builder, f"llvm.masked.expandload.{kind}", vector, [data, mask, ir.Constant(vector, None)])


@instruction
def bits_at(typing: Any, mask: Any, at: Any) -> Any:
    """mask[at], of whatever width, as the lowest bits of an int64."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = ir.IntType(mask.dtype.bitwidth)
        word = builder.load(pointer(context, builder, mask, args[0], args[1], element), align=element.width // 8)
        return word if element.width == 64 else builder.zext(word, I64)

    return types.int64(mask, types.int64), code


@instruction
def n_taken(typing: Any, kept: Any, bits: Any) -> Any:
    """How far `kept` goes on after these bits: as many as are set; of int4 an even number."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n = builder.ctpop(args[1])
        return builder.and_(builder.add(n, I64(1)), I64(-2)) if kept.dtype == types.uint8 else n

    return types.int64(kept, types.int64), code


@instruction
def ask(typing: Any, kept: Any, at: Any, ahead: Any) -> Any:
    """Have memory bring the line `ahead` bytes beyond kept[at], which may lie beyond its end."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _prefetch(context, builder, kept, args[0], args[1], args[2], I32(3))
        return context.get_dummy_value()

    return types.void(kept, types.int64, types.int64), code


@instruction
def soon(typing: Any, kept: Any, at: Any) -> Any:
    """Have memory bring what is read some time after kept[at].

    Measured: CPUs with AMX wait less when it comes from further away and into their second cache.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        ahead, cache = (FURTHER, 2) if has_amx() else (AHEAD, 3)
        _prefetch(context, builder, kept, args[0], args[1], I64(ahead), I32(cache))
        return context.get_dummy_value()

    return types.void(kept, types.int64), code


@instruction
def soon_masked(typing: Any, mask: Any, here: Any) -> Any:
    """The same of mask[here], where that was measured to help: of CPUs with AMX."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if has_amx():
            _prefetch(context, builder, mask, args[0], args[1], I64(FURTHER), I32(2))
        return context.get_dummy_value()

    return types.void(mask, types.int64), code


def _prefetch(context: Any, builder: Any, kept: Any, array: Any, at: Any, ahead: Any, cache: Any) -> None:
    place = builder.lshr(at, I64(1)) if kept.dtype == types.uint8 else at
    there = builder.gep(pointer(context, builder, kept, array, place, I8), [ahead])
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [there, I32(0), cache, I32(1)])


def _stored(context: Any, builder: Any, kept: Any, array: Any, at: Any) -> Any:
    """What the weights from kept[at] on are, unspread."""
    place = builder.lshr(at, I64(1)) if kept.dtype == types.uint8 else at
    data, vector = pointer(context, builder, kept, array, place, I8), _SPREAD[kept.dtype].vector
    if kept.dtype != types.uint8:
        return _loaded(builder, data, vector)
    pairs = builder.zext(_loaded(builder, data, ir.VectorType(I8, 32)), I16X32.vector)
    lower = builder.shl(builder.and_(pairs, _constant(pairs.type, 0x0F)), _constant(pairs.type, 4))
    upper = builder.shl(builder.and_(pairs, _constant(pairs.type, 0xF0)), _constant(pairs.type, 8))
    return builder.bitcast(builder.or_(lower, upper), vector)


@instruction
def spread(typing: Any, kept: Any, at: Any, bits: Any) -> Any:
    """The kept weights from `at` on where `bits` are set, 0 elsewhere; 64 bytes may be read from there on.

    float32                 16 rows of a column: bit i is row i
    bfloat16, as uint16     2 columns: bit 2 i is row i of the first
    int8                    4 columns: bit 4 i is row i of the first
    int4, two to a byte of uint8, the lower half first, `at` even: as int8, times 16
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _expanded(builder, _stored(context, builder, kept, args[0], args[1]), args[2])

    return _SPREAD[kept.dtype](kept, types.int64, types.int64), code


@instruction
def all_of(typing: Any, kept: Any, at: Any) -> Any:
    """What `spread` gives where every bit is set."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _stored(context, builder, kept, args[0], args[1])

    return _SPREAD[kept.dtype](kept, types.int64), code


@instruction
def rows_at(typing: Any, bias: Any, at: Any) -> Any:
    """bias[at : at + 32], float32, as two of f32 x 16."""
    found = types.UniTuple(F16, 2)  # type: ignore[no-untyped-call]

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places = [builder.add(args[1], I64(ROWS * side)) for side in range(2)]
        pair = [_loaded(builder, pointer(context, builder, bias, args[0], each, I8), F16.vector) for each in places]
        return context.make_tuple(builder, found, pair)

    return found(bias, types.int64), code


@instruction
def zeros(typing: Any, parts: Any, kept: Any) -> Any:
    """What `step` adds to: two sums for each of `parts`, int32 x 16 for int8 and int4 weights, else f32 x 16."""
    found = types.UniTuple(I32X16 if is_whole(kept) else F16, 2 * len(parts))  # type: ignore[no-untyped-call]

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_tuple(builder, found, [ir.Constant(found.dtype.vector, None)] * found.count)

    return found(parts, kept), code


@instruction
def begun(typing: Any, parts: Any, wide: Any, kept: Any, totals: Any, at: Any) -> Any:
    """The same; of integers, those of each token's highest byte are -128 times totals[at : at + 32]."""
    found = types.UniTuple(I32X16 if is_whole(kept) else F16, 2 * len(parts))  # type: ignore[no-untyped-call]
    n_planes, stored = len(parts) // len(wide), ir.VectorType(ir.IntType(totals.dtype.bitwidth), ROWS)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result = [ir.Constant(found.dtype.vector, None)] * found.count
        for side in range(2 if is_whole(kept) else 0):
            place = builder.add(args[4], I64(ROWS * side))
            data = builder.load(pointer(context, builder, totals, args[3], place, stored), align=2)
            total = builder.sext(data, I32X16.vector) if stored.element.width < 32 else data
            first = builder.mul(total, _constant(I32X16.vector, -128))
            result[2 * (n_planes - 1) + side :: 2 * n_planes] = [first] * len(wide)
        return context.make_tuple(builder, found, result)

    return found(parts, wide, kept, totals, types.int64), code


@instruction
def step(typing: Any, sums: Any, weights: Any, others: Any, x: Any, at: Any) -> Any:
    """sums[2 t] + weights, and sums[2 t + 1] + others, times the inputs of token t that begin at x[at].

    x  of n tokens: float32, n inputs for every column; uint32, for int8 weights, n times 4 inputs of 8 bits
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n, is_integer = sums.count // 2, sums.dtype is I32X16
        found, x_at = cgutils.unpack_tuple(builder, args[0]), args[4]

        def every(place: int) -> Any:
            there = builder.add(x_at, I64(place))
            element = I32 if is_integer else FLOAT
            number = builder.load(pointer(context, builder, x, args[3], there, element), align=4)
            return everywhere(builder, number, ir.VectorType(element, 16))

        def add(multiply: Any, inputs: list[Any], sides: list[Any]) -> None:
            for i, each in enumerate(inputs):
                for side, vector in enumerate(sides):
                    found[2 * i + side] = multiply(builder, each, vector, found[2 * i + side])

        sides = list(args[1:3])
        if is_integer:
            quads = [builder.bitcast(each, I32X16.vector) for each in sides]
            add(_dot, list(map(every, range(n))), quads)
        elif weights is F16:
            add(fused, list(map(every, range(n))), sides)
        else:
            pairs = [builder.bitcast(each, I32X16.vector) for each in sides]
            shift, upper = _constant(I32X16.vector, 16), _constant(I32X16.vector, 0xFFFF0000)
            first = [builder.bitcast(builder.shl(each, shift), F16.vector) for each in pairs]
            second = [builder.bitcast(builder.and_(each, upper), F16.vector) for each in pairs]
            add(fused, list(map(every, range(n))), first)
            add(fused, list(map(every, range(n, 2 * n))), second)
        return context.make_tuple(builder, sums, found)

    return sums(sums, weights, others, x, types.int64), code


def fused(builder: Any, first: Any, second: Any, third: Any) -> Any:
    """first * second + third, of f32 x 16."""
    return call(builder, f"llvm.{'fma' if has_avx512() else 'fmuladd'}.v16f32", F16.vector, [first, second, third])


def _dot(builder: Any, inputs: Any, weights: Any, sums: Any) -> Any:
    """sums + the dot products of each lane's four unsigned and four signed bytes."""
    vector = I32X16.vector
    if has_avx512():
        return call(builder, "llvm.x86.avx512.vpdpbusd.512", vector, [sums, inputs, weights])
    for i in range(4):
        one = builder.and_(builder.lshr(inputs, _constant(vector, 8 * i)), _constant(vector, 255))
        other = builder.ashr(builder.shl(weights, _constant(vector, 24 - 8 * i)), _constant(vector, 24))
        sums = builder.add(sums, builder.mul(one, other))
    return sums


@instruction
def add(typing: Any, first: Any, second: Any) -> Any:
    """Sums of the same tokens added."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = builder.add if first.dtype is I32X16 else builder.fadd
        pairs = zip(*(cgutils.unpack_tuple(builder, each) for each in args), strict=True)
        return context.make_tuple(builder, first, [one(*pair) for pair in pairs])

    return first(first, first), code


@instruction
def scales_at(typing: Any, scales: Any, at: Any) -> Any:
    """scales[at : at + 32], bfloat16 as uint16, as two of f32 x 16."""
    found = types.UniTuple(F16, 2)  # type: ignore[no-untyped-call]

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result = []
        for side in range(2):
            there = builder.add(args[1], I64(ROWS * side))
            stored = _loaded(builder, pointer(context, builder, scales, args[0], there, I8), ir.VectorType(I16, 16))
            top = builder.shl(builder.zext(stored, I32X16.vector), _constant(I32X16.vector, 16))
            result.append(builder.bitcast(top, F16.vector))
        return context.make_tuple(builder, found, result)

    return found(scales, types.int64), code


@instruction
def scaled(typing: Any, whole: Any, sums: Any, scales: Any) -> Any:
    """whole + sums times scales, which are of 32 rows.

    sums    of float32 two for a token; of integers two for each of n planes of a token, the lowest 8 bits of its inputs
            first
    """
    n_planes = sums.count // whole.count

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found, parts, by = (cgutils.unpack_tuple(builder, each) for each in args)
        result = list(found)
        for side in range(2):
            mine = parts[side::2]
            for t in range(whole.count // 2):
                total = mine[t]
                if sums.dtype is I32X16:
                    *lower, highest = mine[t * n_planes : (t + 1) * n_planes]
                    total = builder.sitofp(highest, F16.vector)
                    for each in reversed(lower):
                        part = builder.sitofp(each, F16.vector)
                        total = fused(builder, total, ir.Constant(F16.vector, [256.0] * 16), part)
                result[2 * t + side] = fused(builder, by[side], total, found[2 * t + side])
        return context.make_tuple(builder, whole, result)

    return whole(whole, sums, scales), code


@instruction
def floats(typing: Any, wide: Any) -> Any:
    """Two zeros of f32 x 16 for each of `wide`."""
    found = types.UniTuple(F16, 2 * len(wide))  # type: ignore[no-untyped-call]

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_tuple(builder, found, [ir.Constant(F16.vector, None)] * found.count)

    return found(wide), code


@instruction
def finished(typing: Any, whole: Any, units: Any, first: Any, bias: Any) -> Any:
    """whole[2 t] and whole[2 t + 1] times units[first + t], plus bias, which is of 32 rows."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        added, found = cgutils.unpack_tuple(builder, args[3]), []
        for i, each in enumerate(cgutils.unpack_tuple(builder, args[0])):
            place = builder.add(args[2], I64(i // 2))
            unit = builder.load(pointer(context, builder, units, args[1], place, FLOAT), align=4)
            found.append(fused(builder, each, everywhere(builder, unit, F16.vector), added[i % 2]))
        return context.make_tuple(builder, whole, found)

    return whole(whole, units, types.int64, bias), code


@instruction
def store(typing: Any, y: Any, at: Any, stride: Any, whole: Any) -> Any:
    """Write whole[2 t] and whole[2 t + 1] to y[at + t * stride], ..."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for i, each in enumerate(cgutils.unpack_tuple(builder, args[3])):
            t, side = divmod(i, 2)
            there = builder.add(builder.add(args[1], I64(ROWS * side)), builder.mul(args[2], I64(t)))
            builder.store(each, pointer(context, builder, y, args[0], there, F16.vector), align=4)
        return context.get_dummy_value()

    return types.void(y, types.int64, types.int64, whole), code


@instruction
def put(typing: Any, room: Any, at: Any, weights: Any) -> Any:
    """Write spread weights to the bytes from room[at] on, where 64 divides the address."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], pointer(context, builder, room, args[0], args[1], weights.vector), align=64)
        return context.get_dummy_value()

    return types.void(room, types.int64, weights), code


@instruction
def got(typing: Any, room: Any, at: Any, kept: Any) -> Any:
    """What was put there of this kind of weights."""
    found = _SPREAD[kept.dtype]

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(pointer(context, builder, room, args[0], args[1], found.vector), align=64)

    return found(room, types.int64, kept), code


@instruction
def sizes(typing: Any, tokens: Any, at: Any) -> Any:
    """The absolute values of 16 float32 from tokens[at] on, as the integers that their bits are."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = builder.load(pointer(context, builder, tokens, args[0], args[1], I32X16.vector), align=4)
        return builder.and_(data, _constant(I32X16.vector, 0x7FFFFFFF))

    return I32X16(tokens, types.int64), code


@instruction
def larger(typing: Any, first: Any, second: Any) -> Any:
    """Of each lane the larger."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed(">", *args), *args)

    return first(first, second), code


@instruction
def largest(typing: Any, of: Any) -> Any:
    """The largest of all lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sext(call(builder, "llvm.vector.reduce.smax.v16i32", I32, list(args)), I64)

    return types.int64(of), code


@instruction
def bytes_of(typing: Any, tokens: Any, at: Any, factor: Any, found: Any, to: Any, stride: Any, planes: Any) -> Any:
    """16 inputs times `factor`, rounded, plus the half of their range: byte p of each, for p < len(planes), is written
    to the 16 from found[to + p * stride] on.

    tokens  float32; found  uint8
    """
    n = len(planes)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = builder.load(pointer(context, builder, tokens, args[0], args[1], F16.vector), align=4)
        whole = builder.fmul(data, everywhere(builder, args[2], F16.vector))
        whole = builder.fptosi(call(builder, "llvm.nearbyint.v16f32", F16.vector, [whole]), I32X16.vector)
        half = _constant(I32X16.vector, 1 << 8 * n - 1)
        most = _constant(I32X16.vector, (1 << 8 * n - 1) - 1)
        whole = builder.add(builder.select(builder.icmp_signed(">", whole, most), most, whole), half)
        for p in range(n):
            byte = builder.trunc(builder.lshr(whole, _constant(I32X16.vector, 8 * p)), ir.VectorType(I8, 16))
            there = builder.add(args[4], builder.mul(args[5], I64(p)))
            builder.store(byte, pointer(context, builder, found, args[3], there, byte.type), align=1)
        return context.get_dummy_value()

    return types.void(tokens, types.int64, types.float32, found, types.int64, types.int64, planes), code


@instruction
def put_pair(typing: Any, room: Any, at: Any, first: Any, second: Any, apart: Any) -> Any:
    """Write two steps' spread weights to the bytes from room[at] on, where 64 divides the address.

    Integers and bfloat16 128 bytes from each other. Two columns of float32 become pairs of bfloat16, three after each
    other whose sum they are, `apart` bytes from each other.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def write(vector: Any, there: Any) -> None:
            builder.store(vector, pointer(context, builder, room, args[0], there, vector.type), align=64)

        if first is not F16:
            write(args[2], args[1])
            write(args[3], builder.add(args[1], I64(2 * I8X64.vector.count)))
            return context.get_dummy_value()
        for i, (lower, upper) in enumerate(zip(*(_in_three(builder, each) for each in args[2:4]), strict=True)):
            pairs = builder.or_(builder.lshr(lower, _constant(I32X16.vector, 16)), upper)
            write(pairs, builder.add(args[1], builder.mul(args[4], I64(i))))
        return context.get_dummy_value()

    return types.void(room, types.int64, first, second, types.int64), code


def _in_three(builder: Any, floats: Any) -> list[Any]:
    """Three bfloat16 whose sum each of these is, in the upper halves of 32 bits; the first is the nearest."""
    half, upper = _constant(I32X16.vector, 0x8000), _constant(I32X16.vector, 0xFFFF0000)
    found = []
    for _ in range(3):
        bits = builder.bitcast(floats, I32X16.vector)
        nearest = builder.and_(builder.add(bits, half), upper)
        found.append(nearest)
        floats = builder.fsub(floats, builder.bitcast(nearest, F16.vector))
    return found


@instruction
def halves_of(typing: Any, tokens: Any, at: Any, factor: Any, found: Any, to: Any, stride: Any, planes: Any) -> Any:
    """16 inputs times `factor` as sums of three bfloat16: number p of each, for p < len(planes), is written to the 32
    bytes from found[to + p * stride] on.

    tokens  float32; found  uint8
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = builder.load(pointer(context, builder, tokens, args[0], args[1], F16.vector), align=4)
        whole = builder.fmul(data, everywhere(builder, args[2], F16.vector))
        for p, bits in enumerate(_in_three(builder, whole)[: len(planes)]):
            numbers = builder.trunc(builder.lshr(bits, _constant(I32X16.vector, 16)), ir.VectorType(I16, 16))
            there = builder.add(args[4], builder.mul(args[5], I64(p)))
            builder.store(numbers, pointer(context, builder, found, args[3], there, numbers.type), align=2)
        return context.get_dummy_value()

    return types.void(tokens, types.int64, types.float32, found, types.int64, types.int64, planes), code
