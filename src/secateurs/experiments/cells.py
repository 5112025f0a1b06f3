"""Cells: the smallest piece of an experiment, one network trained or pruned once; a run is made of cells.

    run(cells, directory, perform)  ->  {cell: its result}

A cell is deterministic and named by the hash of what it is, never by a time. Its result is written last, after its
weights are durable, so a cell that has a result is complete and is never run twice; a killed run goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import joblib
from pydantic import BeforeValidator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import nn

from secateurs.data import Dataset, DataSpec, load_data
from secateurs.data.shape import as_tuple
from secateurs.durable import make_directory, write_bytes
from secateurs.errors import InputError, RecipeError
from secateurs.measure.environment import environment
from secateurs.models import ModelSpec, Network, build, load_model, load_weights, trim_vocabulary
from secateurs.recipe import Patterns, Recipe
from secateurs.settings import Settings
from secateurs.structure.files import load_shrunk
from secateurs.train.training import Training

Recovery = Literal["batch_norm", "repair"]


class Cell(Settings):
    """One network, from its first weights or from another cell's last, trained by one recipe with one seed.

    data_hash    fingerprint of the data, so that other data under the same name is another cell
    start        the cell whose final weights this one begins with; None begins with fresh ones
    weights      sha256 of the weights that this one begins with, kept in the run's directory by `keep_weights`
    is_trimmed   whether tokens that the training data lack lose their embeddings first (pretrained networks)
    shrink       recipes by which units are removed from the first weights for real, one after the other
    masks        the cell from whose final weights the recipe chooses the masks, all at once, and among what lives
                 there; they are laid on this cell's first weights and held. None: the recipe sees this cell's own
    is_shuffled  with masks: as many units of each layer live as they say, at random places
    teacher      the cell whose network `training.distill` learns from
    recover      what is done, in order, to a network that was pruned without training: "batch_norm" measures the
                 statistics of its normalisations anew, "repair" fits the weights that are left to the outputs of the
                 network before the cut, layer by layer; both on training examples
    skip, only   which layers count as prunable, whether or not this cell prunes
    n_looks      how often the training is looked at
    is_story     also records the film of the weights and the accuracy at many taus
    is_tested    whether it answers the test examples; a search leaves them unseen until it has chosen

    A ticket is masks of a trained cell on the `start` it was trained from; its controls differ in `start`, or are
    shuffled. Training from scratch has masks and no start.
    """

    model: ModelSpec
    data: DataSpec
    data_hash: str
    training: Training
    recipe: Recipe | None = None
    seed: int
    start: "Cell | None" = None
    weights: str | None = None
    is_trimmed: bool = False
    shrink: Annotated[tuple[Recipe, ...], BeforeValidator(as_tuple)] = ()
    masks: "Cell | None" = None
    is_shuffled: bool = False
    teacher: "Cell | None" = None
    recover: Annotated[tuple[Recovery, ...], BeforeValidator(as_tuple)] = ()
    skip: Patterns = ()
    only: Patterns = ()
    n_looks: int = 2
    is_story: bool = False
    is_tested: bool = True

    def model_post_init(self, context: Any) -> None:
        """Parts that need each other."""
        if self.start is not None and self.weights is not None:
            raise RecipeError("start and weights both say how a cell begins; give one.")
        if self.masks is not None and self.recipe is None:
            raise RecipeError("masks are chosen by a recipe; give one.")
        if self.is_shuffled and self.masks is None:
            raise RecipeError("is_shuffled shuffles the masks of another cell; give masks.")
        if (self.teacher is None) != (self.training.distill is None):
            raise RecipeError("teacher and training.distill go together; give both or neither.")
        if self.recover and (self.training.epochs or self.recipe is None):
            raise RecipeError("recover follows a cut without training: give a recipe, and a training of 0 epochs.")

    def __hash__(self) -> int:
        return hash(self.hash)

    @cached_property
    def hash(self) -> str:
        """16 hex digits, as every value of settings has; kept, because a cell may hold a chain of cells."""
        return super().hash

    @property
    def needs(self) -> "tuple[Cell, ...]":
        """The cells that must be complete before this one can run."""
        return tuple(cell for cell in (self.start, self.masks, self.teacher) if cell is not None)

    def directory(self, run: Path) -> Path:
        """Where everything about this cell lies."""
        return run / "cells" / self.hash

    def result(self, run: Path) -> dict[str, Any] | None:
        """What `perform` wrote, or None where it is not complete or was made by other versions or another CPU."""
        path = self.directory(run) / "result.json"
        try:
            result: dict[str, Any] = json.loads(path.read_text("utf-8"))
            there = result["environment"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}). Delete it, and the cell runs again.") from error
        return result if same_environment(there, environment()) else None

    @property
    def is_shrunk(self) -> bool:
        """Whether units were removed from this network for real."""
        return bool(self.shrink) or (self.start is not None and self.start.is_shrunk)

    def load(self, run: Path) -> Network:
        """The network as this cell left it."""
        if not self.is_shrunk:
            return load_model(self.directory(run))[0].train()
        small = load_shrunk(self.directory(run)).train()
        assert isinstance(small, Network)
        return small

    def begin(self, run: Path) -> Network:
        """The network with this cell's first weights, before any unit is removed."""
        data = data_of(self)
        if self.start is not None:
            module = self.start.load(run)
        elif self.weights is not None:
            file = _weights_file(run, self.weights)
            module = build(self.model, data.shape, self.seed, stock=_stock_of(file))
            load_weights(module, file)
        else:
            module = build(self.model, data.shape, self.seed)
        if self.is_trimmed:
            assert data.unknown is not None
            module = trim_vocabulary(module, data.x_train, data.unknown)
        return module


