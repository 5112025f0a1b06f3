"""Names; differences seed by seed, and when they are beyond seed noise."""

from pathlib import Path

import pytest

from secateurs.experiments.facts import measured_once, paired, short_name, spread
from secateurs.models import ModelSpec


def test_a_difference_is_taken_seed_by_seed() -> None:
    # Differences 0.01, 0.02, 0.03: mean 0.02, deviation 0.01, t of 2 degrees of freedom 4.303.
    gap = paired([0.91, 0.82, 0.73], [0.90, 0.80, 0.70], 10_000)
    assert gap["mean"] == pytest.approx(0.02)
    assert gap["high"] - gap["mean"] == pytest.approx(4.303 * 0.01 / 3**0.5)
    assert not gap["is_beyond_noise"]
    assert paired([0.91, 0.92, 0.93], [0.1, 0.11, 0.12], 10_000)["is_beyond_noise"]


def test_equal_differences_of_one_example_are_no_proof_and_neither_is_one_seed() -> None:
    assert not paired([0.91, 0.81], [0.90, 0.80], 100)["is_beyond_noise"]
    assert paired([0.93, 0.83], [0.90, 0.80], 100)["is_beyond_noise"]
    alone = paired([0.9], [0.1], 100)
    assert (alone["low"], alone["high"], alone["is_beyond_noise"]) == (None, None, False)


def test_a_spread_of_shares_stays_a_share() -> None:
    assert spread([0.99, 1.0], 100)["high"] == 1.0
    assert spread([99.0, 100.0])["high"] > 100.0


def test_a_pretrained_network_is_called_by_its_directory() -> None:
    args = {"directory": "/home/me/models/minilm", "pooling": "mean", "weights": "sha256:6c1cc4d4b3ee5d4d"}
    assert short_name(ModelSpec(name="pretrained", args=args)) == "pretrained(directory=minilm, pooling=mean)"
    assert short_name(ModelSpec.parse("cls-transformer(dim=16)")) == "cls-transformer(dim=16)"


def test_what_another_version_measured_is_measured_anew(tmp_path: Path) -> None:
    kept = tmp_path / "cost.json"
    kept.write_text('{"packed_bytes": 1.0}')  # as it was written before it named its environment
    assert measured_once(kept, lambda: {"packed_bytes": 2.0}) == {"packed_bytes": 2.0}
    assert measured_once(kept, lambda: {"packed_bytes": 3.0}) == {"packed_bytes": 2.0}
    kept.write_text(kept.read_text().replace('"secateurs"', '"sawmill"'))
    assert measured_once(kept, lambda: {"packed_bytes": 3.0}) == {"packed_bytes": 3.0}
