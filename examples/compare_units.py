"""One layer, the same share pruned in three shapes: what does each of them cost in weight that was large?"""

import torch

import secateurs as sc

torch.manual_seed(0)
weight = torch.randn(16, 32) * torch.linspace(0.5, 1.5, 16)[:, None]  # (out, in); later rows are larger

ways = {
    "element": (sc.element, sc.layer, sc.sparsity(0.5)),
    "row": (sc.row, sc.layer, sc.sparsity(0.5)),
    "2:4": (sc.element, 4, sc.top(2)),
}

print("unit     zeros  dead rows  mean |w| kept  share of |w| kept")
for name, (unit, pool, budget) in ways.items():
    size = weight.abs()
    keep = sc.select(size, unit, pool, budget)  # bool, True = survives
    zeros = 1 - keep.float().mean()
    dead = int((~keep.any(dim=1)).sum())
    print(f"{name:8}{zeros:6.0%}{dead:11}{size[keep].mean():15.3f}{size[keep].sum() / size.sum():19.1%}")