def stored_weights(module: nn.Module) -> tuple[str, bytes]:
    """(the name by which a cell begins with these weights, the bytes to keep): the same however they were stored.

    With them the configuration of a pretrained network's encoder: the directory that it was published in may be gone.
    """
    stock = getattr(module, "stock", None)
    about = None if stock is None else {"stock": json.dumps(stock, sort_keys=True)}
    tensors = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
    return hashlib.sha256(to_bytes(tensors)).hexdigest(), to_bytes(tensors, about)


def keep_weights(name: str, content: bytes, run: Path) -> None:
    """Put what `stored_weights` gave into the run's directory."""
    if not _weights_file(run, name).exists():
        make_directory(run / "weights")
        write_bytes(_weights_file(run, name), content)


def _stock_of(file: Path) -> dict[str, Any] | None:
    """The encoder's configuration that `stored_weights` put there; None where there is none, or no file to read."""
    try:
        with safe_open(str(file), framework="np") as weights:
            about = weights.metadata() or {}
    except (SafetensorError, OSError):  # which `load_weights` tells of
        return None
    return json.loads(about["stock"]) if "stock" in about else None


def _weights_file(run: Path, name: str) -> Path:
    return run / "weights" / f"{name}.safetensors"


def run(
    cells: Iterable[Cell],
    directory: Path,
    perform: Callable[[Cell, Path], Cell],
    *,
    n_jobs: int,
    listen: Callable[[Cell], None] = lambda cell: None,
) -> dict[Cell, dict[str, Any]]:
    """Perform the cells that have no result yet, each after those it needs; all their results.

    n_jobs  processes at a time, of joblib's backend: this machine's, or what `backends.connected` says
    listen  called here, in the caller's process, when a cell is complete
    """
    wanted = with_needs(cells)
    results = {cell: result for cell in wanted if (result := cell.result(directory)) is not None}
    for cell in results:
        listen(cell)
    while missing := [cell for cell in wanted if cell not in results]:
        ready = [cell for cell in missing if all(needed in results for needed in cell.needs)]
        # The longest first, so that no process waits long at the end.
        ready.sort(key=lambda cell: -cell.training.epochs)
        jobs = (joblib.delayed(perform)(cell, directory) for cell in ready)
        for cell in joblib.Parallel(n_jobs=min(n_jobs, len(ready)), return_as="generator_unordered")(jobs):
            result = cell.result(directory)
            if result is None:
                raise InputError(
                    f"The cell {cell.hash} ran on another CPU type or with other versions than this process, so its "
                    "bits may differ. Give the backend machines like this one."
                )
            results[cell] = result
            listen(cell)
    return results


def with_needs(cells: Iterable[Cell]) -> list[Cell]:
    """These cells and all that they need, each once, after what it needs."""
    found: dict[Cell, None] = {}

    def add(cell: Cell) -> None:
        if cell not in found:
            for needed in cell.needs:
                add(needed)
            found[cell] = None

    for cell in cells:
        add(cell)
    return list(found)


def latest(cells: Iterable[Cell], directory: Path) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """The last look at every cell that has begun."""
    for cell in cells:
        try:
            lines = (cell.directory(directory) / "metrics.jsonl").read_text("utf-8").splitlines()
            yield cell, next(line for line in map(json.loads, reversed(lines)) if "step" in line)
        except (OSError, StopIteration, ValueError):
            continue  # not begun, or its line is being written


def same_environment(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether two environments give the same bits; how many cores there are does not matter to one thread."""
    return {**there, "cores": 0} == {**here, "cores": 0}


def read(path: Path) -> Any:
    """A JSON file that a run wrote."""
    return json.loads(path.read_text("utf-8"))


def data_of(cell: Cell) -> Dataset:
    """The cell's data, kept in memory; InputError if they are no longer what the run began with."""
    data = _load(json.dumps(cell.data.values()))
    if data.fingerprint != cell.data_hash:
        raise InputError(f"The data of {cell.data.source!r} changed under way. Start again in a new directory.")
    return data


@lru_cache(maxsize=2)
def _load(text: str) -> Dataset:
    return load_data(DataSpec(**json.loads(text)))
