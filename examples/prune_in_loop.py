"""Your own training loop, pruned while it runs: three lines more, and zeros that stay zeros."""

import torch
from torch import nn

import secateurs as sc
from secateurs.data import DataSpec, load_data
from secateurs.measure.accuracy import accuracy

torch.manual_seed(0)
data = load_data(DataSpec(source="digits"))
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
n_steps = 200

# Nothing goes in the first tenth; 80 % is reached at 60 % of the training, the rest is recovery.
recipe = sc.Recipe(budget=sc.sparsity(0.8), schedule="cubic(begin=0.1, end=0.6, every=4)")
pruner = sc.Pruner(model, recipe, optimizer, total_steps=n_steps)

for step in range(1, n_steps + 1):
    batch = torch.randint(len(data.y_train), (64,))
    loss = nn.functional.cross_entropy(model(data.x_train[batch]), data.y_train[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    pruner.step()
    if step % 40 == 0:
        print(f"step {step:3}: loss {loss.item():.3f}, sparsity {pruner.sparsity:.1%}")

n_zero = sum(int((model.get_parameter(name) == 0).sum()) for name in pruner.masks)
print(f"{n_zero:,} of {pruner.masks.n_weights:,} weights are exactly zero")
print(f"test accuracy {accuracy(model, data.x_test, data.y_test).value:.1%} (one seed)")
