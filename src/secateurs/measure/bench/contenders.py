"""Contenders: the ways to run a network that are timed against each other.

    session = CONTENDERS["torch-bf16"].open(job)
    choices = session.fit(inputs)          # once for a shape of inputs: compiles, or chooses
    call = session.bind(inputs)            # inputs of that shape, as the runtime wants them
    answer = call()                        # what is timed

To add one: a final class with `fit` and `bind`, and its line in CONTENDERS.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Inputs = dict[str, NDArray[Any]]
Call = Callable[[], Any]


class CannotError(Exception):
    """This machine cannot run it; the message says why."""


@dataclass(frozen=True)
class Job:
    """Which network, where its prepared files are, with how many threads."""

    model: str
    folder: str
    threads: int


class Session:
    """Interface: an opened network."""

    def fit(self, inputs: Inputs) -> list[dict[str, Any]]:
        """Get ready for inputs of this shape; returns what was decided for its layers, if anything was."""
        return []

    def reshape(self, inputs: Inputs) -> None:
        """Get ready for inputs of another shape with what was decided: the network that was timed answers them."""
        self.fit(inputs)

    def bind(self, inputs: Inputs) -> Call:
        """The run on these inputs; what it returns is an array or `answer` makes one of it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Contender:
    """How one way to run a network is opened.

    module   what must be installed, and is imported before anything is measured
    extra    which extra of this package brings it; "" for what is always there
    file     what it reads of the prepared folder; "" where it reads the network's own files
    bound    the largest difference to torch fp32 that is right, as a share of the largest answer
    opening  (job) -> Session
    on_gpu   whether it needs one
    """

    module: str
    extra: str
    file: str
    bound: float
    opening: Callable[[Job], Session]
    on_gpu: bool = False

    @property
    def is_installed(self) -> bool:
        """Whether its library is there."""
        return importlib.util.find_spec(self.module) is not None

    def import_it(self, job: Job) -> None:
        """Its library, so that opening the network is measured without it."""
        importlib.import_module(self.module)
        if self.module == "secateurs.accelerating":
            import torch

            from secateurs.running.packed_linear import PackedLinear

            # numba reads its own code at the first call: 20 MB, which are a library's like those of the others.
            PackedLinear.from_linear(torch.nn.Linear(8, 8))(torch.ones(1, 8))
        if not self.file:
            from secateurs.structure.files import ABOUT_FILE
            from secateurs.structure.opening import stock_class

            path = Path(job.model)
            if not (path / ABOUT_FILE).is_file():
                stock_class(path if path.is_dir() else path.parent)


def answer(found: Any) -> NDArray[Any]:
    """What a call returned as an array of floats."""
    return np.asarray(found.float().cpu().numpy() if hasattr(found, "cpu") else found, dtype=np.float32)


def difference(found: NDArray[Any], right: NDArray[Any]) -> float | None:
    """The largest difference as a share of the largest right value; None where they cannot be compared."""
    if found.shape != right.shape:
        return None
    worst, largest = float(np.abs(found - right).max()), float(np.abs(right).max())
    return worst / (largest or 1.0) if np.isfinite(worst) else None


class Torch(Session):
    """torch, every weight in one dtype, on the CPU or a GPU."""

    def __init__(self, job: Job, dtype: str, device: str = "cpu") -> None:
        import torch

        from secateurs.measure.bench.prepared import Answering
        from secateurs.structure.opening import open_network

        torch.set_num_threads(job.threads)
        self.dtype, self.device = getattr(torch, dtype), device
        self.network = Answering(open_network(Path(job.model))).to(device, self.dtype).eval()

    def bind(self, inputs: Inputs) -> Call:
        import torch

        tensors = [torch.from_numpy(array) for array in inputs.values()]
        there = [x.to(self.device, self.dtype if x.is_floating_point() else x.dtype) for x in tensors]
        inference = torch.inference_mode

        def run() -> Any:
            with inference():
                found = self.network(*there)
            if self.device == "cuda":
                torch.cuda.synchronize()
            return found

        return run


