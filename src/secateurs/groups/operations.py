"""Operations: how the axes of an operation's results follow from those of its inputs, by the operation's name.

    RULES[name](flow, arguments, result) -> axes of each tensor of the result

A rule may unify and fix axes. An operation without a rule is not understood: all axes it touches are fixed, with its
name as the reason. To add one: write its rule, or add its name to the rule that fits.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from secateurs.groups.axes import Axis, fix, product, total, unify

Axes = list[Axis]


class Flow(Protocol):
    """What a rule may ask and say."""

    def axes(self, tensor: Tensor) -> Axes:
        """The axes of a tensor that was seen before, or new fixed ones."""

    def multiply(self, axes: Sequence[Axis], weight: Tensor | None = None, summed: Axis | None = None) -> None:
        """As many multiply-adds as the product of the sizes of `axes`; and where a weight is in it, over which of its
        axes is summed."""

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether it is a parameter or made of parameters alone."""

    def pad(self, before: Axis, after: Axis) -> None:
        """The module that runs now puts zeros around an axis."""


Rule = Callable[[Flow, Sequence[Any], Any], list[Axes]]


def same(a: Axis, b: Axis) -> None:
    """Unify two dimensions that must be of one size; a size of 1 is broadcast and says nothing."""
    if a.size != 1 and b.size != 1:
        unify(a, b)


