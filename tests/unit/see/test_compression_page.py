"""What a compression shows: its chart's points, its page, its card, in the numbers of its results."""

import pytest
from synthetic_compression import make_compression

from secateurs.see.compression_page import compression_page
from secateurs.see.model_card import model_card, verdict
from secateurs.see.pareto import pareto_chart
from secateurs.see.style import PAGE, PRINT

MISSED = {
    "is_met": False,
    "gates": {"drop": {"asked": 0.003, "found": 0.004, "is_met": False}, "size_bytes": None, "latency_s": None},
}


def points_of(results: dict) -> list[tuple[float, float, str, str]]:
    """(bytes, error, kind, how) of every candidate that is drawn."""
    spec = pareto_chart(results, PAGE).to_dict()
    drawn = next(
        layer
        for layer in spec["layer"]
        if isinstance(layer["mark"], dict) and layer["mark"]["type"] == "point" and layer["mark"].get("filled")
    )
    rows = drawn["data"].get("values") or spec["datasets"][drawn["data"]["name"]]
    return [(row["x"], round(row["y"], 6), row["kind"], row["how"]) for row in rows]


def test_every_candidate_is_a_point_at_its_bytes_and_error() -> None:
    assert points_of(make_compression()) == [
        (4000, 0.019, "zeros anywhere", "rounded after training, or exact"),
        (2000, 0.023, "zeros anywhere", "trained with its values"),
        (3000, 0.04, "units removed, and zeros", "rounded after training, or exact"),
    ]


def test_an_error_of_zero_has_a_place_on_a_logarithmic_scale() -> None:
    results = make_compression()
    results["tried"][0]["drop"] = -0.02
    assert points_of(results)[0][1] == 0.0005  # half an example of 1,000


def test_the_verdict_says_what_was_missed() -> None:
    assert verdict(make_compression()) == (
        "10.0 times smaller, 0.40 points of accuracy lost: what was asked for (at most 0.50 points lost) is met."
    )
    said = verdict(make_compression(**MISSED))
    assert "is NOT met (missed: accuracy on test examples)" in said
    goal = {"max_drop": 0.01, "size_bytes": 5e6, "latency_s": 0.008}
    asked = "what was asked for (at most 1.00 points lost, 5,000,000 bytes, 8 ms for one example)"
    assert asked in verdict(make_compression(goal=goal))
    unshown = make_compression(is_met=False)
    assert "on validation examples it could not be shown" in verdict(unshown)


def test_the_page_shows_every_candidate_step_and_layer_and_no_other_word_is_left() -> None:
    page = compression_page(make_compression())
    assert "{{" not in page
    for text in (
        "50 % of units gone, 90 % zeros, int8",
        "quantized in training",
        "10.0 times",
        "No layer of this network",
    ):
        assert text in page
    assert page.count("<svg") >= 3
    assert "<script" not in page


def test_the_page_reads_names_as_text() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    results = make_compression(data={"name": hostile, "source": hostile}, command=hostile, notes=[hostile])
    results["layers"][0]["name"] = hostile
    page = compression_page(results)
    assert hostile not in page
    assert "&lt;img src=x" in page


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        ({"kind": "image", "size": [1, 28, 28], "n_classes": 10}, "x = torch.zeros(1, 1, 28, 28)"),
        ({"kind": "tokens", "size": [500, 64], "n_classes": 10}, "x = torch.randint(1, 500, (1, 9))"),
    ],
)
def test_the_card_says_what_an_example_is_and_how_to_ask(inputs: dict, line: str) -> None:
    results = make_compression(inputs=inputs)
    results["seconds"]["tokens"] = 9 if inputs["kind"] == "tokens" else None
    card = model_card(results)
    assert line in card
    assert ("time of one text of 9 tokens" in card) == (inputs["kind"] == "tokens")
    assert "`secateurs run DIR --data mnist --data-dir there/mnist`" in card
    assert ("token ids" in card) == (inputs["kind"] == "tokens")
    assert "There is no ONNX file" in card


def test_the_card_says_where_the_rest_went_and_quotes_what_a_shell_would_split() -> None:
    results = make_compression()
    results["compression"]["data"] |= {"source": "my data/set", "directory": None}
    results["chosen"]["candidate"]["student"] = 0.5
    card = model_card(results)
    assert "50 % of its units were removed before" in card
    assert "opens with `secateurs.load_shrunk('model')`" in card
    assert "`secateurs run DIR --data 'my data/set'`" in card
    results["chosen"]["candidate"]["student"] = 0.0
    assert "in `model.safetensors`" in model_card(results)
    assert "were removed before" not in model_card(results)


def test_the_row_that_was_chosen_is_marked_and_an_uncut_network_is_no_zeros_anywhere() -> None:
    results = make_compression()
    assert compression_page(results).count("(chosen)") == 1
    results["tried"][0]["candidate"]["sparsity"] = 0.0
    assert points_of(results)[0][2] == "nothing removed"


def test_what_was_asked_for_and_a_dense_network_without_an_error_have_a_place_on_the_axes() -> None:
    results = make_compression(goal={"max_drop": 0.0, "size_bytes": 500, "latency_s": None})
    results["dense"]["validation"]["value"] = 1.0
    spec = pareto_chart(results, PAGE).to_dict()
    lines = [layer for layer in spec["layer"] if isinstance(layer["mark"], dict) and layer["mark"]["type"] == "rule"]
    for axis in "xy":
        channels = [layer["encoding"][axis] for layer in spec["layer"] if axis in layer["encoding"]]
        low, high = sorted(next(channel["scale"]["domain"] for channel in channels if "scale" in channel))
        rows = [row for line in lines for row in (line["data"].get("values") or spec["datasets"][line["data"]["name"]])]
        assert all(low <= row[axis] <= high for row in rows if axis in row)


@pytest.mark.parametrize("name", ["kept", "second", "other", "zero"])
def test_marks_stand_out_from_the_paper(name: str) -> None:
    """3 to 1, as WCAG asks of graphics."""

    def light(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    assert (light(PRINT.paper) + 0.05) / (light(getattr(PRINT, name)) + 0.05) >= 3


def test_a_second_series_is_drawn_in_its_own_colour() -> None:
    drawn = str(pareto_chart(make_compression(), PRINT).to_dict())
    assert PRINT.second in drawn
    assert PRINT.removed not in drawn
