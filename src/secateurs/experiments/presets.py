"""Presets: the training that suits each reference network; chosen on validation data.

To add one: its line in PRESETS; a network without a line gets DEFAULT.
"""

from dataclasses import dataclass

from secateurs.train.training import Training


@dataclass(frozen=True)
class Preset:
    """The training and the fine-tuning after pruning once."""

    training: Training
    fine_tune: Training


DEFAULT = Preset(
    Training(learning_rate=2e-3, weight_decay=1e-3, epochs=20.0, batch_size=64),
    Training(learning_rate=1e-3, weight_decay=1e-3, epochs=10.0, batch_size=64),
)

PRESETS: dict[str, Preset] = {
    "cls-transformer": Preset(
        Training(learning_rate=2e-3, weight_decay=0.05, epochs=20.0),
        Training(learning_rate=2e-3, weight_decay=0.05, epochs=10.0),
    ),
}


def preset(model_name: str) -> Preset:
    """The preset of a network by its name in MODELS."""
    return PRESETS.get(model_name, DEFAULT)
