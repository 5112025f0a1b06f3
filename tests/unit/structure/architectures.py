"""Small random networks of every kind that can be shrunk, with example inputs; transformers' ones where installed."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateurs.data import InputShape
from secateurs.models import ModelSpec, build

Made = tuple[nn.Module, Any]


def image(*size: int) -> Tensor:
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(1))


def ids(n: int = 7) -> Tensor:
    return torch.randint(1, 50, (3, n), generator=torch.Generator().manual_seed(2))


def reference(spec: str, *size: int, kind: str = "image") -> Made:
    shape = InputShape(kind=kind, size=size, n_classes=5)
    return build(ModelSpec.parse(spec), shape, 0), image(*size) if kind == "image" else ids(size[1])


def perceptron() -> Made:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, 4)]
    return nn.Sequential(*layers), image(6)


class Projected(nn.Module):
    """A residual block whose shortcut is a convolution (option B), and one whose branches are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, 2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, 2), nn.BatchNorm2d(16))
        self.left, self.right = nn.Conv2d(16, 6, 1), nn.Conv2d(16, 10, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = F.relu(y + self.shortcut(x))
        x = torch.cat([self.left(x), F.relu(self.right(x))], 1)
        out: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


def projected() -> Made:
    torch.manual_seed(0)
    return Projected(), image(3, 8, 8)


def depthwise() -> Made:
    """Inverted residuals as in MobileNetV2: expand, filter each channel, project."""
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(24, 12, 1, bias=False), nn.BatchNorm2d(12)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    ]
    return nn.Sequential(*layers), image(3, 8, 8)


_SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}


def bert() -> Made:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    inputs = {"input_ids": ids(), "attention_mask": torch.ones_like(ids())}
    return BertForSequenceClassification(BertConfig(vocab_size=60, **_SMALL)), inputs


def vit() -> Made:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, **_SMALL)), {
        "pixel_values": image(3, 16, 16)
    }


def llama(n_kv: int = 2, **settings: Any) -> Made:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=60, num_key_value_heads=n_kv, head_dim=6, **_SMALL, **settings)
    return LlamaForCausalLM(config), {"input_ids": ids()}


def gpt2() -> Made:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_embd=24, n_layer=2, n_head=4, n_positions=16, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config), {"input_ids": ids()}


PLAIN: dict[str, Callable[[], Made]] = {
    "perceptron": perceptron,
    "lenet-300-100": lambda: reference("lenet-300-100", 1, 8, 8),
    "lenet-5": lambda: reference("lenet-5", 1, 28, 28),
    "seed-cnn": lambda: reference("seed-cnn", 1, 28, 28),
    "resnet-20 (option A)": lambda: reference("resnet-20", 3, 8, 8),
    "projected shortcut (option B), concatenation": projected,
    "depthwise": depthwise,
    "cls-transformer, images": lambda: reference("cls-transformer(dim=24, heads=4, ffn=32)", 1, 8, 8),
    "cls-transformer, tokens": lambda: reference("cls-transformer(dim=24, heads=4, ffn=32)", 60, 7, kind="tokens"),
}
STOCK: dict[str, Callable[[], Made]] = {
    "bert": bert,
    "vit": vit,
    "llama, grouped queries": llama,
    "llama, one key": lambda: llama(1),
    "llama, eager": lambda: llama(attn_implementation="eager"),
    "gpt2": gpt2,
}
ALL = {**PLAIN, **STOCK}


def settle(module: nn.Module) -> nn.Module:
    """Biases, norms and statistics that are not zero and one, so that nothing is equal by accident."""
    torch.manual_seed(3)
    for name, tensor in module.state_dict().items():
        if tensor.dim() == 1 and tensor.is_floating_point():
            low, high = (0.5, 1.5) if "norm" in name.lower() or "bn" in name or "var" in name else (-0.5, 0.5)
            tensor.data.uniform_(low, high)
    return module.eval()
