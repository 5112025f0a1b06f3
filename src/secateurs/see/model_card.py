"""Model card: what a compression made, for whoever opens its directory: what it is, how to load it, what to expect."""

import shlex
from collections.abc import Mapping
from typing import Any

from secateurs.see.bench_tables import milliseconds
from secateurs.see.style import percent

Results = Mapping[str, Any]


def model_card(results: Results) -> str:
    """README.md of the directory."""
    dense, chosen, test = results["dense"], results["chosen"], results["test"]
    n_stored, n = (sum(line[key] for line in results["layers"]) for key in ("n_stored", "n"))
    student = chosen["candidate"]["student"]
    gone = f"; {percent(student, 0)} of its units were removed before" if student else ""
    seconds = results["seconds"]
    was, now = (milliseconds(seconds[key]) for key in ("dense_s", "seconds"))
    ratio = times(dense["file_bytes"] / chosen["size_bytes"])
    after = percent(test["n_correct"] / test["n"], 2)
    example = "one example" if not seconds["tokens"] else f"one text of {seconds['tokens']} tokens"
    tuned = ", then trained on with the values it is stored in" if chosen["is_tuned"] else ""
    is_cut = chosen["candidate"]["student"] or chosen["candidate"]["sparsity"]
    cut, then = ("pruned", tuned) if is_cut else ("trained with its values", "")
    did = f"{cut} for {chosen['epochs']:.3g} epochs while the dense network taught{then}"
    if not chosen["epochs"]:
        did = "nothing was trained after the dense network"
    return f"""\
# {results["model"]["name"]} on {results["data"]["name"]}, compressed

{verdict(results)}

| | before | after |
| --- | ---: | ---: |
| file | {dense["file_bytes"]:,} bytes | {chosen["size_bytes"]:,} bytes, packed ({ratio} smaller) |
| test accuracy, n = {test["n"]:,} | {percent(dense["test"]["value"], 2)} | {after} |
| time of {example} | {was} ms | {now} ms ({speed_text(seconds)}) |

- What was done: {chosen["name"]}; {did}. \
{n_stored:,} of its {n:,} numbers, biases included, are stored, the others are exactly zero{gone}.
- The drop, {points(test["drop"])}, has a 95 % interval of {points(test["low"])} to {points(test["high"])}: \
{test["n_lost"]:,} test examples were lost and {test["n_gained"]:,} gained. It says nothing of other seeds.
- Times: {results["environment"]["cpu"]}, {seconds["threads"]} threads, median of {seconds["n"]} \
interleaved pairs; {_packed(seconds)}.
- Data: {results["data"]["source"]}

## Load it

```python
import secateurs as sc
import torch

network = sc.load_network("packed")      # checks itself, and is a plain torch network
{_example(results)}
network = sc.load_network("packed", x)   # the same; layers that run faster packed stay packed
answers = network(x).argmax(dim=1)
```

`model/` holds the same network with its zeros written out{_opens(results)}. {_reads(results)} \
On the data again, this directory being DIR: `secateurs run DIR {_data_words(results)}`
{_onnx(results["onnx"])}

What else was tried, and what each step gave: `report.html`; as data: `results.json`. Made by secateurs \
{results["version"]}: `{results["command"]}`. Only `packed/` is needed to run it{_needs(results)}; `cells/` and \
`weights/` hold everything that was tried, for the same command to go on from, and may be deleted.
"""


def _packed(seconds: Mapping[str, Any]) -> str:
    """How many layers skip their zeros."""
    n, n_layers = seconds["n_swapped"], seconds["n_layers"]
    if n == 0:
        return f"all {n_layers} layers run dense, packed none was faster"
    return f"{n} of {n_layers} layers run packed" + (", the others were not faster so" if n < n_layers else "")


def _example(results: Results) -> str:
    """A line of code that makes an example of the right shape, of a text as long as it will be."""
    inputs = results["inputs"]
    if inputs["kind"] == "tokens":
        return f"x = torch.randint(1, {inputs['size'][0]}, (1, {results['seconds']['tokens']}))  # as many as are usual"
    return f"x = torch.zeros({', '.join(map(str, (1, *inputs['size'])))})"