def shaped(result: Any, why: str) -> list[Axes]:
    """New axes that may not be cut, for every tensor of a result."""
    return [[Axis(size, why) for size in tensor.shape] for tensor in tensors_in(result)]


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors of nested lists and tuples, in order."""
    if isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in tensors_in(value)] if isinstance(values, list | tuple) else []


def elementwise(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """Every element from the elements at the same place; dimensions of size 1 are broadcast."""
    out: Axes = [Axis(1) for _ in result.shape]
    for tensor in tensors_in(args):
        for i, axis in enumerate(reversed(flow.axes(tensor))):
            if axis.size != 1:
                if out[-1 - i].size == 1:
                    out[-1 - i] = axis
                unify(out[-1 - i], axis)
    return [out]


def in_place(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """The first input changed elementwise."""
    elementwise(flow, args, result)
    return [flow.axes(args[0])]


def reshape(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """The same elements in the same order under other dimensions, block by block of equal size."""
    source = flow.axes(args[0])
    found: Axes = []
    sizes = list(result.shape)
    if 0 in sizes:
        return shaped(result, "empty")
    i = j = 0
    while i < len(source) or j < len(sizes):
        start, n, m = (i, j), 1, 1
        while (n != m or (i, j) == start) and (i < len(source) or j < len(sizes)):
            if i < len(source) and (n <= m or j == len(sizes)):
                n, i = n * source[i].size, i + 1
            else:
                m, j = m * sizes[j], j + 1
        before, after = source[start[0] : i], sizes[start[1] : j]
        if [size for size in after if size != 1] == [axis.size for axis in before if axis.size != 1]:
            rest = [axis for axis in before if axis.size != 1]
            found += [Axis(1) if size == 1 else rest.pop(0) for size in after]
        elif sum(size != 1 for size in after) <= 1:
            found += [Axis(1) if size == 1 else product(before) for size in after]
        else:
            new = [Axis(size) for size in after]
            unify(product(new), product(before))
            found += new
    return [found]


def permuted(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    axes = flow.axes(args[0])
    return [[axes[i] for i in args[1]]]


def transposed(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    axes = list(flow.axes(args[0]))
    if len(axes) > 1:
        i, j = args[1:3] if len(args) > 1 else (0, 1)
        axes[i], axes[j] = axes[j], axes[i]
    return [axes]


def expanded(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """Dimensions of size 1 become copies."""
    axes = flow.axes(args[0])
    axes = [Axis(1) for _ in range(result.dim() - len(axes))] + axes
    return [[axis if axis.size == size else Axis(size) for axis, size in zip(axes, result.shape, strict=True)]]


def sliced(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    axes = list(flow.axes(args[0]))
    given: list[Any] = [*args[1:], *(0, None, None, 1)[len(args) - 1 :]]
    dim, start, step = given[0], given[1], given[3]
    size, left = axes[dim].size, result.shape[dim]
    if left == size:
        return [axes]
    start = start or 0
    start = max(start + size, 0) if start < 0 else min(start, size)
    if step == 1 and left:
        parts = [Axis(start), Axis(left), Axis(size - start - left)]
        unify(total(parts), axes[dim])
        axes[dim] = parts[1]
    else:
        fix(axes[dim], "every so many of it are taken")
        axes[dim] = Axis(left, "every so many of another axis")
    return [axes]


def split(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    axes = flow.axes(args[0])
    dim = (args[2] if len(args) > 2 else 0) % len(axes)
    parts = [Axis(tensor.shape[dim]) for tensor in result]
    unify(total(parts), axes[dim])
    return [[*axes[:dim], part, *axes[dim + 1 :]] for part in parts]


def chosen(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """One index of a dimension (select), or each in turn (unbind)."""
    axes = flow.axes(args[0])
    dim = (args[1] if len(args) > 1 else 0) % len(axes)
    fix(axes[dim], "single indices of it are taken")
    return [axes[:dim] + axes[dim + 1 :] for _ in tensors_in(result)]


def concatenated(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    inputs = [flow.axes(tensor) for tensor in args[0] if tensor.dim() == result.dim()]
    dim = (args[1] if len(args) > 1 else 0) % result.dim()
    for axes in inputs[1:]:
        for i in range(result.dim()):
            if i != dim:
                same(inputs[0][i], axes[i])
    return [[*inputs[0][:dim], total([axes[dim] for axes in inputs]), *inputs[0][dim + 1 :]]]


def stacked(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """Tensors of one shape side by side in a new dimension."""
    (axes,) = elementwise(flow, args[0], args[0][0])
    dim = (args[1] if len(args) > 1 else 0) % result.dim()
    return [[*axes[:dim], Axis(len(args[0]), "stacked"), *axes[dim:]]]


def padded(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    axes, widths = list(flow.axes(args[0])), args[1]
    for i in range(len(widths) // 2):
        before, after = widths[2 * i : 2 * i + 2]
        dim = len(axes) - 1 - i
        if min(before, after) < 0:
            fix(axes[dim], "cut by negative padding")
            axes[dim] = Axis(result.shape[dim], "cut by negative padding")
        elif before or after:
            around = Axis(before, tag="zeros"), Axis(after, tag="zeros")
            is_zero = len(args) < 3 or args[2] == 0
            for zeros in around:
                if not is_zero:
                    fix(zeros, "padding")
            flow.pad(*around)
            axes[dim] = total([around[0], axes[dim], around[1]])
    return [axes]


def linear(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """inputs (..., k) times weight (n, k), and a bias (n,)."""
    x, w = flow.axes(args[0]), flow.axes(args[1])
    same(x[-1], w[1])
    flow.multiply((*x[:-1], *w), args[1], w[1])
    if len(args) > 2 and args[2] is not None:
        same(flow.axes(args[2])[0], w[0])
    return [[*x[:-1], w[0]]]


def matrix_product(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """(..., m, k) times (..., k, n), leading dimensions in common; with three arguments, the first is added."""
    *added, left, right = args[:3]
    a, b = flow.axes(left), flow.axes(right)
    inner = b[-2] if len(b) > 1 else b[-1]
    same(a[-1], inner)
    for leading, other in zip(a[:-2], b[:-2], strict=False):
        same(leading, other)
        for leaf in [*leading.leaves(), *other.leaves()]:
            leaf.tags.add("head")
    out = [*a[:-1], *b[-1:]] if len(b) > 1 else a[:-1]
    if not flow.is_weight(right):
        fix(inner, "summed over without a weight" if flow.is_weight(left) else "summed over between two results")
    flow.multiply((*out, inner), right if flow.is_weight(right) else None, inner)
    for tensor in added:
        for i, axis in enumerate(reversed(flow.axes(tensor))):
            same(axis, out[-1 - i])
    return [out]


def convolution(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    inputs, weight, bias = args[:3]
    is_transposed, groups = args[6], args[8]
    x, w = flow.axes(inputs), flow.axes(weight)
    for axis in (*x[2:], *w[2:]):
        fix(axis, "positions in an image")
    o, i = (w[1], w[0]) if is_transposed else (w[0], w[1])
    if groups == 1:
        same(i, x[1])
    elif weight.shape[0] == groups == inputs.shape[1] and not is_transposed:
        same(o, x[1])  # depthwise: as many filters as channels
    else:
        for axis in (x[1], o, i):
            fix(axis, "a convolution in groups")
        o = Axis(result.shape[1], "a convolution in groups") if is_transposed else o
    out = [x[0], o, *(Axis(size, "positions in an image") for size in result.shape[2:])]
    flow.multiply((*x, *w[1:]) if is_transposed else (*out, *w[1:]), weight if groups == 1 else None, i)
    if bias is not None:
        same(flow.axes(bias)[0], o)
    return [out]


def batch_norm(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    x = flow.axes(args[0])
    for vector in args[1:5]:
        if vector is not None:
            same(flow.axes(vector)[0], x[1])
    return [x, *shaped(list(result[1:]), "statistics")]


def layer_norm(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    x, n = flow.axes(args[0]), len(args[1])
    for axis in x[-n:]:
        fix(axis, "normalised across")
    for tensor in tensors_in(args[2:4]):
        for own, axis in zip(flow.axes(tensor), x[-n:], strict=True):
            same(own, axis)
    return [x, *shaped(list(result[1:]), "statistics")]


def group_norm(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    x = flow.axes(args[0])
    for axis in x[1:]:
        fix(axis, "normalised across")
    for tensor in args[1:3]:
        if tensor is not None:
            same(flow.axes(tensor)[0], x[1])
    return [x, *shaped(list(result[1:]), "statistics")]


def reduced(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """Some dimensions are averaged or added up; they stay with size 1, or go."""
    if len(args) > 1 and isinstance(args[1], Tensor):
        return elementwise(flow, args, result)
    x, out = flow.axes(args[0]), tensors_in(result)[0]
    given = args[1] if len(args) > 1 and not isinstance(args[1], bool) else None
    dims = {d % len(x) for d in (given if isinstance(given, list | tuple) else [given])} if given is not None else set()
    dims = dims or set(range(len(x)))
    for d in dims:
        fix(x[d], "averaged or added up")
    is_kept = out.dim() == len(x)
    axes = [Axis(1) if d in dims else axis for d, axis in enumerate(x) if is_kept or d not in dims]
    return [list(axes) for _ in tensors_in(result)]


def along(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """One dimension is mixed (softmax, cumulative sum); the shape stays."""
    x = flow.axes(args[0])
    fix(x[args[1]], "normalised across")
    return [x]


def pooled(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """Positions are pooled, each channel for itself."""
    x = flow.axes(args[0])
    found = []
    for tensor in tensors_in(result):
        for axis in x[-2:]:
            fix(axis, "positions in an image")
        found.append([*x[:-2], *(Axis(size, "positions in an image") for size in tensor.shape[-2:])])
    return found


def embedding(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    table = flow.axes(args[0])
    fix(table[0], "looked up by the input")
    return [[*flow.axes(args[1]), table[1]]]


def attention(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    """Scaled dot-product attention: queries (b, h, l, d), keys and values (b, h or fewer, s, d)."""
    q, k, v = (flow.axes(tensor) for tensor in args[:3])
    for width in (q[3], k[3], v[3]):
        fix(width, "the width of a head")
    same(q[0], k[0])
    same(k[0], v[0])
    same(k[1], v[1])
    same(k[2], v[2])
    same(q[3], k[3])
    if 1 != k[1].size != q[1].size:
        unify(product([k[1], Axis(q[1].size // k[1].size)]), q[1])
    else:
        same(q[1], k[1])
    for axis in (q[1], k[1]):
        for leaf in axis.leaves():
            leaf.tags.add("head")
    for mask in tensors_in(args[3:]):
        for score, own in zip(reversed([*q[:3], k[2]]), reversed(flow.axes(mask)), strict=False):
            same(score, own)
    flow.multiply((*q, k[2]))
    flow.multiply((*q[:3], k[2], v[3]))
    return [[*q[:3], v[3]], *shaped(list(result[1:]), "statistics")]


def made(flow: Flow, args: Sequence[Any], result: Any) -> list[Axes]:
    return shaped(result, "made while the network runs")


# fmt: off
_ELEMENTWISE = [
    "_to_copy", "abs", "add", "addcmul", "alias", "bitwise_and", "bitwise_not", "bitwise_or", "ceil", "celu",
    "clamp", "clamp_max", "clamp_min", "clone", "contiguous", "cos", "detach", "div", "dropout", "elu",
    "empty_like", "eq", "erf", "exp", "expand_as", "expm1", "floor", "full_like", "ge", "gelu", "gt", "hardsigmoid",
    "hardswish", "hardtanh", "isnan", "le", "leaky_relu", "lift_fresh", "log", "log1p", "logical_and",
    "logical_not", "logical_or", "lt", "masked_fill", "maximum", "minimum", "mish", "mul", "ne", "neg", "ones_like",
    "pow", "reciprocal", "relu", "relu6", "round", "rsqrt", "rsub", "selu", "sigmoid", "sign", "silu", "sin",
    "softplus", "sqrt", "square", "sub", "tanh", "threshold", "to", "where", "zeros_like",
]
# fmt: on

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **{f"{name}_": in_place for name in (*_ELEMENTWISE, "copy", "fill", "zero")},
    **dict.fromkeys(["view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "_reshape_alias"], reshape),
    **dict.fromkeys(["t", "transpose"], transposed),
    **dict.fromkeys(["select", "unbind"], chosen),
    **dict.fromkeys(["split", "split_with_sizes"], split),
    **dict.fromkeys(["mm", "bmm", "addmm", "baddbmm", "mv", "matmul"], matrix_product),
    **dict.fromkeys(["native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"], batch_norm),
    **dict.fromkeys(["mean", "sum", "amax", "amin", "var", "std", "max", "min", "all", "any", "var_mean"], reduced),
    **dict.fromkeys(["_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "_safe_softmax"], along),
    **dict.fromkeys(
        ["max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "max_pool2d"], pooled
    ),
    **dict.fromkeys(
        [
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
        ],
        attention,
    ),
    **dict.fromkeys(["arange", "zeros", "ones", "full", "empty", "scalar_tensor"], made),
    **dict.fromkeys(["new_zeros", "new_ones", "new_full", "new_empty"], made),
    "permute": permuted,
    "expand": expanded,
    "slice": sliced,
    "cat": concatenated,
    "stack": stacked,
    "constant_pad_nd": padded,
    "linear": linear,
    "convolution": convolution,
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "embedding": embedding,
}
