"""Vectors: numba's type of a vector of LLVM, and the steps that instructions are written in."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types
from numba.core.datamodel import models
from numba.extending import register_model

FLOAT, I8, I16, I32, I64 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)


class Vector(types.Type):
    """numba's type of a vector."""

    def __init__(self, of: str, n: int) -> None:
        self.vector = ir.VectorType({"f32": FLOAT, "i8": I8, "i16": I16, "i32": I32}[of], n)
        super().__init__(name=f"Vector({of} x {n})")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, of: Vector) -> None:
        super().__init__(manager, of, of.vector)  # type: ignore[no-untyped-call]


cgutils: Any = _cgutils  # untyped


def pointer(context: Any, builder: Any, kind: Any, array: Any, place: Any, element: Any) -> Any:
    """A pointer to array[place], to be read as `element`."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [place]), element.as_pointer())


def call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [each.type for each in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def everywhere(builder: Any, number: Any, vector: Any) -> Any:
    nothing = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(nothing, number, I32(0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))