def _opens(results: Results) -> str:
    """How stock tools get at it."""
    if results["chosen"]["candidate"]["student"]:
        return "; units are gone, so that it opens with `secateurs.load_shrunk('model')`"
    stock = "; `stock/` is what `AutoModel.from_pretrained` opens, the head beside it" if results["is_stock"] else ""
    return f", in `model.safetensors`{stock}"


def _needs(results: Results) -> str:
    """What has to be installed beside the package."""
    return ", with the extra `hf`" if results["compression"]["data"].get("tokenizer") else ""


def _reads(results: Results) -> str:
    """What an example is."""
    inputs = results["inputs"]
    if inputs["kind"] == "tokens":
        return (
            f"An example is a row of {inputs['size'][1]} token ids, 0 after the last; `secateurs run DIR --text '...'` "
            "makes them of a text."
        )
    return (
        f"An example is an image of {' × '.join(map(str, inputs['size']))} pixels, less the mean and divided by the "
        'standard deviation that the JSON file in `packed/` gives under "scaling"; '
        "`secateurs run DIR --input FILE.npy` does that itself."
    )


def _data_words(results: Results) -> str:
    """By which `run` finds the data again."""
    data = results["compression"]["data"]
    words = ["--data", data["source"], *(["--data-dir", data["directory"]] if data["directory"] else [])]
    return shlex.join(words)


def _onnx(onnx: Mapping[str, Any] | str) -> str:
    if isinstance(onnx, str):
        return f"There is no ONNX file: {onnx}"
    return (
        f"`onnx/model.onnx` ({onnx['size_bytes']:,} bytes: ONNX stores zeros, too) gave {onnx['same_answers']:,} of "
        f"{onnx['n']:,} test examples the same answer in ONNX Runtime, with a largest difference of "
        f"{onnx['relative_difference']:.0e} of the largest value."
    )


def verdict(results: Results) -> str:
    """One sentence: whether what was asked for was met."""
    test, chosen, dense = results["test"], results["chosen"], results["dense"]
    change = f"{points(abs(test['drop']))} of accuracy {'lost' if test['drop'] >= 0 else 'gained'}"
    how = f"{times(dense['file_bytes'] / chosen['size_bytes'])} smaller, {change}"
    asked = f"what was asked for ({goal_text(results['goal'])})"
    if results["is_met"]:
        return f"{how}: {asked} is met."
    names = {"drop": "accuracy on test examples", "size_bytes": "size", "latency_s": "latency"}
    missed = [names[key] for key, gate in results["gates"].items() if gate is not None and not gate["is_met"]]
    why = f"missed: {', '.join(missed)}" if missed else "on validation examples it could not be shown"
    return f"{how}: {asked} is NOT met ({why}). This is the closest that was found."


def goal_text(goal: Mapping[str, Any]) -> str:
    """What was asked for."""
    said = [f"at most {points(goal['max_drop'])} lost"]
    if goal["size_bytes"] is not None:
        said.append(f"{goal['size_bytes']:,.0f} bytes")
    if goal["latency_s"] is not None:
        said.append(f"{milliseconds(goal['latency_s'])} ms for one example")
    return ", ".join(said)


def speed_text(seconds: Mapping[str, Any]) -> str:
    """A measured speed-up in words."""
    if seconds["low"] <= 1 <= seconds["high"]:
        return "no difference"
    return f"× {seconds['speed_up']:.2f}, {seconds['low']:.2f} to {seconds['high']:.2f}"


def points(share: float) -> str:
    """A drop in percentage points."""
    return f"{100 * share:.2f} points".replace("-", "−")


def times(ratio: float) -> str:
    """How many times.

    >>> times(40.318), times(7.0)
    ('40.3 times', '7.0 times')
    """
    return f"{ratio:.1f} times"
