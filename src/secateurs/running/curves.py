"""Curves: vectors of 16 float32 that are added and multiplied like numbers, their exponentials and activations.

    v = all_of(array, at)                 # see wide.py; `some_of(array, at, n)` the first n alone
    v = exp(v - highest(v, w)) * w        # +, - and * of two vectors; `every(number)` is a vector of one number
    put(array, at, v)                     # `put_some(array, at, n, v)`

Exponentials are polynomials, within 3e-7 of each; erf is within 3e-7. LLVM by itself takes shorter vectors on CPUs of
Intel.
"""

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import overload

from secateurs.exact.compiled import compiled
from secateurs.exact.lanes import instruction
from secateurs.running.features import has_avx512
from secateurs.running.vectors import FLOAT, I32, call, cgutils, everywhere, pointer
from secateurs.running.wide import F16, I32X16, fused

NONE, RELU, GELU, GELU_TANH = range(4)  # kinds of activations
_LOG2E, _LN2_TOP, _LN2_REST = 1.4426950408889634, 0.693359375, -2.12194440e-4  # the last two: ln 2, the first few bits
_WHOLE = 12582912.0  # 1.5 * 2**23: what is added to it becomes whole
_POWERS = [1.0 / each for each in (720, 120, 24, 6, 2, 1, 1)]
# erf(x) = x * _UPPER(x * x) / _LOWER(x * x) up to 4, where float32 has 1: the rational approximation of Eigen and XLA.
_FAR, _ROOT_HALF = 4.0, 0.7071067811865476
_UPPER = [-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05]
_UPPER += [-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02]
_LOWER = [-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03]
_LOWER += [-1.42647390514189e-02]
_TANH_A, _TANH_B = 1.5957691216057308, 0.044715  # 2 sqrt(2 / pi)


def _all(number: float) -> Any:
    return ir.Constant(F16.vector, [float(np.float32(number))] * 16)


def _horner(builder: Any, x: Any, factors: list[float]) -> Any:
    found = _all(factors[0])
    for each in factors[1:]:
        found = fused(builder, found, x, _all(each))
    return found


def _at_most(builder: Any, x: Any, number: float) -> Any:
    """NaN stays NaN."""
    return builder.select(builder.fcmp_ordered(">", x, _all(number)), _all(number), x)


def _at_least(builder: Any, x: Any, number: float) -> Any:
    return builder.select(builder.fcmp_ordered("<", x, _all(number)), _all(number), x)


def _inverse(builder: Any, x: Any) -> Any:
    """1 / x, of normal numbers: an estimate of 14 bits and a step of Newton's, as to divide takes longer."""
    if not has_avx512():
        return builder.fdiv(_all(1), x)
    bits = ir.Constant(ir.IntType(16), -1)
    guess = call(builder, "llvm.x86.avx512.rcp14.ps.512", F16.vector, [x, _all(0), bits])
    return fused(builder, guess, fused(builder, builder.fneg(x), guess, _all(1)), guess)


def _exp(builder: Any, x: Any) -> Any:
    """That of -87 below it, and of 88 above."""
    x = _at_least(builder, _at_most(builder, x, 88), -87)
    whole = fused(builder, x, _all(_LOG2E), _all(_WHOLE))
    n = builder.fsub(whole, _all(_WHOLE))
    rest = fused(builder, n, _all(-_LN2_REST), fused(builder, n, _all(-_LN2_TOP), x))
    bits = builder.bitcast(_horner(builder, rest, _POWERS), I32X16.vector)
    power = builder.shl(builder.bitcast(whole, I32X16.vector), ir.Constant(I32X16.vector, [23] * 16))
    return builder.bitcast(builder.add(bits, power), F16.vector)


def _relu(builder: Any, x: Any) -> Any:
    return _at_least(builder, x, 0)


def _gelu(builder: Any, x: Any) -> Any:
    a = builder.fmul(x, _all(_ROOT_HALF))
    near = _at_most(builder, _at_least(builder, a, -_FAR), _FAR)
    square = builder.fmul(near, near)
    upper = builder.fmul(near, _horner(builder, square, _UPPER))
    half = builder.fmul(_all(0.5), builder.fmul(upper, _inverse(builder, _horner(builder, square, _LOWER))))
    share = builder.fadd(half, _all(0.5))
    share = builder.select(builder.fcmp_ordered("<", a, _all(-_FAR)), _all(0), share)
    return builder.fmul(x, share)


