"""Exporting: a network as an ONNX file whose answers were compared with torch's, and that file in int8.

    exported = export_onnx(model, x, "model.onnx")             # x: examples to trace it with and to compare on
    quantized = quantize_onnx("model.onnx", "int8.onnx")       # or with calibration=x: fixed ranges of activations
    answers = onnx_answers("int8.onnx", x)

The number of examples stays free, and the length of rows of token ids; everything else is as in the example.
"""

import inspect
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.checks import extra, first_line
from secateurs.durable import make_directory, sync_directory
from secateurs.errors import InputError
from secateurs.evaluating import evaluating
from secateurs.measure.environment import cpu_features
from secateurs.running.packed_linear import PackedLinear

Inputs = Tensor | Mapping[str, Tensor]

LARGEST_FILE = 1 << 30  # of ONNX; protobuf holds no more than 2 GiB, the rest lies beside it
BATCH = 64  # examples at once when answers are compared
BOUND = 1e-3  # the largest difference to torch that is right, as a share of the largest answer
QUANTIZED = ("MatMul", "Gemm", "Conv")
N_TRACED = 2  # an exporter takes a size of 1 for a fixed one


@dataclass(frozen=True)
class Exported:
    """What was written, and how its answers in ONNX Runtime differ from torch's.

    n                    answers that were compared
    same_answers         of them, those whose largest value is in the same place
    max_difference       of any value
    relative_difference  the same, as a share of the largest value
    seconds              that exporting and comparing took
    """

    path: str
    size_bytes: int
    n: int
    same_answers: int
    max_difference: float
    relative_difference: float
    seconds: float

    def values(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class Quantized:
    """What was written.

    how            "dynamic": the range of activations is found anew in every run; "static": by calibration
    n_tensors      weights that are int8 now, of `n` numbers
    n_zero_before  zeros among them before; all of them are among the `n_zero` after
    """

    path: str
    size_bytes: int
    how: str
    n_tensors: int
    n: int
    n_zero_before: int
    n_zero: int

    def values(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


class _InOrder(nn.Module):
    """A network as one that takes its inputs in order and gives one tensor, the first of what it gives.

    names  of its inputs, where it is called with names
    """

    def __init__(self, inside: nn.Module, names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.inside, self.names = inside, names

    def forward(self, *inputs: Tensor) -> Tensor:
        named = dict(zip(self.names, inputs, strict=True)) if self.names else {}
        found = self.inside(**named) if named else self.inside(*inputs)
        out: Tensor = found if isinstance(found, Tensor) else found[0]
        return out


def export_onnx(
    module: nn.Module, example_inputs: Inputs, path: str | os.PathLike[str], opset: int | None = None
) -> Exported:
    """Write the network as an ONNX file, once ONNX Runtime has given the answers of torch on all of the examples.

    example_inputs  a tensor of examples, or {name: tensor} for a network that is called with names
    opset           of ONNX; by default what torch's exporter takes

    InputError where it cannot be exported or answers otherwise (nothing is written then), MissingExtraError without
    the extra `onnx`.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        extra(name, "onnx")
    start, out, inputs = time.perf_counter(), Path(path), _named(example_inputs)
    if any(isinstance(part, PackedLinear) for part in module.modules()):
        raise InputError(
            "Packed layers cannot be exported to ONNX. Restore the dense ones (`Accelerated.restore()`), or load the "
            "network again without example inputs."
        )
    network = module if isinstance(example_inputs, Tensor) else _InOrder(module, tuple(inputs))
    make_directory(out.parent)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder, evaluating(network):
        file = Path(folder) / out.name
        traced = {name: _traced(tensor) for name, tensor in inputs.items()}
        try:
            with torch.inference_mode():
                is_tensor = isinstance(network(*traced.values()), Tensor)
            network = network if is_tensor else _InOrder(network)
            write_onnx(network, traced, file, opset)
        except Exception as error:  # of torch's exporter: it raises types of its own
            raise InputError(f"torch.onnx.export cannot export {type(module).__name__}: {cause_of(error)}") from error
        with torch.inference_mode():
            right = torch.cat([network(*batch.values()) for batch in _batches(inputs)]).float()
        found = onnx_answers(file, example_inputs)
        worst = _difference(found, right)
        largest = float(right.abs().max())
        if not worst <= BOUND * (largest or 1.0):
            raise InputError(
                f"ONNX Runtime's answers differ from torch's by {worst:.3g}, where the largest is {largest:.3g}: "
                f"'{out}' is not written. Try another opset."
            )
        same = int((found.argmax(-1) == right.argmax(-1)).sum())
        size_bytes = _move(file, out)
    n = right[..., 0].numel()
    return Exported(str(out), size_bytes, n, same, worst, worst / (largest or 1.0), time.perf_counter() - start)


def write_onnx(network: nn.Module, inputs: Mapping[str, Tensor], path: Path, opset: int | None = None) -> None:
    """The ONNX file of a network that takes its inputs in order and gives one tensor; nothing is compared."""
    free = [dict.fromkeys(_free(tensor), torch.export.Dim.DYNAMIC) for tensor in inputs.values()]
    n_bytes = sum(4 * parameter.numel() for parameter in network.parameters())
    with _quiet(), evaluating(network):
        torch.onnx.export(
            network,
            tuple(inputs.values()),
            str(path),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=list(inputs),
            dynamic_shapes=_for_signature(network, free),
            external_data=n_bytes > LARGEST_FILE,
        )
        _forget_sources(path)


def quantize_onnx(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    calibration: Inputs | None = None,
    *,
    is_per_row: bool = True,
) -> Quantized:
    """Write the ONNX file with int8 weights, by ONNX Runtime's own quantizer; zeros stay zeros, which is checked.

    calibration  examples on which the ranges of activations are measured, once for all; by default every run finds them
    is_per_row   one scale for each output of a layer, not one for all

    On a CPU whose products of 8-bit numbers are added in 16 bits, weights take 7 bits. InputError where nothing in the
    file can be quantized, MissingExtraError without the extra `onnx`.
    """
    onnx, library = extra("onnx", "onnx"), extra("onnxruntime.quantization", "onnx")
    source, target = Path(path), Path(out)
    try:
        model = onnx.load(str(source))
    except Exception as error:  # protobuf raises types of its own
        raise InputError(f"'{source}' is not a readable ONNX file: {cause_of(error)}") from error
    before = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    del model.graph.value_info[:]  # it transposes weights, and would find that they no longer have the shapes here
    # Without these instructions products of 8-bit numbers are added in 16 bits, which overflow with 8-bit weights.
    has_room = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(cpu_features())
    options: dict[str, Any] = {
        "weight_type": library.QuantType.QInt8,
        "per_channel": is_per_row,
        "reduce_range": not has_room,
        "use_external_data_format": model.ByteSize() > 2 * LARGEST_FILE,
    }
    make_directory(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder, _quiet():
        file = Path(folder) / target.name
        if calibration is None:
            library.quantize_dynamic(model, str(file), **options)
        else:
            # Products of two activations stay as they are, as when it is dynamic: there are no weights in them.
            layers = (node for node in model.graph.node if node.op_type in QUANTIZED)
            chosen = [node.name for node in layers if node.input[1] in before]
            reader = _reader(library, _named(calibration))
            library.quantize_static(model, str(file), reader, nodes_to_quantize=chosen, **options)
        after = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(str(file)).graph.initializer}
        names = [name for name, weight in before.items() if weight.ndim > 1 and f"{name}_quantized" in after]
        if not names:
            raise InputError(f"'{source}' has no weights that ONNX Runtime can quantize. Use it as it is.")
        if lost := [name for name in names if not _keeps_zeros(before[name], after, name)]:
            raise InputError(f"ONNX Runtime's quantizer does not keep the zeros of {lost[0]!r} in '{source}'.")
        size_bytes = _move(file, target)
    return Quantized(
        str(target),
        size_bytes,
        "dynamic" if calibration is None else "static",
        len(names),
        sum(before[name].size for name in names),
        sum(int((before[name] == 0).sum()) for name in names),
        sum(int(_zeros(after, name).sum()) for name in names),
    )


def onnx_answers(path: str | os.PathLike[str], inputs: Inputs) -> Tensor:
    """What an ONNX file answers in ONNX Runtime, on the CPU and as many threads as torch uses: its first output."""
    runtime: Any = extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_outputs()[0].name
        found = [
            session.run([name], {key: tensor.numpy() for key, tensor in batch.items()})[0]
            for batch in _batches(_named(inputs))
        ]
    except Exception as error:  # onnxruntime raises types of its own
        raise InputError(f"ONNX Runtime cannot run '{path}': {cause_of(error)}") from error
    return torch.from_numpy(np.concatenate(found)).float()


def cause_of(error: BaseException) -> str:
    """What was wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"[:300]


def _named(inputs: Inputs) -> dict[str, Tensor]:
    return {"input": inputs} if isinstance(inputs, Tensor) else dict(inputs)


def _free(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions whose size may be another one: examples, and tokens."""
    return (0, 1) if tensor.dim() == 2 and not tensor.is_floating_point() else (0,)


def _traced(tensor: Tensor) -> Tensor:
    """A few examples; where a free size is 1, all of them twice."""
    for dim in _free(tensor):
        if tensor.shape[dim] == 1:
            tensor = torch.cat([tensor] * N_TRACED, dim)
    return tensor[:N_TRACED]


def _batches(inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    n = min(len(tensor) for tensor in inputs.values())
    if n == 0:
        raise InputError("There are no examples to run. Give at least one.")
    for start in range(0, n, BATCH):
        yield {name: tensor[start : start + BATCH] for name, tensor in inputs.items()}


def _forget_sources(path: Path) -> None:
    """Of every node torch notes in which file of this machine it was written, which can be half of a small file."""
    onnx = extra("onnx", "onnx")
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    for each in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del each.metadata_props[:]
        each.doc_string = ""
    onnx.save(model, str(path))


def _for_signature(network: nn.Module, free: list[Any]) -> Any:
    """As torch.export wants it: one entry for each argument, all of *arguments being one."""
    kinds = [parameter.kind for parameter in inspect.signature(network.forward).parameters.values()]
    return (tuple(free),) if inspect.Parameter.VAR_POSITIONAL in kinds else tuple(free)


def _difference(found: Tensor, right: Tensor) -> float:
    """The largest of any value; infinite where they cannot be compared."""
    if found.shape != right.shape:
        return math.inf
    return float((found - right).abs().max())


def _zeros(after: Mapping[str, Any], name: str) -> Any:
    """Where a quantized weight is zero: embeddings are stored beside a zero point that is none."""
    return after[f"{name}_quantized"] == after[f"{name}_zero_point"].flat[0]


def _keeps_zeros(old: Any, after: Mapping[str, Any], name: str) -> bool:
    """Whether every zero of a weight is one afterwards; the quantizer may have transposed it."""
    new, points = _zeros(after, name), after[f"{name}_zero_point"]
    turned = [each for each in (old, old.T) if each.shape == new.shape]
    return (points == points.flat[0]).all() and any(new[each == 0].all() for each in turned)


def _reader(library: Any, inputs: Mapping[str, Tensor]) -> Any:
    """The calibration examples, as the quantizer asks for them."""

    class Reader(library.CalibrationDataReader):  # type: ignore[misc]  # an extra
        def __init__(self) -> None:
            self.batches = _batches(inputs)

        def get_next(self) -> Any:
            batch = next(self.batches, None)
            return None if batch is None else {name: tensor.numpy() for name, tensor in batch.items()}

    return Reader()


def _move(file: Path, out: Path) -> int:
    """Put the file, and what lies beside it, into place, itself last; returns their bytes."""
    n_bytes = 0
    for each in sorted(file.parent.iterdir(), key=lambda each: each == file):
        n_bytes += each.stat().st_size
        with each.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(each, out.parent / each.name)
    sync_directory(out.parent)
    return n_bytes


@contextmanager
def _quiet() -> Iterator[None]:
    """The libraries warn of what they would do otherwise in other versions, and of what is not installed."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(level)
