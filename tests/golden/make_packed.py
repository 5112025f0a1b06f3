"""Makes the golden packed files: python tests/golden/make_packed.py VERSION. Those that are there are never made anew.

Beside each file stands the SHA-256 of every tensor's bytes when dense, as they were before packing, or for lossy values
as the version that wrote them decoded them.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import secateurs

HERE = Path(__file__).parent / "packed"


def kept(shape, density, dtype=torch.float32):
    """Normal weights of which only some are kept."""
    return torch.where(torch.rand(shape) < density, torch.randn(shape) * 0.05, 0.0).to(dtype)


def tensors():
    """Every dtype of weights, every kind of positions."""
    groups = torch.rand(8, 16, 4).argsort(dim=2) < 2
    return {
        "all": torch.randn(20),
        "index": kept((1100, 900), 0.001),
        "nm": torch.where(groups.reshape(8, 64), torch.randn(8, 64), 0.0),
        "blocks": torch.where(
            torch.rand(4, 4).repeat_interleave(16, 0).repeat_interleave(16, 1) < 0.2, torch.randn(64, 64), 0.0
        ),
        "rows": torch.randn(40, 30) * (torch.rand(40, 1) < 0.5) * (torch.rand(1, 30) < 0.5) + 0.0,
        "model": kept((60, 60), 0.1) * (torch.rand(60, 1) < 0.6) + 0.0,
        "minus": torch.randn(30, 30) * (torch.rand(30, 30) < 0.1),
        "half": kept((20, 20), 0.3, torch.float16),
        "brain": kept((20, 20), 0.3, torch.bfloat16),
        "double": kept((20, 20), 0.3, torch.float64),
        "eight": kept((20, 20), 0.3).to(torch.float8_e4m3fn),
        "nan": torch.tensor([float("nan"), float("-inf"), -0.0, 0.0, 1e-45]),
        "ids": torch.arange(300),
        "bools": torch.arange(70) % 3 == 0,
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.5),
    }


def sha256(tensor):
    """Of the bytes of a tensor."""
    return hashlib.sha256(
        tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    )


def main():
    """Write the files of one version."""
    torch.manual_seed(0)
    lossy = {
        "large": kept((1024, 600), 0.02),
        "a": kept((50, 60), 0.1),
        "b": kept((50, 60), 0.1),
        "c": kept((50, 60), 0.1),
    }
    cases = {
        "exact": (tensors(), {"": "exact"}),
        "lossy": (lossy, {"large": "int4", "a": "int8", "b": "codebook:5", "c": "int4/16"}),
    }
    for name, (found, values) in cases.items():
        path = HERE / f"{sys.argv[1]}-{name}.packed.safetensors"
        if path.exists():
            raise SystemExit(f"{path} is there already, and must stay as it is.")
        with tempfile.TemporaryDirectory() as folder:
            save_file(found, f"{folder}/a.safetensors")
            secateurs.pack(f"{folder}/a.safetensors", path, values)
        back = secateurs.load(path)
        sums = {key: sha256(found[key] if name == "exact" else back[key]).hexdigest() for key in found}
        path.with_name(f"{sys.argv[1]}-{name}.json").write_text(json.dumps(sums, indent=1) + "\n")


if __name__ == "__main__":
    main()
