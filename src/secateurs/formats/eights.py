"""Eights: eight neighbours of an array moved at once, by the shuffle of a CPU that has AVX2, one by one elsewhere.

    take(source, at, orders, byte, into, to)       into[to + i] = source[at + orders[byte, i]] for i from 0 to 7
    put(source, at, orders, byte, into, to)        the same where bit i of byte is set, and 0 where it is not

source, into  arrays of one unsigned dtype; all eight from `at` on may be read, and all eight from `to` on are written
orders        (256, 8) uint8, each below 8
byte          uint8
For compiled functions only: they become a few instructions of machine code there.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (8, 16, 32, 64))


def _moving(is_masked: bool) -> Any:
    def move(_typing: Any, source: Any, at: Any, orders: Any, byte: Any, into: Any, to: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def pointer(k: int, offset: Any, item: Any) -> Any:
                data = context.make_array(signature.args[k])(context, builder, args[k]).data
                return builder.bitcast(builder.gep(data, [offset]), item.as_pointer())

            item = context.get_data_type(signature.args[0].dtype)
            row = builder.shl(builder.zext(args[3], _I64), _I64(3))
            order = builder.load(pointer(2, row, ir.VectorType(_I8, 8)), align=1)
            # The features are those that the code is made for and kept under, not those of this machine.
            has_shuffle = "+avx2" in context.codegen().magic_tuple()[2] and item.width <= 32
            pick = _shuffled if has_shuffle else _one_by_one
            found = pick(builder, pointer(0, args[1], item), item, order)
            if is_masked:
                bits = builder.bitcast(args[3], ir.VectorType(ir.IntType(1), 8))
                found = builder.select(bits, found, found.type(None))
            builder.store(found, pointer(4, args[5], found.type), align=1)
            return context.get_dummy_value()

        return types.void(source, at, orders, byte, into, to), codegen

    return intrinsic(move)


def _shuffled(builder: Any, source: Any, item: Any, order: Any) -> Any:
    """(8,) of the eight from the pointer `source` on, in this order."""
    eight = ir.VectorType(item, 8)
    found = builder.load(builder.bitcast(source, eight.as_pointer()), align=1)
    if item.width == 32:
        places = builder.zext(order, ir.VectorType(_I32, 8))
        return builder.call(_function(builder, "llvm.x86.avx2.permd", places.type), [found, places])
    # Bytes are shuffled here: for two bytes each, 2 * order and 2 * order + 1.
    wide = ir.VectorType(_I16, 8)
    places = builder.zext(order, wide)
    if item.width == 16:
        places = builder.add(builder.mul(places, wide([0x0202] * 8)), wide([0x0100] * 8))
    else:
        found = builder.zext(found, wide)
        places = builder.mul(places, wide([2] * 8))
    bytes_ = ir.VectorType(_I8, 16)
    shuffle = _function(builder, "llvm.x86.ssse3.pshuf.b.128", bytes_)
    moved = builder.bitcast(
        builder.call(shuffle, [builder.bitcast(found, bytes_), builder.bitcast(places, bytes_)]), wide
    )
    return moved if item.width == 16 else builder.trunc(moved, eight)


def _function(builder: Any, name: str, vector: Any) -> Any:
    return builder.module.declare_intrinsic(name, fnty=ir.FunctionType(vector, [vector, vector]))


def _one_by_one(builder: Any, source: Any, item: Any, order: Any) -> Any:
    found = ir.VectorType(item, 8)(None)
    for i in range(8):
        place = builder.zext(builder.extract_element(order, _I32(i)), _I64)
        found = builder.insert_element(found, builder.load(builder.gep(source, [place])), _I32(i))
    return found


take = _moving(False)
put = _moving(True)
