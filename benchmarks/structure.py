"""Structure: what removed units cost in accuracy and give in time.

    python benchmarks/structure.py halves --data DATA [--seeds 0 1 2]
    python benchmarks/structure.py resnet --data DATA [--seeds 0]
    python benchmarks/structure.py minilm --data DATA --path MINILM [--seeds 0 1 2] [--epochs 8] [--dense runs/minilm]
    python benchmarks/structure.py graphs --data DATA
    python benchmarks/structure.py time --data DATA [--path MINILM] [--threads 2]

halves  LeNet-300-100 without half of its hidden units, and a CLS transformer without half of its FFN units, on
        DATA/mnist/mnist.npz: the dense network; the same trained on like the cut one ("dense on"); cut; cut and
        fine-tuned ("shrunk"); and the controls of Liu et al. 2019 (arXiv:1810.05270), the small network from new
        weights, for as many epochs as the dense one (scratch-E) and for as much computation (scratch-B). Rates are
        those of the presets, which were chosen on validation data.
resnet  ResNet-20 from its published weights at half its multiply-adds, by our shrink and repair and by torch-pruning's
        example pruner, BatchNorm's statistics re-estimated and each fine-tuned alike on 8,000 training images of
        DATA/cifar10. torch-pruning cannot follow zero-padded shortcuts, so it is given what it can cut: the channels
        inside the blocks. Beside it stand our cuts of the same channels, and one of all channels. The score of
        pool=model was chosen when cut and repaired, on the 2,000 validation images, of seed 100: magnitude 78.7 %
        right, l2 77.5, activation 70.0, taylor 68.8, batch_norm 60.0. The test set is looked at once cut and once
        tuned; no arm is chosen by it, all are reported.
minilm  all-MiniLM-L6-v2 with a CLS head on DATA/banking77, taught as in minilm_banking77.py; then without half of its
        FFN units and a third of its heads (Taylor scores on training queries, least-squares repair), fine-tuned with
        the dense network as its teacher. The dense networks are those that minilm_banking77.py keeps in --dense.
        What is cut is saved and loaded again, and its outputs compared.
graphs  the small networks of the tests, half of the units of every layer dead (all weights zero): removed by shrink and
        by torch-pruning's magnitude pruner, which is told the same layers. No output may change. Needs no training.
time    seconds of a batch before and after, side by side; needs no training.

Every result is written to --out as soon as it is known, and what is written is not done again; a training that was
killed goes on from its last epoch, in --work.
"""

import argparse
import copy
import dataclasses
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
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
from secateurs.models import ModelSpec, build, load_model, load_weights, save_model
from secateurs.structure.dead import zero
from secateurs.structure.repairing import re_estimate, repair
from secateurs.structure.shrinking import Shrunk, outputs_of
from secateurs.train.loop import train
from secateurs.train.training import Training

