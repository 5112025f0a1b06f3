"""Structure: what removed units cost in accuracy and give in time.

    python benchmarks/structure.py halves --data DATA [--seeds 0 1 2]
    python benchmarks/structure.py resnet --data DATA [--seeds 0 1 2]
    python benchmarks/structure.py time --data DATA [--path MINILM] [--threads 2]

halves  LeNet-300-100 without half of its hidden units, and a CLS transformer without half of its FFN units, on
        DATA/mnist/mnist.npz: the dense network; cut and fine-tuned; and the controls of Liu et al. 2019
        (arXiv:1810.05270), the small network from new weights, for as many epochs as the dense one (scratch-E) and for
        as much computation (scratch-B). Rates are those of the presets, which were chosen on validation data.
resnet  ResNet-20 from its published weights at half its multiply-adds, by our scores and pools and by torch-pruning's
        example pruner, each fine-tuned alike on the 10k training images of DATA/cifar10. torch-pruning cannot follow
        the zero-padded shortcuts, so it is given what it can cut: the channels inside the blocks. Beside it stands our
        cut of the same channels. The first half of the shuffled test set is for comparing arms; the second half, on
        which nothing is chosen, is what is reported.
time    seconds of a batch before and after, side by side; needs no training.

Every result is written to --out as soon as it is known, and what is written is not done again.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateurs as sc
from secateurs.data import Dataset, DataSpec, InputShape, load_data
from secateurs.durable import write_json
from secateurs.experiments.presets import preset
from secateurs.groups.finding import find_groups
from secateurs.measure.accuracy import accuracy
from secateurs.measure.environment import environment
from secateurs.measure.seconds import side_by_side
from secateurs.models import ModelSpec, build, load_weights
from secateurs.structure.repairing import re_estimate
from secateurs.structure.shrinking import Shrunk
from secateurs.train.loop import train
from secateurs.train.training import Training

HALF = sc.Recipe.parse("l2 row layer sparsity(0.5)")
SPECS = {"mlp": ModelSpec(name="lenet-300-100"), "transformer": ModelSpec.parse("cls-transformer(patch=14)")}
EPOCHS, FINE_TUNE_EPOCHS, BATCH = 5.0, 2.0, 128
BLOCKS = "only=[layer*.*.conv1.weight]"
ARMS = {
    "ours, all channels, model": "l2 channel model macs(0.5)",
    "ours, all channels, layer": "l2 channel layer macs(0.5)",
    "ours, in blocks, model": f"l2 channel model macs(0.5) {BLOCKS}",
    "ours, in blocks, layer": f"l2 channel layer macs(0.5) {BLOCKS}",
    "torch-pruning, in blocks": "",
}
# Not chosen: a tenth of the rate that such networks are trained with, for long enough to settle.
RESNET_TUNING = Training(optimizer="sgd", learning_rate=0.01, weight_decay=5e-4, epochs=15.0, batch_size=128)
CIFAR = DataSpec(source="cifar10.npz", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def training(spec: ModelSpec, epochs: float, is_first: bool) -> Training:
    """The preset's training for so many epochs."""
    found = preset(spec.name).training if is_first else preset(spec.name).fine_tune
    return Training(**{**found.values(), "epochs": epochs, "batch_size": BATCH})


def fitted(module: nn.Module, data: Dataset, how: Training, seed: int) -> dict[str, Any]:
    """Train, then look at the test set once."""
    last = list(train(module, data, how, seed=seed, n_looks=1))[-1]
    test = accuracy(module, data.x_test, data.y_test)
    return {"epochs": how.epochs, "validation": last.validation.values(), "test": test.values()}


