"""Made-up results of `compress`: small enough to count by hand, with the shape of real ones."""

from typing import Any

import numpy as np

from secateurs.see import stats

NAME = "blocks.0.ffn.up.weight"


def make_compression(**changes: Any) -> dict[str, Any]:
    """The dense network errs on 2 % of 1,000 validation examples; three candidates, one on the wrong side."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0.0, 0.05, (32, 16)).astype(np.float32)
    pruned = np.where(np.abs(weight) > 0.05, weight, np.float32(0))
    seconds = {
        "dense_s": 1e-3,
        "seconds": 5e-4,
        "speed_up": 2.0,
        "low": 1.8,
        "high": 2.2,
        "n": 40,
        "threads": 2,
        "n_swapped": 1,
        "n_layers": 3,
        "tokens": None,
    }
    test = {"n": 2000, "n_correct": 1952, "n_lost": 12, "n_gained": 4, "drop": 0.004, "low": 0.0, "high": 0.008}
    quiet = {"n": 2000, "n_correct": 1960, "n_lost": 0, "n_gained": 0, "drop": 0.0, "low": -0.001, "high": 0.001}
    tried = [
        _tried(0.8, "int8", 4000, -0.001, is_front=True),
        _tried(0.9, "codebook:4", 2000, 0.003, is_tuned=True, is_front=True),
        _tried(0.9, "int8", 3000, 0.02, student=0.5),
    ]
    results = {
        "schema": "secateurs.compression/1",
        "version": "0.1.0",
        "command": "secateurs compress cls-transformer",
        "environment": {
            "secateurs": "0.1.0",
            "python": "3.11.0",
            "torch": "2.13.0",
            "numpy": "2.0.0",
            "cpu": "a CPU",
            "vectors": "AVX2",
            "cores": 2,
        },
        "seed": 0,
        "compression": {"data": {"source": "mnist", "directory": "there/mnist"}},
        "goal": {"max_drop": 0.005, "size_bytes": None, "latency_s": None},
        "data": {"name": "mnist", "source": "made up"},
        "model": {"name": "cls-transformer", "tracked": {"ffnn": NAME}},
        "inputs": {"kind": "image", "size": [1, 28, 28], "n_classes": 10},
        "dense": {
            "validation": {"value": 0.98, "n": 1000},
            "test": {"value": 0.98, "n": 2000},
            "size_bytes": 18000,
            "file_bytes": 20000,
        },
        "chosen": {**tried[1], "is_met_on_validation": True},
        "test": test,
        "gates": {"drop": {"asked": 0.005, "found": 0.004, "is_met": True}, "size_bytes": None, "latency_s": None},
        "is_met": True,
        "seconds": seconds,
        "steps": [
            _step("dense", "dense, as it is", 18000, quiet, None),
            _step("taught", "pruned while taught by the dense network", 6000, test, None),
            _step("with", "the same, quantized in training", 2000, test, seconds),
        ],
        "tried": tried,
        "notes": ["Not tried: 2:4 zeros. No layer of this network takes it."],
        "layers": [
            {
                "name": NAME,
                "shape": [32, 16],
                "n": 512,
                "n_stored": int((pruned != 0).sum()),
                "values": "codebook:4",
                "positions": ["model"],
                "dense_bytes": 2048,
                "size_bytes": 128,
            }
        ],
        "stages": [
            _stage("dense", "Dense", 0.98, weight),
            _stage("taught", "Pruned", 0.976, pruned),
        ],
        "is_stock": False,
        "onnx": "The extra onnx is not there.",
        "duration_s": 600.0,
    }
    return {**results, **changes}


def _tried(
    sparsity: float,
    values: str,
    size: int,
    drop: float,
    *,
    student: float = 0.0,
    is_tuned: bool = False,
    is_front: bool = False,
) -> dict[str, Any]:
    units = "50 % of units gone, " if student else ""
    return {
        "candidate": {"student": student, "sparsity": sparsity, "values": values, "pattern": ""},
        "epochs": 3.0,
        "is_tuned": is_tuned,
        "size_bytes": size,
        "drop": drop,
        "n": 1000,
        "n_lost": round(1000 * drop) + 3,
        "n_gained": 3,
        "error": 0.001,
        "low": drop - 0.002,
        "high": drop + 0.002,
        "surely": drop + 0.002,
        "latency_s": 5e-4 if is_front else None,
        "name": f"{units}{100 * sparsity:g} % zeros, {values}",
        "is_front": is_front,
    }


def _step(name: str, title: str, size: int, test: dict[str, Any], seconds: dict[str, Any] | None) -> dict[str, Any]:
    accuracy = test["n_correct"] / test["n"]
    return {
        "id": name,
        "title": title,
        "values": "exact",
        "epochs": 3.0,
        "size_bytes": size,
        **test,
        "accuracy": accuracy,
        "n_zero": 300,
        "is_chosen": name == "with",
        "seconds": seconds,
    }


def _stage(name: str, title: str, accuracy: float, weight: "np.ndarray[Any, Any]") -> dict[str, Any]:
    return {
        "id": name,
        "title": title,
        "caption": "Made up.",
        "accuracy": {"test": {"value": accuracy}},
        "layers": {NAME: stats.describe(weight, absolute_step=0.005, tau=None)},
    }
