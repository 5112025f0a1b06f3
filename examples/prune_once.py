"""Train the digits transformer for a few seconds, prune it once, and read what became of every layer."""

import secateurs as sc
from secateurs.data import DataSpec, load_data
from secateurs.measure.accuracy import accuracy
from secateurs.models import ModelSpec, build
from secateurs.train.loop import train
from secateurs.train.training import Training

data = load_data(DataSpec(source="digits"))  # 1,797 real 8x8 images, no download
model = build(ModelSpec(name="cls-transformer"), data.shape, seed=0)
for look in train(model, data, Training(epochs=8.0, learning_rate=2e-3), seed=0, n_looks=4):
    print(f"step {look.step:3} of {look.n_steps}: validation accuracy {look.validation.value:.1%}")

dense = accuracy(model, data.x_test, data.y_test)
masks = sc.prune(model, sc.Recipe(budget=sc.sparsity(0.7)))  # |w|, single weights, all layers compete
pruned = accuracy(model, data.x_test, data.y_test)

for line in masks.report:
    what = f"{line.sparsity:.1%} zero" if line.status == "pruned" else f"{line.status}: {line.reason}"
    print(f"{line.name:36}{line.n:>7,}  {what}")
print(f"{masks.n_weights - masks.n_kept:,} of {masks.n_weights:,} weights are exactly zero ({masks.sparsity:.2%})")
print(f"test accuracy {dense.value:.1%} -> {pruned.value:.1%} (n = {pruned.n}, one seed, not fine-tuned)")
