"""The committed part of a run of `explore`, `compare` or `lottery`: everything but histograms, films and pixels.

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
    if "stages" not in results:
        return small
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
    kind = results["schema"].removeprefix("secateurs.").partition("/")[0]
    asked = results["experiment" if kind == "explore" else kind]["experiment"]["data"]
    name = {"comparison": "compare"}.get(kind, kind)
    results["command"] = results["command"].replace(str(arguments.run), f"runs/{name}")
    directory = asked["directory"]
    if directory:
        results["command"] = results["command"].replace(directory, "DIR")
        asked["directory"] = "DIR"
    results["data"]["source"] = results["data"]["source"].replace(directory or "\0", "DIR")
    write_json(arguments.out, summary(results))


if __name__ == "__main__":
    main()
