"""Small networks with the corners that pruning code trips over."""

import torch
from torch import Tensor, nn


class Conv1D(nn.Module):
    """GPT-2's linear layer, as transformers writes it: the weight is (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Everything(nn.Module):
    """Every kind of parameter: prunable ones, and ones to leave alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 6))
        self.pos_embed = nn.Parameter(torch.randn(1, 4, 6))
        self.norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.conv = nn.Conv1d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)
        self.table = nn.Parameter(torch.ones(3, 3, dtype=torch.int64), requires_grad=False)
        self.register_buffer("counts", torch.ones(2, 2, dtype=torch.int64))
        self.register_buffer("running", torch.ones(2, 2))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)  # (batch, tokens, 6)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(self.conv(x.transpose(1, 2))[:, :, 0])


PRUNED = ["attention.in_proj_weight", "attention.out_proj.weight", "conv.weight", "head.weight"]
LEFT = ["embed.weight", "cls_token", "pos_embed", "norm.weight", "table", "head.bias", "conv.bias"]


class Tied(nn.Module):
    """Two layers that share one weight, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu())


class LanguageModel(nn.Module):
    """An embedding whose weight is the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 6)
        self.ffn = nn.Linear(6, 6)
        self.lm_head = nn.Linear(6, 8, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.lm_head(self.ffn(self.embed(tokens)))


def small() -> nn.Module:
    """Two linear layers, 5 -> 8 -> 3."""
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter, by name."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
