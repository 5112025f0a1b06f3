"""Compressed: what a finished search is worth, and what is handed over: the network, packed, its card, the page.

    results = CompressionRun(ground, out, command, n_jobs).run()

Test examples are answered here for the first time, by the network that was chosen and by the steps that lead to it.
"""

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import secateurs
from secateurs.checkpoint.packed_file import SUFFIX
from secateurs.checkpoint.packing import pack
from secateurs.data.tokenizing import save_tokenizer
from secateurs.durable import make_directory, write_json, write_text
from secateurs.errors import InputError, MissingExtraError, RecipeError
from secateurs.experiments.candidates import EXACT, TUNED, in_words
from secateurs.experiments.cells import Cell
from secateurs.experiments.choosing import Tried, front
from secateurs.experiments.compression import Ground
from secateurs.experiments.facts import about_data, about_model, common_step, measured_once, weights_of
from secateurs.experiments.probes import Probe, probe_all
from secateurs.experiments.search import Found, Search
from secateurs.exporting import export_onnx
from secateurs.measure.accuracy import Accuracy
from secateurs.measure.environment import environment
from secateurs.models import Network, save_model, save_stock
from secateurs.models.files import CONFIG_FILE, WEIGHTS_FILE
from secateurs.quantizing import quantize
from secateurs.see import pictures, stats
from secateurs.see.compression_page import compression_page
from secateurs.see.model_card import model_card
from secateurs.see.pareto import pareto_picture
from secateurs.structure.files import ABOUT_FILE, save_trained

SCHEMA = "secateurs.compression/1"
N_COMPARED = 512  # test examples that the ONNX file answers, too
PACKED_FILE = f"weights{SUFFIX}"


@dataclass(frozen=True)
class Step:
    """One network on the way, for the table that says what each step gave.

    title   in print
    cell    whose network it is
    values  that it is rounded to and stored in
    epochs  of training after the dense network's
    is_timed  whether it may run in another time than those before it
    """

    id: str
    title: str
    cell: Cell
    values: str
    epochs: float
    is_timed: bool = True


