"""Team: parts of a compiled loop on torch's own OpenMP threads, without a step in Python between them.

    run_parts = on_team(part)                                 # part(i, *arguments), compiled
    run_parts(address(), n_threads, n_parts, arguments)       # in a compiled function: part(0, ...), part(1, ...), ...

Each thread takes the next part when it is done with one. `together` does the same for anything that Python can call;
but every part then waits for Python's lock, twice.
"""

import ctypes
from typing import Any

from llvmlite import ir
from numba.core import types

from secateurs.exact.lanes import instruction
from secateurs.running import together
from secateurs.running.vectors import I8, I32, I64, cgutils


def address() -> int:
    """Where libgomp's GOMP_parallel is; 0 where torch does not run on it, or this process was forked."""
    library = together.gnu_openmp()
    if library is None or together.is_forked():
        return 0
    return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0


def on_team(part: Any) -> Any:
    """An instruction (address, n_threads, n_parts, arguments) that runs every part; `part` must not fail."""

    @instruction
    def run(typing: Any, where: Any, n_threads: Any, n_parts: Any, arguments: Any) -> Any:
        kinds = (types.int64, *arguments.types)
        signature = typing.resolve_value_type(part).get_call_type(typing, kinds, {})
        found = part.overloads[signature.args]

        def code(context: Any, builder: Any, _: Any, args: Any) -> Any:
            context.add_linking_libs([found.library])
            # {the next part, how many there are, what all are given}
            team = ir.LiteralStructType([I64, I64, args[3].type])
            data = cgutils.alloca_once(builder, team)
            fields = [cgutils.gep_inbounds(builder, data, 0, i) for i in range(3)]
            for field, value in zip(fields, (I64(0), args[2], args[3]), strict=True):
                builder.store(value, field)
            work = _work(context, builder.module, signature, found.fndesc, team)
            kind = ir.FunctionType(ir.VoidType(), [work.type, I8.as_pointer(), I32, I32]).as_pointer()
            parallel = builder.inttoptr(args[0], kind)
            given = builder.bitcast(data, I8.as_pointer())
            builder.call(parallel, [work, given, builder.trunc(args[1], I32), I32(0)])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, arguments), code

    return run


def _work(context: Any, module: Any, signature: Any, called: Any, team: Any) -> Any:
    """What a thread does: parts, until none is left."""
    name = f"secateurs.team.{called.mangled_name}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I8.as_pointer()]), name)
    function.linkage = "internal"
    begin, body, end = (function.append_basic_block(each) for each in ("begin", "body", "end"))
    builder = ir.IRBuilder(begin)
    data = builder.bitcast(function.args[0], team.as_pointer())
    following, n_parts, arguments = (cgutils.gep_inbounds(builder, data, 0, i) for i in range(3))
    given = cgutils.unpack_tuple(builder, builder.load(arguments))
    n = builder.load(n_parts)
    next_part = builder.append_basic_block("next")
    builder.branch(next_part)
    builder.position_at_end(next_part)
    i = builder.atomic_rmw("add", following, I64(1), "monotonic")
    builder.cbranch(builder.icmp_signed("<", i, n), body, end)
    builder.position_at_end(body)
    target = context.declare_function(module, called)
    context.call_conv.call_function(builder, target, signature.return_type, signature.args, [i, *given])
    builder.branch(next_part)
    builder.position_at_end(end)
    builder.ret_void()
    return function
