"""Perform: what one cell does: build or load, train or prune once, look, measure, write; the result last.

A killed training goes on from its last look, in the middle of an epoch, to the same bytes."""

import copy
import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from secateurs.budgets import per_layer, threshold, top
from secateurs.data import Dataset
from secateurs.data.splits import in_proportion
from secateurs.durable import make_directory, sync_directory, write_bytes, write_json
from secateurs.errors import CollapseWarning, InputError
from secateurs.experiments.cells import Cell, data_of
from secateurs.experiments.measurements import measurements
from secateurs.layers import layers, named_parameters
from secateurs.locks import held
from secateurs.masks import Masks, sigma_of
from secateurs.measure.accuracy import accuracy
from secateurs.measure.environment import environment
from secateurs.models import Network, save_model
from secateurs.models.files import SCHEMA, ModelConfig
from secateurs.pruning import prune
from secateurs.quantizing import quantize
from secateurs.recipe import Recipe, with_words
from secateurs.repair import repair
from secateurs.see import stats
from secateurs.structure.files import save_shrunk, save_trained
from secateurs.structure.shrinking import Shrunk, shrink
from secateurs.train.batch_norm import measure_batch_norm
from secateurs.train.distillation import answers_of
from secateurs.train.loop import Look, train

# Where a sweep measures: tau in sigmas of each layer, all on edges of its grid, and absolute.
SIGMA_TAUS = tuple(k / 20 for k in (*range(0, 14, 2), *range(14, 26), *range(26, 41, 2), 50, 60))
ABSOLUTE_TAUS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
N_QUICK, N_GLANCE = 2000, 200  # validation examples for looks and sweeps; for looks at one of many candidates
N_EXAMPLES = 2  # that show a network's structure before units are removed
N_CALIBRATION = 1000  # training examples for what is done after a cut
FILM_STEP = 0.1  # of a layer's sigma before the training


