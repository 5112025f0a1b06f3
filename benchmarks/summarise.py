"""The committed part of a run of `secateurs explore`: everything but the histograms, films and pixels.

python benchmarks/summarise.py runs/explore benchmarks/results/explore_digits.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

from secateurs.durable import write_json

BULKY = ("films", "positions")
GRIDS = ("sigma_grid", "absolute_grid")


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """The same results without what only the page needs."""
    small = {key: value for key, value in results.items() if key not in BULKY}
    small["stages"] = [
        {
            **{key: value for key, value in stage.items() if key != "sweep"},
            "layers": {
                name: {key: value for key, value in layer.items() if key not in GRIDS}
                for name, layer in stage["layers"].items()
            },
        }
        for stage in results["stages"]
    ]
    return small


def main() -> None:
    """Read a run's results.json and write its summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    results = json.loads((arguments.run / "results.json").read_text())
    # The paths of whoever ran it are nobody's business.
    results["command"] = results["command"].replace(str(arguments.run), "runs/explore")
    directory = results["experiment"]["experiment"]["data"]["directory"]
    if directory:
        results["command"] = results["command"].replace(directory, "DIR")
        results["experiment"]["experiment"]["data"]["directory"] = "DIR"
    results["data"]["source"] = results["data"]["source"].replace(directory or "\0", "DIR")
    write_json(arguments.out, summary(results))


if __name__ == "__main__":
    main()
