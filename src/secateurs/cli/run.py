"""`secateurs run DIR`: a saved network and examples in; its answers, its accuracy and its time out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secateurs.cli.safe import plain, plain_console
from secateurs.errors import InputError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from secateurs.accelerating import Accelerated
    from secateurs.measure.accuracy import Accuracy
    from secateurs.measure.answers import Answers
    from secateurs.models import ModelConfig

PARTS = {"train": "train", "validation": "val", "test": "test"}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("directory", metavar="DIR")
@click.option("--data", help="Answer examples of these data, and measure the accuracy: digits, mnist, a file, ...")
@click.option("--data-dir", help="Where the files of mnist are.")
@click.option("--part", type=click.Choice(list(PARTS)), default="test", show_default=True, help="Of the data.")
@click.option(
    "--input", "input_file", metavar="FILE", help="Answer the examples of an .npy file: pixels, or token ids."
)
@click.option("--text", "texts", multiple=True, help="Answer this text; may be repeated.")
@click.option("-n", "--n", default=20, show_default=True, type=click.IntRange(0), help="How many answers are shown.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1, 1 << 16), help="Examples at once.")
@click.option(
    "--dense", is_flag=True, help="Keep every layer dense. By default packed ones are timed, and taken if faster."
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads to use.  [default: as many as torch uses]")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def run(
    directory: str,
    data: str | None,
    data_dir: str | None,
    part: str,
    input_file: str | None,
    texts: tuple[str, ...],
    n: int,
    batch: int,
    dense: bool,
    threads: int | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Answer examples with a network that was compressed, trained, pruned or shrunk here.

    DIR is what `compress`, `train` or `shrink` wrote, or a network of this package with packed or plain weights. Each
    linear layer is timed dense and packed first, and swapped where packed is faster and loses nothing.
    """
    import torch

    from secateurs.loading import accelerate_losslessly
    from secateurs.measure.answers import answers
    from secateurs.structure.opening import open_network, place_of

    if (data is not None) + (input_file is not None) + bool(texts) != 1:
        raise RecipeError("Say what is to be answered: one of --data, --input and --text.")
    if threads is not None:
        torch.set_num_threads(threads)
    opened = open_network(Path(directory))
    if opened.reference is None:
        raise InputError(
            f"'{directory}' is a network of transformers: which inputs it reads is for its own tools to say. Open it "
            "with from_pretrained, or secateurs.load_network."
        )
    asked = _asked(opened.reference, place_of(Path(directory)), data, data_dir, part, input_file, texts)
    fast = None if dense else accelerate_losslessly(opened.module, asked.x[:batch])
    found = answers(opened.module, asked.x, batch)
    told = _Told(directory, opened.reference, asked, found, fast, n, min(batch, len(asked.x)))
    if as_json:
        click.echo(json.dumps(told.values(), allow_nan=False))
    else:
        told.print()


@dataclass(frozen=True, eq=False)
class _Asked:
    """The examples, what each is called, and their right classes where those are known."""

    what: str
    x: "Tensor"
    y: "Tensor | None" = None
    names: tuple[str, ...] = ()


def _asked(
    config: "ModelConfig",
    directory: Path,
    data: str | None,
    data_dir: str | None,
    part: str,
    input_file: str | None,
    texts: tuple[str, ...],
) -> _Asked:
    from secateurs.cli.networks import data_of
    from secateurs.measure.answers import read_inputs, read_texts

    if data is None:
        if data_dir is not None:
            raise RecipeError("--data-dir is for --data mnist: give both.")
        if input_file is not None:
            return _Asked(f"examples of {input_file}", read_inputs(input_file, config))
        return _Asked("texts", read_texts(texts, config, directory), names=texts)
    found, end = data_of(config, directory, data, data_dir), PARTS[part]
    return _Asked(f"{part} examples of {found.name}", getattr(found, f"x_{end}"), getattr(found, f"y_{end}"))


@dataclass(frozen=True, eq=False)
class _Told:
    """What is printed."""

    directory: str
    config: "ModelConfig"
    asked: _Asked
    found: "Answers"
    fast: "Accelerated | None"
    n_shown: int
    batch: int

    @property
    def accuracy(self) -> "Accuracy | None":
        from secateurs.measure.accuracy import Accuracy

        y = self.asked.y
        return None if y is None else Accuracy(int((self.found.classes == y).sum()), len(y))

    def name(self, place: int) -> str:
        """Of a class."""
        names = self.config.about.get("class_names") or ()
        return str(names[place]) if place < len(names) else str(place)

    def rows(self) -> list[dict[str, Any]]:
        """Of the examples that are shown."""
        rows = []
        for k in range(min(self.n_shown, len(self.asked.x))):
            row: dict[str, Any] = {"example": k}
            if self.asked.names:
                row["text"] = self.asked.names[k]
            if self.asked.y is not None:
                row["label"] = self.name(int(self.asked.y[k]))
            probability = float(self.found.probability[k])
            rows.append({**row, "answer": self.name(int(self.found.classes[k])), "probability": probability})
        return rows

    def values(self) -> dict[str, Any]:
        """JSON-able: everything, and the answers that are shown."""
        import torch

        choices = [] if self.fast is None else self.fast.choices
        return {
            "directory": self.directory,
            "model": str(self.config.model),
            "examples": self.asked.what,
            "n": len(self.asked.x),
            "answers": self.rows(),
            "accuracy": None if self.accuracy is None else self.accuracy.values(),
            "seconds_per_example": self.found.seconds,
            "batch": self.batch,
            "threads": torch.get_num_threads(),
            "layers": {each.name: each.chosen or each.stays for each in choices},
        }

    def print(self) -> None:
        """For a person."""
        from secateurs.cli.inspect_tables import print_table

        console, values = plain_console(), self.values()
        rows = values["answers"]
        if rows:
            head = [key for key in rows[0] if key != "probability"]
            cells = [[*(plain(str(row[key])) for key in head), f"{row['probability']:.1%}"] for row in rows]
            is_wrong = ["label" in row and row["label"] != row["answer"] for row in rows]
            cells = [[*row, "wrong" if wrong else ""] for row, wrong in zip(cells, is_wrong, strict=True)]
            title = f"{values['model']}: {len(rows):,} of {values['n']:,} {self.asked.what}"
            print_table(console, plain(title), [*head, "probability", ""], cells, (*range(1, len(head)), len(head) + 1))
        accuracy = self.accuracy
        if accuracy is not None:
            low, high = accuracy.interval
            share = f"{accuracy.value:.2%} ({low:.2%} to {high:.2%}, for which examples these are)"
            console.print(f"\nAccuracy: {share} of {accuracy.n:,} {plain(self.asked.what)}.")
        packed = [name for name, chosen in values["layers"].items() if chosen != "dense"]
        layers = "every layer dense" if not packed else f"{len(packed)} of {len(values['layers'])} linear layers packed"
        threads = "1 thread" if values["threads"] == 1 else f"{values['threads']} threads"
        console.print(
            f"\nTime: {1e3 * self.found.seconds:.3g} ms per example, {self.batch} at once on {threads}, {layers}."
        )