def _gelu_tanh(builder: Any, x: Any) -> Any:
    cube = fused(builder, builder.fmul(x, x), builder.fmul(x, _all(_TANH_B)), x)
    return builder.fmul(x, _inverse(builder, builder.fadd(_exp(builder, builder.fmul(cube, _all(-_TANH_A))), _all(1))))


def _curve(made: Any, doc: str) -> Any:
    def curve(typing: Any, x: Any) -> Any:
        return F16(F16), lambda context, builder, signature, args: made(builder, args[0])

    curve.__doc__ = doc
    return instruction(curve)


exp = _curve(_exp, "e**x; that of -87 below it, and of 88 above.")
relu = _curve(_relu, "max(x, 0).")
gelu = _curve(_gelu, "x times the normal distribution's integral up to it.")
gelu_tanh = _curve(_gelu_tanh, "The same by a tanh, as GPT-2 has it.")
inverse = _curve(_inverse, "1 / x, of normal numbers.")


def _pair(made: Any) -> Any:
    def pair(typing: Any, first: Any, second: Any) -> Any:
        return F16(F16, F16), lambda context, builder, signature, args: made(builder, *args)

    return instruction(pair)


_added, _less = _pair(lambda builder, a, b: builder.fadd(a, b)), _pair(lambda builder, a, b: builder.fsub(a, b))
_times = _pair(lambda builder, a, b: builder.fmul(a, b))
highest = _pair(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def _are_vectors(*of: Any) -> bool:
    return all(each is F16 for each in of)


# numba wants functions whose arguments are not annotated.
overload(operator.add)(lambda x, y: (lambda x, y: _added(x, y)) if _are_vectors(x, y) else None)
overload(operator.sub)(lambda x, y: (lambda x, y: _less(x, y)) if _are_vectors(x, y) else None)
overload(operator.mul)(lambda x, y: (lambda x, y: _times(x, y)) if _are_vectors(x, y) else None)


@instruction
def every(typing: Any, number: Any) -> Any:
    """A vector of one number."""
    return F16(types.float32), lambda context, builder, signature, args: everywhere(builder, args[0], F16.vector)


@instruction
def total(typing: Any, x: Any) -> Any:
    """The sum of all lanes, in any order."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(FLOAT, [FLOAT, F16.vector])
        reduce = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fadd.v16f32")
        return builder.call(reduce, [ir.Constant(FLOAT, 0.0), args[0]], fastmath=("reassoc",))

    return types.float32(F16), code


@instruction
def put(typing: Any, array: Any, at: Any, x: Any) -> Any:
    """Write it to array[at : at + 16]."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], pointer(context, builder, array, args[0], args[1], F16.vector), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, F16), code


def _first(builder: Any, n: Any) -> Any:
    """The first n of 16 lanes."""
    lanes = ir.Constant(I32X16.vector, list(range(16)))
    return builder.icmp_signed("<", lanes, everywhere(builder, builder.trunc(n, I32), I32X16.vector))


@instruction
def some_of(typing: Any, array: Any, at: Any, n: Any) -> Any:
    """array[at : at + n], n < 16, and zeros."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = pointer(context, builder, array, args[0], args[1], F16.vector)
        lanes = _first(builder, args[2])
        return call(builder, "llvm.masked.load.v16f32.p0", F16.vector, [data, I32(4), lanes, _all(0)])

    return F16(array, types.int64, types.int64), code


@instruction
def put_some(typing: Any, array: Any, at: Any, n: Any, x: Any) -> Any:
    """Write its first n lanes to array[at : at + n]."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = pointer(context, builder, array, args[0], args[1], F16.vector)
        call(builder, "llvm.masked.store.v16f32.p0", ir.VoidType(), [args[3], data, I32(4), _first(builder, args[2])])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, F16), code


@compiled
def curved(x: Any, kind: int) -> Any:
    """One of the activations."""
    if kind == RELU:
        return relu(x)
    return gelu(x) if kind == GELU else gelu_tanh(x)