class SemiStructured(Torch):
    """torch on a GPU with sparse tensor cores: the linear layers whose zeros keep 2:4, compressed."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, "float16", "cuda")
        import torch

        from secateurs.checkpoint.compliance import compliance

        held = {
            each.name
            for each in compliance(self.network.inside, "2:4").tensors
            if each.holds and each.n_dead < each.n_groups
        }
        found = [
            layer
            for name, layer in self.network.inside.named_modules()
            if isinstance(layer, torch.nn.Linear) and f"{name}.weight" in held
        ]
        if not found:
            raise CannotError("no linear layer keeps 2:4")
        for layer in found:
            layer.weight = torch.nn.Parameter(torch.sparse.to_sparse_semi_structured(layer.weight.detach()))


class Accelerated(Session):
    """This package: each linear layer packed where that was measured to be faster for the inputs at hand."""

    def __init__(self, job: Job, values: str) -> None:
        import torch

        torch.set_num_threads(job.threads)
        self.path, self.values = Path(job.model), values
        self.network: Any = None

    def fit(self, inputs: Inputs) -> list[dict[str, Any]]:
        import torch

        from secateurs.accelerating import accelerate
        from secateurs.measure.bench.prepared import Answering
        from secateurs.structure.opening import open_network

        self.network = None  # opened anew, so that no dense copy of what was packed stays in memory
        network = Answering(open_network(self.path)).float().eval()
        tensors = map(torch.from_numpy, inputs.values())
        found = accelerate(network, *tensors, values=self.values, is_reversible=False)
        self.network = network
        return [{**asdict(each), "name": each.name.removeprefix("inside.")} for each in (*found.choices, *found.blocks)]

    def reshape(self, inputs: Inputs) -> None:
        """Packed layers take any number of rows."""

    def bind(self, inputs: Inputs) -> Call:
        import torch

        network, tensors = self.network, [torch.from_numpy(array) for array in inputs.values()]
        inference = torch.inference_mode

        def run() -> Any:
            with inference():
                return network(*tensors)

        return run


class OnnxRuntime(Session):
    """ONNX Runtime on the CPU."""

    def __init__(self, job: Job, file: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
        # Its threads would go on spinning while the next contender is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        path = str(Path(job.folder) / file)
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_outputs()[0].name

    def bind(self, inputs: Inputs) -> Call:
        def run() -> Any:
            return self.session.run([self.name], inputs)[0]

        return run


class OpenVino(Session):
    """OpenVINO on the CPU, compiled for the shape of the inputs."""

    def __init__(self, job: Job, precision: str) -> None:
        import openvino

        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise CannotError("OpenVINO knows no bf16 on this CPU")
        self.request: Any = None
        self.core, self.model = core, core.read_model(str(Path(job.folder) / "model.onnx"))
        self.options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": job.threads,
            "INFERENCE_PRECISION_HINT": precision,
        }

    def fit(self, inputs: Inputs) -> list[dict[str, Any]]:
        self.request = None  # what was compiled for the last shape goes first
        self.model.reshape({name: list(array.shape) for name, array in inputs.items()})
        self.request = self.core.compile_model(self.model, "CPU", self.options).create_infer_request()
        return []

    def bind(self, inputs: Inputs) -> Call:
        def run() -> Any:
            return self.request.infer(inputs, share_inputs=True, share_outputs=True)[0]

        return run


FP32, BF16, INT8 = 1e-3, 0.1, 0.5

CONTENDERS: dict[str, Contender] = {
    "torch-fp32": Contender("torch", "", "", FP32, partial(Torch, dtype="float32")),
    "torch-bf16": Contender("torch", "", "", BF16, partial(Torch, dtype="bfloat16")),
    "secateurs-fp32": Contender("secateurs.accelerating", "", "", FP32, partial(Accelerated, values="fp32")),
    "secateurs-int8": Contender("secateurs.accelerating", "", "", INT8, partial(Accelerated, values="int8")),
    "secateurs-w8a8": Contender("secateurs.accelerating", "", "", INT8, partial(Accelerated, values="w8a8")),
    "onnxruntime-fp32": Contender("onnxruntime", "onnx", "model.onnx", FP32, partial(OnnxRuntime, file="model.onnx")),
    "onnxruntime-int8": Contender(
        "onnxruntime", "onnx", "model.int8.onnx", INT8, partial(OnnxRuntime, file="model.int8.onnx")
    ),
    "openvino-fp32": Contender("openvino", "openvino", "model.onnx", FP32, partial(OpenVino, precision="f32")),
    "openvino-bf16": Contender("openvino", "openvino", "model.onnx", BF16, partial(OpenVino, precision="bf16")),
    "cuda-fp16": Contender("torch", "", "", BF16, partial(Torch, dtype="float16", device="cuda"), True),
    "cuda-2:4": Contender("torch", "", "", BF16, SemiStructured, True),
}