HALF = sc.Recipe.parse("l2 row layer sparsity(0.5)")
SPECS = {"mlp": ModelSpec(name="lenet-300-100"), "transformer": ModelSpec.parse("cls-transformer(patch=14)")}
EPOCHS, FINE_TUNE_EPOCHS, BATCH = 5.0, 2.0, 128
HALVES_ARMS = ("dense", "dense on", "cut", "shrunk", "scratch-E", "scratch-B")
IN_BLOCKS = "only=[layer*.*.conv1.weight]"
RESNET_ARMS = {
    "torch-pruning, in blocks": "",
    "ours, in blocks, layer": f"l2 channel layer macs(0.5) {IN_BLOCKS}",
    "ours, in blocks, model": f"magnitude channel model macs(0.5) {IN_BLOCKS}",
    "ours, in blocks, model, not repaired": f"magnitude channel model macs(0.5) {IN_BLOCKS}",
    "ours, all channels, layer": "l2 channel layer macs(0.5)",
}
# Not chosen: a tenth of the rate that such networks are trained with, and the moves they are trained with.
RESNET_TUNING = Training(
    optimizer="sgd", learning_rate=0.01, weight_decay=5e-4, epochs=6.0, batch_size=128, shift=4, flip=True
)
MINILM_CUT = [
    sc.Recipe.parse(f"taylor {words}") for words in ("row layer sparsity(0.5)", f"head layer sparsity({1 / 3})")
]
CIFAR = DataSpec(source="cifar10.npz", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def training(spec: ModelSpec, epochs: float, is_first: bool) -> Training:
    """The preset's training for so many epochs."""
    found = preset(spec.name).training if is_first else preset(spec.name).fine_tune
    return Training(**{**found.values(), "epochs": epochs, "batch_size": BATCH})


def fitted(
    module: nn.Module, data: Dataset, how: Training, seed: int, state: Path, teacher: nn.Module | None = None
) -> dict[str, Any]:
    """Train, from where a killed run was at its last epoch, then look at the test set once."""
    n_looks = max(1, round(how.epochs))
    last = list(train(module, data, how, seed=seed, n_looks=n_looks, state_file=state, teacher=teacher))[-1]
    test = accuracy(module, data.x_test, data.y_test)
    return {"epochs": how.epochs, "validation": last.validation.values(), "test": test.values()}


def about(small: Shrunk) -> dict[str, Any]:
    """What was asked for and what came."""
    return {"n_parameters": list(small.n_parameters), "macs": [n // 2 for n in small.macs]}  # a batch of 2


def halves(found: dict[str, Any], arguments: argparse.Namespace) -> Any:
    """Each network, seed by seed, arm by arm."""
    data = load_data(DataSpec(source="mnist", directory=str(arguments.data / "mnist")))
    inputs = data.x_val[:2]
    found |= {"recipe": str(HALF), "n_test": len(data.y_test)}
    for name, spec in SPECS.items():
        for seed in arguments.seeds:
            mine = found.setdefault(name, {}).setdefault(str(seed), {})
            dense = arguments.work / f"{name}-{seed}"
            for arm in HALVES_ARMS:
                if arm in mine:
                    continue
                state = arguments.work / f"{name}-{seed}-{arm}.state"
                if arm == "dense":
                    module, epochs = build(spec, data.shape, seed), EPOCHS
                    mine[arm] = fitted(module, data, training(spec, epochs, True), seed, state)
                    save_model(module, spec, data.shape, dense)
                elif arm in ("dense on", "cut", "shrunk"):
                    module, _ = load_model(dense)
                    if arm != "dense on":
                        small = sc.shrink(module, HALF, inputs)
                        module = small.module
                    if arm == "cut":
                        test = accuracy(module, data.x_test, data.y_test)
                        mine[arm] = about(small) | {"test": test.values()}
                    else:
                        how = training(spec, FINE_TUNE_EPOCHS, False)
                        mine[arm] = fitted(module, data, how, 1000 + seed, state)
                else:
                    small = sc.shrink(build(spec, data.shape, 500 + seed), HALF, inputs)
                    for layer in small.module.modules():
                        if isinstance(layer, nn.Linear) and name == "mlp":
                            layer.reset_parameters()  # its own bound follows the number of inputs
                    before, after = small.macs
                    epochs = EPOCHS * before / after if arm == "scratch-B" else EPOCHS
                    mine[arm] = fitted(small.module, data, training(spec, epochs, True), 2000 + seed, state)
                yield f"{name}, seed {seed}, {arm}: {mine[arm]['test']['value']:.4f}"
                state.unlink(missing_ok=True)


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
    """Each arm, seed by seed; seeds draw the calibration images, and order and move the training's."""
    spec = ModelSpec(name="resnet-20")
    data = load_data(CIFAR.model_copy(update={"source": str(arguments.data / "cifar10" / "cifar10.npz")}))
    inputs = data.x_val[:2]
    found |= {"training": RESNET_TUNING.values(), "n_test": len(data.y_test)}

    def published() -> nn.Module:
        module = build(spec, data.shape, seed=0)
        load_weights(module, arguments.data / "weights_resnet20_cifar10")
        return module.eval()

    def on(part: str, module: nn.Module) -> dict[str, Any]:
        return accuracy(module, getattr(data, f"x_{part}"), getattr(data, f"y_{part}")).values()

    if "dense" not in found:
        found["dense"] = {"test": on("test", published()), "macs": find_groups(published(), inputs).trace.macs() // 2}
        yield f"dense {found['dense']['test']['value']:.4f}"
    for seed in arguments.seeds:
        some = torch.randperm(len(data.x_train), generator=torch.Generator().manual_seed(seed))[:2048]
        batches = data.x_train[some].split(256)  # not the first: files may be in the order of classes
        for arm, words in RESNET_ARMS.items():
            mine = found.setdefault(arm, {}).setdefault(str(seed), {})
            state = arguments.work / f"resnet-{seed}-{arm}.state"
            if "tuned" in mine:
                continue
            mine["by"] = words or "tp.pruner.GroupNormPruner, p=2, global"
            if words:
                small = sc.shrink(published(), sc.Recipe.parse(words), inputs, calibration=batches)
                if not arm.endswith("not repaired"):
                    repair(published(), small, batches[:2])  # 512 images show each filter half a million places
                module = small.module
            else:
                module = by_torch_pruning(published(), inputs)
            re_estimate(module, batches)
            structure = find_groups(module, inputs)
            mine["cut"] = {"validation": on("val", module), "test": on("test", module)}
            mine |= {"macs": structure.trace.macs() // 2, "n_parameters": structure.n_parameters()}
            yield f"{arm}, seed {seed}: {mine['macs']:,} multiply-adds, cut {mine['cut']['test']['value']:.4f}"
            mine["tuned"] = fitted(module, data, RESNET_TUNING, seed, state)
            yield f"{arm}, seed {seed}: {mine['tuned']['test']['value']:.4f} when tuned"
            state.unlink(missing_ok=True)


def minilm(found: dict[str, Any], arguments: argparse.Namespace) -> Any:
    """Seed by seed: dense, cut, shrunk."""
    import minilm_banking77 as on_banking77

    source, tokenizer = str(arguments.data / "banking77"), str(arguments.path)
    data = load_data(DataSpec(source=source, tokenizer=tokenizer, max_length=on_banking77.MAX_LENGTH))
    how = on_banking77.Arm(arguments.epochs, rate=on_banking77.PRUNED_RATE).training(on_banking77.DISTILL)
    found |= {"recipes": list(map(str, MINILM_CUT)), "training": how.values(), "n_test": len(data.y_test)}
    for seed in arguments.seeds:
        mine = found.setdefault(str(seed), {})
        if "shrunk" in mine:
            continue
        keep = arguments.dense
        dense = on_banking77.run("dense", seed, arguments.path, data, keep)
        right = dense["is_right"]
        mine["dense"] = {"validation": dense["validation"], "test": {"value": sum(right) / len(right)}}
        yield f"minilm, seed {seed}, dense: {mine['dense']['test']['value']:.4f}"
        teacher = on_banking77.trained("dense", seed, arguments.path, data, keep)
        module, small = without(teacher, data, seed)
        mine["cut"] = about(small) | {"validation": accuracy(module, data.x_val, data.y_val).values()}
        yield f"minilm, seed {seed}, cut, on validation data: {mine['cut']['validation']['value']:.4f}"
        state = arguments.work / f"minilm-{seed}.state"
        mine["shrunk"] = fitted(module, data, how, seed, state, teacher)
        folder = arguments.work / f"minilm-{seed}"
        sc.save_shrunk(dataclasses.replace(small, module=module.encoder), folder)
        ids = data.x_test[:8]
        inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        fresh = on_banking77.load(arguments.path, data, seed).encoder  # without a pooler, as it was
        pair = (module.encoder, sc.load_shrunk(folder, into=fresh))
        first, again = (each.eval()(**inputs).last_hidden_state for each in pair)
        mine["shrunk"]["is_same_when_loaded"] = torch.equal(first, again)
        yield f"minilm, seed {seed}, shrunk: {mine['shrunk']['test']['value']:.4f}"
        state.unlink(missing_ok=True)


def without(teacher: Any, data: Dataset, seed: int) -> tuple[Any, Shrunk]:
    """A copy of the classifier with less of its encoder, repaired, and what was cut."""
    some = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(seed))[:256]
    batches = []
    for x, y in zip(data.x_train[some].split(64), data.y_train[some].split(64), strict=True):
        ids = x[:, : int((x != 0).sum(1).max())]
        batches.append(({"input_ids": ids, "attention_mask": (ids != 0).long()}, y))

    def loss(encoder: nn.Module, batch: Any) -> torch.Tensor:
        logits = teacher.head(encoder(**batch[0]).last_hidden_state[:, 0])
        return nn.functional.cross_entropy(logits, batch[1])

    module, inputs = copy.deepcopy(teacher), {key: x[:2] for key, x in batches[0][0].items()}
    before = None
    for recipe in MINILM_CUT:
        small = sc.shrink(module.encoder, recipe, inputs, calibration=batches, loss=loss)
        repair(module.encoder, small, [x for x, _ in batches])
        module.encoder = small.module
        before = before or small
    both = {key: (getattr(before, key)[0], getattr(small, key)[1]) for key in ("n_parameters", "macs")}
    return module, dataclasses.replace(small, **both)


def timed(before: nn.Module, after: nn.Module, inputs: Any) -> dict[str, Any]:
    """Seconds side by side."""

    def run(module: nn.Module) -> Any:
        with torch.no_grad():
            return module(**inputs) if isinstance(inputs, dict) else module(inputs)

    first, second, ratio = side_by_side(lambda: run(before.eval()), lambda: run(after.eval()), n_pairs=100, warmup=10)
    middle = (sorted(times)[len(times) // 2] for times in (first, second))
    speed_up = {"ratio": ratio.mean, "low": ratio.low, "high": ratio.high, "n": ratio.n}
    return {"seconds": list(middle), "speed_up": speed_up}


def graphs(found: dict[str, Any], _: argparse.Namespace) -> Any:
    """Each network of tests/unit/structure/architectures.py, with half of the units of every layer dead."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "structure"))
    import torch_pruning
    from architectures import ALL, settle

    found["version"] = torch_pruning.__version__
    networks = found.setdefault("networks", {})
    for name, make in ALL.items():
        if name in networks:
            continue
        module, inputs = make()
        structure = find_groups(settle(module), inputs)
        groups = [group for group in structure.groups if group.kind != "head"]
        for group in groups:
            zero(module, structure, group, np.arange(group.n_units) % 2 == 1)
        wanted = outputs_of(module, inputs)[0]
        ours = verdict(wanted, module, inputs, groups, lambda m, x, _: sc.shrink(m, HALF, x).module)
        networks[name] = {"ours": ours, "torch-pruning": verdict(wanted, module, inputs, groups, their_half)}
        yield f"{name}: {networks[name]}"


def their_half(module: nn.Module, inputs: Any, groups: Any) -> nn.Module:
    """torch-pruning's magnitude pruner at half, on the layers that make these groups."""
    import torch_pruning as tp

    if hasattr(module, "config"):
        module.config.use_cache = False  # it cannot follow outputs without gradients
    makers = {each.tensor.rpartition(".")[0] for group in groups for each in group.slices if not each.is_consumed}
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    ignored = [each for name, each in module.named_modules() if isinstance(each, kinds) and name not in makers]
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    pruner = tp.pruner.BasePruner(module, inputs, importance, pruning_ratio=0.5, ignored_layers=ignored)
    pruner.step()
    return module


def verdict(wanted: torch.Tensor, module: nn.Module, inputs: Any, groups: Any, by: Any) -> str:
    """What became of the dead units, in a few words."""
    try:
        small = by(copy.deepcopy(module), inputs, groups)
        found = outputs_of(small, inputs)[0]
    except Exception as error:  # whatever it is, is the result
        return f"fails: {type(error).__name__}: {str(error).splitlines()[0][:90]}"
    shapes = {name: tuple(each.shape) for name, each in small.named_parameters()}
    n = sum(
        any(shapes[each.tensor][each.dim] < len(each.units) for each in group.slices if each.tensor in shapes)
        for group in groups
    )
    if found.shape != wanted.shape:
        return f"runs, but its output is {tuple(found.shape)} in place of {tuple(wanted.shape)}"
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    said = "the same outputs" if difference < 1e-4 else f"other outputs (by {difference:.0%} of the largest)"
    return f"{n} of {len(groups)} sets cut, {said}"


def time(found: dict[str, Any], arguments: argparse.Namespace) -> Any:
    """Each network at a batch of one and of 64; MiniLM at 1 x 128 tokens."""
    torch.set_num_threads(arguments.threads)
    found |= {"threads": arguments.threads}
    mnist, cifar = images(1, 28), images(3, 32)
    networks = {
        "mlp": (build(SPECS["mlp"], mnist, 0), (1, 28, 28), HALF),
        "transformer": (build(SPECS["transformer"], mnist, 0), (1, 28, 28), HALF),
    }
    for arm in ("in blocks, model", "in blocks, layer", "all channels, layer"):  # of the table of accuracies
        network, how = build(ModelSpec(name="resnet-20"), cifar, 0), sc.Recipe.parse(RESNET_ARMS[f"ours, {arm}"])
        networks[f"resnet-20, {arm}"] = network, (3, 32, 32), how
    for name, (module, size, recipe) in networks.items():
        if name.startswith("resnet-20"):
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
        half = sc.shrink(module, HALF, inputs)
        both = sc.shrink(half.module, sc.Recipe.parse(f"l2 head layer sparsity({1 / 3})"), inputs)
        for key, small in (("half of its FFN", half), ("half of its FFN, a third of its heads", both)):
            key = f"minilm without {key}, 1 x 128"
            macs = [half.macs[0], small.macs[1]]
            found[key] = {"n_parameters": [half.n_parameters[0], small.n_parameters[1]], "macs": macs}
            found[key] |= timed(module, small.module, inputs)
            yield f"{key}: {found[key]['speed_up']}"


def images(channels: int, side: int) -> Any:
    """Images of ten classes."""
    return InputShape(kind="image", size=(channels, side, side), n_classes=10)


PARTS = {"halves": halves, "resnet": resnet, "minilm": minilm, "graphs": graphs, "time": time}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--dense", type=Path, default=Path("runs/minilm"))
    parser.add_argument("--work", type=Path, default=Path("runs/structure"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/structure.json"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
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