@dataclass
class CompressionRun:
    """A compression in its directory."""

    ground: Ground
    out: Path
    command: str
    n_jobs: int

    @cached_property
    def search(self) -> Search:
        """What finds the candidates; made when the directory is there."""
        return Search(self.ground, self.out, self.n_jobs)

    def run(self) -> dict[str, Any]:
        """Search, measure, write; returns the results."""
        found = self.search.run()
        self.search.text = "what each step gave"
        steps = self._steps(found.chosen)
        self.search.perform([step.cell for step in steps])
        rows = self._measured(steps, self._place(found.chosen, steps))
        self.search.text = "writing"
        results = self._results(found, steps, rows)
        results["onnx"], results["is_stock"] = self._export(found.chosen), self._export_stock(found.chosen)
        self._hand_over(found.chosen, results)
        self.search.clock.keep()
        return results

    def _steps(self, chosen: Tried) -> list[Step]:
        """The network that was chosen, with every step to it alone and together with those before."""
        chains, epochs, shape = self.search.chains, chosen.epochs, chosen.candidate.shape
        values, dense = chosen.candidate.values, self.ground.dense
        steps = [Step("dense", "dense, as it is", dense, EXACT, 0.0, False)]
        trimmed = Step("trimmed", "vocabulary trimmed to the training data's", chains.first, EXACT, 0.0)
        if not epochs:
            steps += [trimmed] if self.ground.asked.is_trimmed else []
            title = "packed without loss" if values == EXACT else f"quantization alone ({in_words(values)})"
            return [*steps, Step("after", title, chains.first, values, 0.0)]
        is_cut, longer = shape.is_cut, chains.longer(chosen.candidate, epochs)
        steps.append(Step("longer", "dense, trained on, as long", longer, EXACT, epochs, False))
        if self.ground.asked.is_trimmed:
            steps.append(trimmed)
        if values != EXACT:
            steps.append(Step("rounded", f"quantization alone ({in_words(values)})", dense, values, 0.0))
        if shape.student:
            steps.append(Step("smaller", "units removed, nothing trained", chains.begun(shape), EXACT, 0.0))
        taught = chains.pruned(shape, epochs)
        if is_cut:
            steps.append(Step("once", "pruning alone, at once", chains.cut_once(shape), EXACT, 0.0, False))
            labels = chains.pruned(shape, epochs, is_taught=False)
            steps.append(Step("labels", "pruned while trained on labels", labels, EXACT, epochs, False))
            steps.append(Step("taught", "pruned while taught by the dense network", taught, EXACT, epochs))
        if values != EXACT:
            tuned = chains.finished(chosen.candidate, epochs)
            if is_cut:
                steps.append(Step("after", "the same, quantized after", taught, values, epochs))
                steps.append(Step("with", "the same, quantized in training", tuned, values, epochs * (1 + TUNED)))
            else:
                steps.append(Step("with", "quantized while taught by the dense network", tuned, values, epochs))
        return steps

    def _measured(self, steps: list[Step], place: int) -> list[dict[str, Any]]:
        """Bytes, test accuracy and measured time of each; place: of the one that was chosen."""
        chains, dense = self.search.chains, self.ground.dense
        asked = [Probe(each.cell, dense, ((each.values, chains.stored(each.values)),), "test") for each in steps]
        found = probe_all(asked, self.out, self.n_jobs)
        n_zero = {each.id: measured[each.values]["n_zero"] for each, measured in zip(steps, found, strict=True)}
        for name in {"after", "with"} & n_zero.keys():
            assert n_zero[name] >= n_zero.get("taught", 0), "Quantization brought zeros back."
        return [
            {
                "id": each.id,
                "title": each.title,
                "values": each.values,
                "epochs": each.epochs,
                **measured[each.values],
                "accuracy": measured[each.values]["n_correct"] / measured[each.values]["n"],
                "is_chosen": each is steps[place],
                "seconds": self.search.seconds_of(each.cell, each.values) if each.is_timed else None,
            }
            for each, measured in zip(steps, found, strict=True)
        ]

    def _results(self, found: Found, steps: list[Step], rows: list[dict[str, Any]]) -> dict[str, Any]:
        ground, chosen = self.ground, found.chosen
        asked, best = ground.asked, set(map(id, front(found.tried)))
        mine = rows[self._place(chosen, steps)]
        dense = rows[0]
        seconds = mine["seconds"]
        gates = {
            "drop": _gate(asked.max_drop, mine["drop"]),
            "size_bytes": _gate(asked.size_bytes, mine["size_bytes"]),
            "latency_s": _gate(asked.latency_s, seconds["seconds"]),
        }
        return {
            "schema": SCHEMA,
            "version": secateurs.__version__,
            "command": self.command,
            "environment": environment(),
            "seed": asked.seed,
            "compression": asked.values(),
            "goal": asdict(asked.goal),
            "data": about_data(ground.data),
            "model": about_model(asked.model, ground.network),
            "inputs": ground.data.shape.values(),
            "dense": {
                "validation": self.search.perform([ground.dense])[ground.dense]["validation"],
                "test": Accuracy(dense["n_correct"], dense["n"]).values(),
                "size_bytes": dense["size_bytes"],
                "file_bytes": ground.file_bytes or (ground.dense.directory(self.out) / WEIGHTS_FILE).stat().st_size,
            },
            "chosen": {**tried_values(chosen), "is_met_on_validation": found.is_met},
            "test": {key: mine[key] for key in ("n", "n_correct", "n_lost", "n_gained", "drop", "low", "high")},
            "gates": gates,
            "is_met": found.is_met and all(gate is None or gate["is_met"] for gate in gates.values()),
            "seconds": seconds,
            "steps": rows,
            "tried": [{**tried_values(each), "is_front": id(each) in best} for each in found.tried],
            "notes": list(found.notes),
            "layers": self._layers(chosen),
            "stages": self._stages(steps, rows, chosen),
            "n_steps": self.search.pace.n_steps,
            "duration_s": self.search.clock.seconds,
        }

    def _place(self, chosen: Tried, steps: list[Step]) -> int:
        """Where the chosen network stands among the steps."""
        is_exact = chosen.candidate.values == EXACT and chosen.epochs
        wanted = "with" if chosen.is_tuned else ("taught" if is_exact else "after")
        return next(k for k, step in enumerate(steps) if step.id == wanted)

    def network(self, chosen: Tried) -> Network:
        """The network that was chosen, rounded to its values."""
        module = self.search.cell_of(chosen).load(self.out)
        quantize(module, self.search.chains.stored(chosen.candidate.values))
        return module.eval()

    def _layers(self, chosen: Tried) -> list[dict[str, Any]]:
        """Every tensor of the packed file."""
        path = self.out / "packed" / PACKED_FILE
        make_directory(path.parent)
        receipt = pack(self.network(chosen), path, self.search.chains.stored(chosen.candidate.values), smallest=True)
        return [
            {
                "name": line.name,
                "shape": list(line.shape),
                "n": line.n,
                "n_stored": line.n_stored,
                "values": line.values,
                "positions": list(line.positions),
                "dense_bytes": line.dense_bytes,
                "size_bytes": line.position_bytes + line.value_bytes + line.table_bytes,
            }
            for line in receipt.lines
        ]

    def _stages(self, steps: list[Step], rows: list[dict[str, Any]], chosen: Tried) -> list[dict[str, Any]]:
        """The tracked layers on their way: as they were, pruned, stored."""
        names = list(dict.fromkeys(self.ground.network.tracked.values()))
        at = {step.id: (step, row) for step, row in zip(steps, rows, strict=True)}
        last = steps[self._place(chosen, steps)].id
        shown = {"dense": ("Dense", "As it was.")}
        if chosen.candidate.is_cut:
            shown["taught"] = ("Pruned", f"Taught by the dense network for {chosen.epochs:.3g} epochs.")
        if last != "taught":
            shown[last] = ("Stored", f"In {in_words(chosen.candidate.values)}: few different numbers are left.")
        networks = {key: at[key][0].cell.load(self.out) for key in shown}
        if last in networks:
            networks[last] = self.network(chosen)
        values = {key: weights_of(network, names) for key, network in networks.items()}
        step = common_step({"trained": values["dense"], **values})
        return [
            {
                "id": key,
                "title": shown[key][0],
                "caption": shown[key][1],
                "accuracy": {"test": {"value": at[key][1]["accuracy"]}},
                "layers": {
                    name: stats.describe(weight, absolute_step=step, tau=None) for name, weight in values[key].items()
                },
            }
            for key in shown
        ]

    def _export(self, chosen: Tried) -> dict[str, Any] | str:
        """onnx/model.onnx, compared with torch on test examples in ONNX Runtime; or why there is none."""
        path = self.out / "onnx" / "model.onnx"
        make_directory(path.parent)

        def export() -> dict[str, Any]:
            found = export_onnx(self.network(chosen), self.ground.data.x_test[:N_COMPARED], path)
            return {**found.values(), "path": "onnx/model.onnx"}

        try:
            return measured_once(path.parent / "compared.json", export)
        except (MissingExtraError, InputError) as error:
            return str(error)

    def _hand_over(self, chosen: Tried, results: dict[str, Any]) -> None:
        """The directory's files; the packed one lies there already."""
        there = self.search.cell_of(chosen).directory(self.out)
        self._write_model(chosen, there)
        lines = [path.read_text("utf-8") for path in sorted(self.out.glob("cells/*/metrics.jsonl"))]
        lines += [json.dumps({"tried": each}) + "\n" for each in results["tried"]]
        lines += [json.dumps({"tested": row}) + "\n" for row in results["steps"]]
        write_text(self.out / "metrics.jsonl", "".join(lines))
        pictures.save_picture(pareto_picture(results), self.out / "pareto")
        write_text(self.out / "report.html", compression_page(results))
        write_text(self.out / "README.md", model_card(results))
        write_json(self.out / "results.json", results)

    def _write_model(self, chosen: Tried, there: Path) -> None:
        """model/: dense weights with their zeros; packed/: what says how to build the network and to read texts."""
        model, packed, asked, data = self.out / "model", self.out / "packed", self.ground.asked, self.ground.data
        module, config = self.network(chosen), CONFIG_FILE
        if (there / ABOUT_FILE).exists():
            save_trained(module, there, model)
            config = ABOUT_FILE
        else:
            save_model(module, asked.model, data.shape, model, data.about)
        shutil.copyfile(model / config, packed / config)
        if asked.data.tokenizer is not None:
            save_tokenizer(asked.data.tokenizer, model)
            save_tokenizer(asked.data.tokenizer, packed)

    def _export_stock(self, chosen: Tried) -> bool:
        """stock/: a pretrained network as transformers opens it, where its configuration can say the sizes."""
        module, tokenizer = self.network(chosen), self.ground.asked.data.tokenizer
        if tokenizer is None:
            return False
        with suppress(RecipeError):  # of another kind, or units are gone
            save_stock(module, tokenizer, self.out / "stock")
            return True
        return False


def tried_values(each: Tried) -> dict[str, Any]:
    """JSON-able."""
    low, high = each.interval
    found = {"drop": each.drop, "error": each.error, "low": low, "high": high, "surely": each.surely}
    return {**asdict(each), **found, "name": str(each.candidate)}


def _gate(asked: float | None, found: float) -> dict[str, Any] | None:
    return None if asked is None else {"asked": asked, "found": found, "is_met": found <= asked}
