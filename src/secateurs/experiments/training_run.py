"""Training run: one network trained by one recipe, in a directory of its own that says everything about it.

run.yaml  recipe.yaml  metrics.jsonl  results.json  model/  masks.safetensors  README.md

A killed run goes on from training.state, in the middle of an epoch, to the same bytes; the state is deleted last.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secateurs.data import Dataset, DataSpec
from secateurs.durable import sync_directory, write_json, write_text
from secateurs.errors import InputError
from secateurs.experiments.measurements import measurements
from secateurs.layers import layers
from secateurs.masks import Masks
from secateurs.measure.accuracy import accuracy
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, Network, save_model
from secateurs.models.files import WEIGHTS_FILE
from secateurs.recipe import Recipe
from secateurs.settings import Settings
from secateurs.train.loop import Look, train
from secateurs.train.training import Training

MARK = "run.yaml"
STATE = "training.state"


class Run(Settings):
    """Everything that a training depends on.

    data_hash      fingerprint of the data, so that other data under the same name are another run
    start_sha256   of the weights that it begins with; None begins with fresh ones, drawn from the seed
    is_held        whether what is zero in those weights stays zero, without a recipe
    teacher_sha256  of the teacher's weights
    n_threads      of torch: another number may give other bits
    """

    model: ModelSpec
    data: DataSpec
    data_hash: str
    training: Training
    recipe: Recipe | None
    is_held: bool = False
    seed: int
    start_sha256: str | None
    teacher_sha256: str | None
    n_looks: int
    n_threads: int


class TrainingRun:
    """The run in its directory; `latest` may be asked from another thread while `go` runs."""

    def __init__(
        self,
        run: Run,
        out: Path,
        data: Dataset,
        module: Network,
        teacher: Network | None,
        masks: Masks | None = None,
    ) -> None:
        self.run = run
        self.out = out
        self.data = data
        self.module = module
        self.teacher = teacher
        self.masks = masks  # that are held
        self.latest: Look | None = None

    def go(self) -> dict[str, Any]:
        """Train from where it stands, measure, write; returns the results. Call it in the locked directory."""
        results, data, out = self.out / "results.json", self.data, self.out
        for left_over in out.glob("model/.*.tmp"):  # of a run that was killed
            left_over.unlink()
        if results.exists():
            found = _results(results)
            (out / STATE).unlink(missing_ok=True)
            return found
        before = {"validation": accuracy(self.module, data.x_val, data.y_val).values()}
        before["test"] = accuracy(self.module, data.x_test, data.y_test).values()
        looks = train(
            self.module,
            data,
            self.run.training,
            seed=self.run.seed,
            recipe=self.run.recipe if self.masks is None else self.masks.recipe,
            masks=self.masks,
            teacher=self.teacher,
            n_looks=self.run.n_looks,
            state_file=out / STATE,
        )
        with measurements(out / "metrics.jsonl") as record:
            for look in looks:
                self.latest = look
                record(_line(look))
        assert self.latest is not None
        found = self._write(self.latest, before)
        (out / STATE).unlink(missing_ok=True)
        sync_directory(out)
        return found

    def _write(self, last: Look, before: Mapping[str, Any]) -> dict[str, Any]:
        """Everything but the metrics; the results last."""
        run, data, out = self.run, self.data, self.out
        save_model(self.module, run.model, data.shape, out / "model", data.about, run.data.tokenizer)
        if last.masks is not None:
            last.masks.save(out / "masks.safetensors")
        recipe = run.recipe
        nothing = f"# Nothing was pruned{'; what was zero stayed zero' if run.is_held else ''}.\n"
        write_text(out / "recipe.yaml", nothing if recipe is None else recipe.to_yaml())
        skip, only = ((), ()) if recipe is None else (recipe.skip, recipe.only)
        prunable = [each for each in layers(self.module, skip, only) if each.is_prunable]
        results = {
            "run": run.values(),
            "environment": environment(),
            "data": {"name": data.name, "source": data.source, "n_train": len(data.y_train)},
            "n_steps": last.n_steps,
            "n_parameters": sum(parameter.numel() for parameter in self.module.parameters()),
            "n_prunable": sum(each.n for each in prunable),
            "n_zero": sum(int((each.parameter == 0).sum()) for each in prunable),
            "size_bytes": (out / "model" / WEIGHTS_FILE).stat().st_size,
            "before": before,
            "validation": accuracy(self.module, data.x_val, data.y_val).values(),
            "test": accuracy(self.module, data.x_test, data.y_test).values(),
            "layers": [asdict(line) for line in last.masks.report] if last.masks else [],
        }
        write_text(out / "README.md", card(results))
        write_json(out / "results.json", results)
        return results


def card(results: Mapping[str, Any]) -> str:
    """The model card: what it is, before and after, how to load it."""
    run, n_zero, n = results["run"], results["n_zero"], results["n_prunable"]
    spec = ModelSpec(**run["model"])
    began = "fresh weights" if run["start_sha256"] is None else "trained weights"
    taught = "" if run["teacher_sha256"] is None else ", taught by another network"

    def shown(accuracy: Mapping[str, float]) -> str:
        return f"{accuracy['value']:.2%} ({accuracy['low']:.2%} to {accuracy['high']:.2%}, n = {accuracy['n']:,})"

    rows = [
        ("test accuracy (95 % interval of the examples)", results["before"]["test"], results["test"]),
        ("validation accuracy", results["before"]["validation"], results["validation"]),
    ]
    table = "\n".join(f"| {what} | {shown(old)} | {shown(new)} |" for what, old, new in rows)
    if run.get("is_held"):
        pruned = "those that it began with"
    elif run["recipe"] is None:
        pruned = "nothing was pruned here"
    else:
        pruned = f"by the recipe `{Recipe(**run['recipe'])}`"
    return f"""\
# {spec}

Trained from {began}{taught}, for {run["training"]["epochs"]:g} epochs with seed {run["seed"]}; one training, so the
intervals say nothing of other seeds. Data: {results["data"]["source"].rstrip(".")}.

| | before | after |
| --- | ---: | ---: |
{table}

- Zeros: {n_zero:,} of the {n:,} prunable weights ({n_zero / n if n else 0:.2%}), {pruned}. They are
  stored like all others: `model/model.safetensors` takes {results["size_bytes"]:,} bytes with them, and runs no faster.
- How it was trained, to the last setting: `run.yaml`. Every measurement on the way: `metrics.jsonl`. Everything above
  as data: `results.json`.

```python
from secateurs.models import load_model

network, config = load_model("model")
```
"""


def _line(look: Look) -> dict[str, Any]:
    return {
        "step": look.step,
        "n_steps": look.n_steps,
        "epoch": look.epoch,
        "loss": look.loss,
        "accuracy": look.validation.value,
        "n": look.validation.n,
        "sparsity": look.sparsity,
        "learning_rate": look.learning_rate,
    }


def _results(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}). Delete it, and the run goes on.") from error
    return found