def about(small: Shrunk) -> dict[str, Any]:
    """What was asked for and what came."""
    return {"n_parameters": list(small.n_parameters), "macs": [n // 2 for n in small.macs]}  # a batch of 2


def halves(found: dict[str, Any], arguments: argparse.Namespace) -> Any:
    """Each network, seed by seed."""
    data = load_data(DataSpec(source="mnist", directory=str(arguments.data / "mnist")))
    inputs = data.x_val[:2]
    found |= {"recipe": str(HALF), "n_test": len(data.y_test)}
    for name, spec in SPECS.items():
        for seed in arguments.seeds:
            mine = found.setdefault(name, {}).setdefault(str(seed), {})
            if "shrunk" in mine:
                continue
            module = build(spec, data.shape, seed)
            mine["dense"] = fitted(module, data, training(spec, EPOCHS, True), seed)
            small = sc.shrink(module, HALF, inputs)
            mine["cut"] = about(small) | {"test": accuracy(small.module, data.x_test, data.y_test).values()}
            tuned = fitted(small.module, data, training(spec, FINE_TUNE_EPOCHS, False), 1000 + seed)
            before, after = small.macs
            for arm, epochs in (("scratch-E", EPOCHS), ("scratch-B", EPOCHS * before / after)):
                new = sc.shrink(build(spec, data.shape, 500 + seed), HALF, inputs).module
                for layer in new.modules():
                    if isinstance(layer, nn.Linear) and name == "mlp":
                        layer.reset_parameters()  # its own bound follows the number of inputs
                mine[arm] = fitted(new, data, training(spec, epochs, True), 2000 + seed)
            mine["shrunk"] = tuned
            yield f"{name}, seed {seed}: " + ", ".join(f"{k} {v['test']['value']:.4f}" for k, v in mine.items())


def by_torch_pruning(module: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """Its group-norm example pruner, on the channels inside blocks, until half of the multiply-adds are left."""
    import torch_pruning as tp

    inside = [each for name, each in module.named_modules() if name.startswith("layer") and name.endswith("conv1")]
    others = [each for each in module.modules() if isinstance(each, nn.Conv2d | nn.Linear) and each not in inside]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.GroupNormPruner(
            module,
            inputs,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=0.95,
            iterative_steps=200,
            ignored_layers=others,
        )
        dense = find_groups(module, inputs).trace.macs()
        for _ in range(200):
            pruner.step()
            if find_groups(module, inputs).trace.macs() <= 0.5 * dense:
                break
    return module


def resnet(found: dict[str, Any], arguments: argparse.Namespace) -> Any:
    """Each arm, seed by seed; seeds order the images."""
    spec = ModelSpec(name="resnet-20")
    data = load_data(CIFAR.model_copy(update={"source": str(arguments.data / "cifar10" / "cifar10.npz")}))
    order = torch.randperm(len(data.y_test), generator=torch.Generator().manual_seed(0))
    inputs, half = data.x_val[:2], len(order) // 2
    found |= {"training": RESNET_TUNING.values(), "n_test": half}

    def tested(module: nn.Module) -> dict[str, Any]:
        parts = {"first": order[:half], "second": order[half:]}
        return {key: accuracy(module, data.x_test[at], data.y_test[at]).values() for key, at in parts.items()}

    def published() -> nn.Module:
        module = build(spec, data.shape, seed=0)
        load_weights(module, arguments.data / "weights_resnet20_cifar10")
        return module.eval()

    if "dense" not in found:
        found["dense"] = tested(published())
        yield f"dense {found['dense']['second']['value']:.4f}"
    for seed in arguments.seeds:
        for arm, words in ARMS.items():
            mine = found.setdefault(arm, {"recipe": words or "tp.pruner.GroupNormPruner, p=2, global"})
            if str(seed) in mine:
                continue
            module = published()
            small = (
                sc.shrink(module, sc.Recipe.parse(words), inputs).module if words else by_torch_pruning(module, inputs)
            )
            structure = find_groups(small, inputs)
            mine["macs"] = structure.trace.macs() / find_groups(published(), inputs).trace.macs()
            mine["n_parameters"] = structure.n_parameters()
            some = torch.randperm(len(data.x_train), generator=torch.Generator().manual_seed(seed))[:2048]
            re_estimate(small, data.x_train[some].split(256))  # not the first: files may be in the order of classes
            made = {"cut": tested(small)}
            list(train(small, data, RESNET_TUNING, seed=seed, n_looks=1))
            mine[str(seed)] = made | {"tuned": tested(small)}
            cut, tuned = (mine[str(seed)][key]["second"]["value"] for key in ("cut", "tuned"))
            yield f"{arm}, seed {seed}: {mine['macs']:.3f} of the multiply-adds, {cut:.4f} then {tuned:.4f}"


def timed(before: nn.Module, after: nn.Module, inputs: Any) -> dict[str, Any]:
    """Seconds side by side."""

    def run(module: nn.Module) -> Any:
        with torch.no_grad():
            return module(**inputs) if isinstance(inputs, dict) else module(inputs)

    first, second, ratio = side_by_side(lambda: run(before.eval()), lambda: run(after.eval()), n_pairs=100, warmup=10)
    middle = (sorted(times)[len(times) // 2] for times in (first, second))
    return {"seconds": list(middle), "speed_up": ratio.values()}


def time(found: dict[str, Any], arguments: argparse.Namespace) -> Any:
    """Each network at a batch of one and of 64; MiniLM at 1 x 128 tokens."""
    torch.set_num_threads(arguments.threads)
    found |= {"threads": arguments.threads}
    mnist, cifar = images(1, 28), images(3, 32)
    networks = {
        "mlp": (build(SPECS["mlp"], mnist, 0), (1, 28, 28), HALF),
        "transformer": (build(SPECS["transformer"], mnist, 0), (1, 28, 28), HALF),
        "resnet-20": (
            build(ModelSpec(name="resnet-20"), cifar, 0),
            (3, 32, 32),
            sc.Recipe.parse(next(iter(ARMS.values()))),
        ),
    }
    for name, (module, size, recipe) in networks.items():
        if name == "resnet-20":
            load_weights(module, arguments.data / "weights_resnet20_cifar10")
        small = sc.shrink(module, recipe, torch.randn(2, *size))
        for batch in (1, 64):
            key = f"{name}, batch of {batch}"
            found[key] = about(small) | timed(module, small.module, torch.randn(batch, *size))
            yield f"{key}: {found[key]['speed_up']}"
    if arguments.path is not None:
        from transformers import AutoModel

        module = AutoModel.from_pretrained(arguments.path, dtype=torch.float32).eval()
        ids = torch.randint(1000, 20_000, (1, 128), generator=torch.Generator().manual_seed(0))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        heads = sc.Recipe.parse(f"l2 head layer sparsity({4 / 12})")
        small = sc.shrink(sc.shrink(module, HALF, inputs).module, heads, inputs)
        now = find_groups(small.module, inputs)
        found["minilm, 1 x 128"] = {"n_parameters": now.n_parameters(), "macs": now.trace.macs()}
        found["minilm, 1 x 128"] |= timed(module, small.module, inputs)
        yield f"minilm: {found['minilm, 1 x 128']['speed_up']}"


def images(channels: int, side: int) -> Any:
    """Images of ten classes."""
    return InputShape(kind="image", size=(channels, side, side), n_classes=10)


PARTS = {"halves": halves, "resnet": resnet, "time": time}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/structure.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    part = results.setdefault(arguments.part, {})
    command = f"python benchmarks/structure.py {arguments.part} --data DATA"
    part |= {"command": command + (" --path MINILM" if arguments.path else ""), "environment": environment()}
    for said in PARTS[arguments.part](part, arguments):
        write_json(arguments.out, results)
        print(said, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
