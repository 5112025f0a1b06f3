"""DataSpec: which data, how they are split, how much of them; a frozen value for recipes and results."""

import math
from typing import Annotated, Self

from pydantic import BeforeValidator, model_validator

from secateurs.data.shape import MAX_VOCABULARY, as_tuple
from secateurs.settings import Settings

Numbers = Annotated[tuple[float, ...] | None, BeforeValidator(as_tuple)]


class DataSpec(Settings):
    """What `load_data` reads.

    source      "digits", "mnist", a path (.npz, .csv, .parquet, or a directory of images, tables or idx files),
                or "hub:org/name" for a data set of the Hugging Face hub; only "hub:" ever uses the network
    directory   where the files of "mnist" are
    validation  share of the training examples carved off for validation, unless the source brings its own
    split_seed  which examples those are
    limit_train, limit_validation, limit_test    at most so many examples, classes in proportion
    mean, std   images: the standardisation of published weights, per channel, for pixels scaled to [0, 1];
                by default both are measured on the training part
    text_column, label_column, image_column      names in tables and hub data sets
    max_length, vocab_size, min_count            tokens kept per text; known words at most; times a word must occur
    tokenizer   texts: the directory of a published tokenizer, or org/name of the hub, in place of a vocabulary of words
                from the training part; max_length then counts the tokens that it adds
    subset, revision                             of a hub data set
    """

    source: str = "digits"
    directory: str | None = None
    validation: float = 0.2
    split_seed: int = 0
    limit_train: int | None = None
    limit_validation: int | None = None
    limit_test: int | None = None
    mean: Numbers = None
    std: Numbers = None
    text_column: str = "text"
    label_column: str = "label"
    image_column: str = "image"
    max_length: int = 64
    vocab_size: int = 8192
    min_count: int = 2
    tokenizer: str | None = None
    subset: str | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.source.strip():
            raise ValueError("source is empty; say 'digits', 'mnist', a path or 'hub:org/name'.")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation is a share of the training part, between 0 and 1; got {self.validation}.")
        if not 0 <= self.split_seed < 2**32:
            raise ValueError(f"split_seed must be from 0 to 2**32 - 1; got {self.split_seed}.")
        for name in ("limit_train", "limit_validation", "limit_test", "min_count"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more; got {value}.")
        if not 1 <= self.max_length <= 65_536:
            raise ValueError(f"max_length must be from 1 to 65,536 tokens; got {self.max_length}.")
        if not 3 <= self.vocab_size <= MAX_VOCABULARY:
            raise ValueError(
                f"vocab_size must be from 3 (padding, unknown and one word) to {MAX_VOCABULARY:,}; "
                f"got {self.vocab_size}."
            )
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError(f"mean and std go together, one number per channel; got {self.mean} and {self.std}.")
        if not all(map(math.isfinite, self.mean or ())) or not all(0 < s < math.inf for s in self.std or ()):
            raise ValueError(f"mean must be finite and std above zero; got {self.mean} and {self.std}.")
        return self