def perform(cell: Cell, directory: Path) -> Cell:
    """Run the cell in this process, on one thread, unless it is complete; returns it when its result is durable."""
    torch.set_num_threads(1)
    here = cell.directory(directory)
    make_directory(here)
    # A killed run may have left a process that still writes this cell: wait for it, and take what it wrote.
    with held(here / ".lock", is_waiting=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # the result names the layers, and whoever reads it says so
        if cell.result(directory) is None:
            # A result of another environment must not vouch for the weights that are written now.
            (here / "result.json").unlink(missing_ok=True)
            sync_directory(here)
            _perform(cell, directory, here)
    return cell


def _perform(cell: Cell, directory: Path, here: Path) -> None:
    for left_over in (*here.glob(".*.tmp"), *here.glob("answers-*")):  # of a run that was killed, of other bits
        left_over.unlink()
    data = data_of(cell)
    module, shrunk = cell.begin(directory), None
    for recipe in cell.shrink:
        shrunk = shrink(module, recipe, data.x_train[:N_EXAMPLES])
        assert isinstance(shrunk.module, Network)
        module = shrunk.module
    teacher = _teacher(cell, data, directory)
    given = _given_masks(cell, directory)
    put_channels_last(module)
    names = [layer.name for layer in layers(module, cell.skip, cell.only) if layer.is_prunable]
    shown = [*names, *(name for name in module.tracked.values() if name not in names)]
    quick = _quick(data, N_QUICK if cell.is_tested else N_GLANCE)
    film = []
    steps = {name: FILM_STEP * sigma_of(named_parameters(module)[name]) or 1.0 for name in shown}
    masks: Masks | None = None
    state = None if cell.is_story else _state_file(here)  # a film is kept in memory: it begins anew
    with measurements(here / "metrics.jsonl") as record:
        for look in _looks(cell, module, data, quick, given, teacher, state):
            masks, line = look.masks, _line(look)
            record({"cell": cell.hash, **line})
            if cell.is_story and look.n_steps:
                weights = {name: named_parameters(module)[name].detach().float().numpy() for name in shown}
                film.append({**line, "layers": {name: stats.grid(w, steps[name]) for name, w in weights.items()}})
        sweep = _sweep(module, quick, cell.skip, cell.only) if cell.is_story else {}
        found = {"validation": accuracy(module, data.x_val, data.y_val).values()}
        if cell.is_tested:
            found["test"] = accuracy(module, data.x_test, data.y_test).values()
        record({"cell": cell.hash, "sweep": sweep, **found})
    _save(cell, module, shrunk, data, directory)
    if masks is not None:
        masks.save(here / "masks.safetensors")
    if cell.is_story:
        write_json(here / "film.json", film)
        write_json(here / "sweep.json", sweep)
    weights_now = [named_parameters(module)[name] for name in names]
    report = () if masks is None else masks.report
    result = {
        "cell": cell.values(),
        "environment": environment(),
        "n_steps": cell.training.n_steps(len(data.y_train)),
        "n_prunable": sum(weight.numel() for weight in weights_now),
        "n_zero": sum(int((weight == 0).sum()) for weight in weights_now),
        **found,
        "layers": names,
        "collapsed": [line.name for line in report if line.n_pruned == line.n > 0],
        "taus": {line.name: line.tau for line in report if line.tau is not None},
    }
    for old in here.glob("*.state"):
        old.unlink()
    sync_directory(here)
    write_json(here / "result.json", result)


def _save(cell: Cell, module: Network, shrunk: Shrunk | None, data: Dataset, directory: Path) -> None:
    """The network, with what is needed to build it again."""
    here = cell.directory(directory)
    if not cell.is_shrunk:
        save_model(module, cell.model, data.shape, here, data.about, cell.data.tokenizer)
    elif shrunk is None:
        assert cell.start is not None
        save_trained(module, cell.start.directory(directory), here)
    else:
        original = ModelConfig(
            schema=SCHEMA,
            model=cell.model,
            shape=data.shape,
            n_parameters=sum(parameter.numel() for parameter in module.parameters()),
            about=data.about,
            stock=getattr(module, "stock", None),
        )
        save_shrunk(shrunk, here, original)


def _state_file(here: Path) -> Path:
    """Where a killed training goes on; another machine's or version's state has another name, and is not taken."""
    where = json.dumps({**environment(), "cores": 0}, sort_keys=True)
    return here / f"{hashlib.sha256(where.encode()).hexdigest()[:16]}.state"


def put_channels_last(module: nn.Module) -> None:
    """Store convolution weights so that a training step takes half the time on a CPU; values and names stay."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _quick(data: Dataset, most: int) -> tuple[Tensor, Tensor]:
    """The part of the validation split that is looked at often, classes in proportion."""
    picked = in_proportion(data.y_val, most)
    return data.x_val[picked], data.y_val[picked]


def _given_masks(cell: Cell, directory: Path) -> Masks | None:
    """The masks that another cell's final weights give, chosen among what lives there."""
    if cell.masks is None or cell.recipe is None:
        return None
    there = cell.masks.directory(directory) / "masks.safetensors"
    among = Masks.load(there) if there.exists() else None
    module = cell.masks.load(directory)
    masks = Masks.make(module, cell.recipe, among=among)
    if not cell.is_shuffled:
        return masks
    size = {layer.name: math.prod(cell.recipe.unit.piece(layer.seen)) for layer in layers(module)}
    n_kept = {name: int(keep.count_nonzero()) // size[name] for name, keep in masks.items()}
    budget = per_layer({name: top(n) for name, n in n_kept.items()})
    shuffled = with_words(cell.recipe, score=f"random(seed={cell.seed})", pool="layer", budget=budget, min_keep=0)
    return Masks.make(module, shuffled)


def _teacher(cell: Cell, data: Dataset, directory: Path) -> nn.Module | Tensor | None:
    """What the training learns from; answers are given once, for all cells of the same teacher, and kept beside it."""
    distill = cell.training.distill
    if cell.teacher is None or distill is None:
        return None
    if not distill.is_of_answers or cell.training.is_moving:
        return cell.teacher.load(directory)
    there = cell.teacher.directory(directory)
    kept = there / f"answers-{data.fingerprint[-16:]}.safetensors"
    with held(there / ".answers.lock", is_waiting=True):
        if not kept.exists():
            write_bytes(kept, to_bytes({"answers": answers_of(cell.teacher.load(directory), data.x_train)}))
    try:
        return load_file(kept)["answers"]
    except (SafetensorError, KeyError, OSError) as error:
        raise InputError(f"{kept} is damaged ({error}). Delete it, and the teacher answers again.") from error


def _looks(
    cell: Cell,
    module: nn.Module,
    data: Dataset,
    quick: tuple[Tensor, Tensor],
    given: Masks | None,
    teacher: nn.Module | Tensor | None,
    state_file: Path | None,
) -> Iterator[Look]:
    """The training; a cell that trains nothing is pruned once, recovers, takes its values, and is looked at."""
    if cell.training.epochs:
        yield from train(
            module,
            data,
            cell.training,
            seed=cell.seed,
            recipe=cell.recipe,
            masks=given,
            teacher=teacher,
            n_looks=cell.n_looks,
            validation=quick,
            state_file=state_file,
        )
        return
    dense = copy.deepcopy(module) if "repair" in cell.recover else module
    masks = given or (prune(module, cell.recipe) if cell.recipe else None)
    if given is not None:
        given.apply(module)
    for how in cell.recover:
        assert masks is not None
        examples = data.x_train[in_proportion(data.y_train, N_CALIBRATION)]
        repair(module, masks, dense, examples) if how == "repair" else measure_batch_norm(module, examples)
    quantize(module, cell.training.quantize)
    yield Look(0, 0, 0.0, None, accuracy(module, *quick), masks, 0.0)


def _line(look: Look) -> dict[str, Any]:
    return {
        "step": look.step,
        "n_steps": look.n_steps,
        "epoch": look.epoch,
        "loss": look.loss,
        "accuracy": look.validation.value,
        "validation_loss": look.validation.loss,
        "n": look.validation.n,
        "sparsity": look.sparsity,
        "learning_rate": look.learning_rate,
    }


def _sweep(
    module: Network, quick: tuple[Tensor, Tensor], skip: tuple[str, ...], only: tuple[str, ...]
) -> dict[str, list[dict[str, float]]]:
    """Validation accuracy when the network as it is now is cut at many taus, each cut made by `prune`."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    points: dict[str, list[dict[str, float]]] = {"sigma": [], "absolute": []}
    for unit, taus in (("sigma", SIGMA_TAUS), ("absolute", ABSOLUTE_TAUS)):
        for tau in taus:
            budget = threshold(f"{tau}sigma" if unit == "sigma" else tau)
            masks = prune(module, Recipe(budget=budget, skip=skip, only=only))
            measured = accuracy(module, *quick)
            points[unit].append({"tau": tau, "sparsity": masks.sparsity, "accuracy": measured.value, "n": measured.n})
            module.load_state_dict(before)
    return points
