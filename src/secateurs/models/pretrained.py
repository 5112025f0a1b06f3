"""Pretrained: an encoder of transformers with its published weights, and a linear head on what it makes of a text.

    build(ModelSpec.parse("pretrained(directory=models/minilm)"), shape, seed)

A saved one holds the encoder's configuration, so the directory it came from is needed once. No code of it runs.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from secateurs.checkpoint.hub import directory_of
from secateurs.checks import extra, first_line, nearest
from secateurs.data.lengths import PADDING, cut
from secateurs.data.shape import InputShape
from secateurs.errors import InputError, RecipeError
from secateurs.models.network import Network

STD = 0.02
POOLINGS = ("first", "mean")
CONFIG, WEIGHTS = "config.json", ("*.safetensors", "pytorch_model*.bin")
UNSAID = ("_name_or_path", "transformers_version")  # of a configuration: where it lay, and who read it


@final
class Pretrained(Network):
    """An encoder of transformers with its published weights, and a fresh linear head on what it makes of a text.

    directory  of the encoder, as `save_pretrained` writes it; or org/name, a model of the Hugging Face hub
    pooling    what the head reads: "first", the first token, or "mean", the mean of all tokens
    dropout    before the head, while training
    weights    fingerprint of the directory's files, found when it is left out: other weights are another network

    Token ids are those of the encoder's own tokenizer, padded with 0 on the right; batches are cut to their longest.
    """

    def __init__(
        self,
        shape: InputShape,
        directory: str = "",
        pooling: str = "first",
        dropout: float = 0.1,
        weights: str = "",
        *,
        stock: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise RecipeError(f"pretrained has no pooling {pooling!r}. {nearest(str(pooling), POOLINGS)}")
        if isinstance(dropout, bool | str) or not 0 <= dropout < 1:
            raise RecipeError(f"dropout must be a number in [0, 1); found {dropout!r}.")
        if shape.kind != "tokens":
            raise RecipeError(f"pretrained reads texts; the data are {shape}. Use 'cls-transformer' for images.")
        self.encoder = published(directory, weights) if stock is None else described(stock)
        config = self.encoder.config
        self.n_ids, self.longest = shape.size[0], int(getattr(config, "max_position_embeddings", 1 << 20))
        if shape.size[1] > self.longest:
            raise RecipeError(f"The encoder reads up to {self.longest} tokens; the data are {shape}. Lower max_length.")
        is_trimmed = config.vocab_size < self.n_ids
        if is_trimmed and stock is None:
            raise RecipeError(
                f"The encoder has {config.vocab_size:,} tokens; the data are {shape}: not its tokenizer's."
            )
        self.new_ids: Tensor | None
        self.register_buffer("new_ids", torch.zeros(self.n_ids, dtype=torch.int32) if is_trimmed else None)
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.hidden_size, shape.n_classes)
        nn.init.normal_(self.head.weight, std=STD)
        nn.init.zeros_(self.head.bias)
        self.initialiser = (
            f"the encoder's published weights; the head normal with standard deviation {STD}, its biases zero"
        )
        self.tracked = {"cls-head": "head.weight", "ffnn": self._first_wide()}  # type: ignore[misc]

    @property
    def stock(self) -> dict[str, Any]:
        """The encoder's configuration, from which `described` makes another."""
        values = {key: value for key, value in self.encoder.config.to_dict().items() if key not in UNSAID}
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    @property
    def hidden_names(self) -> tuple[str, ...]:
        """The encoder's layers."""
        n = self.encoder.config.num_hidden_layers
        found = (name for name, each in self.named_modules() if isinstance(each, nn.ModuleList) and len(each) == n)
        stack = next(found, "")
        return tuple(f"{stack}.{i}" for i in range(n)) if stack else ()

    def _first_wide(self) -> str:
        """The first weight of a layer that makes the hidden state wider, query, key and value in one aside."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and name.startswith(self.hidden_names[:1] or "encoder."):
                ratio = module.out_features / module.in_features
                if ratio > 1 and ratio != 3:
                    return f"{name}.weight"
        return "head.weight"

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, n_classes) of token ids (batch, length)."""
        if ids.shape[1] > self.longest:
            raise InputError(f"Sequences of {ids.shape[1]} tokens; this network reads up to {self.longest}. Cut them.")
        ids = cut(ids)
        is_token = ids != PADDING
        if self.new_ids is not None:
            ids = self.new_ids[ids].long()
        states = self.encoder(input_ids=ids, attention_mask=is_token.long())[0]  # (batch, length, width)
        if self.pooling == "first":
            pooled = states[:, 0]
        else:
            share = is_token.to(states.dtype)[..., None]
            pooled = (states * share).sum(1) / share.sum(1).clamp_min(1)
        out: Tensor = self.head(self.dropout(pooled))
        return out


def pinned(directory: str) -> dict[str, Any]:
    """The arguments that say which weights lie in the directory; RecipeError without one, InputError for no network."""
    if not directory:
        raise RecipeError("pretrained needs the directory of an encoder: pretrained(directory=PATH).")
    return {"weights": fingerprint(directory_of(directory))}


def fingerprint(folder: Path) -> str:
    """16 hex digits of the configuration and the weights in a directory of transformers."""
    files = [folder / CONFIG, *sorted(next((found for each in WEIGHTS if (found := [*folder.glob(each)])), []))]
    if not files[0].is_file() or len(files) == 1:
        raise InputError(f"'{folder}' is no network of transformers: it needs {CONFIG} and {WEIGHTS[0]}.")
    hashes = [_sha256(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return f"sha256:{hashlib.sha256(' '.join(hashes).encode()).hexdigest()[:16]}"


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def published(directory: str, weights: str) -> Any:
    """The encoder of a directory in float32; InputError where it is another than `weights` says, or incomplete."""
    transformers: Any = extra("transformers", "hf")
    folder = directory_of(directory)
    found = fingerprint(folder)
    if weights and found != weights:
        raise InputError(f"The weights in '{directory}' are {found}, not {weights}. Leave weights=... out to use them.")
    try:
        with quiet():
            encoder, told = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"'{directory}' cannot be opened by transformers: {first_line(error)}") from error
    if missing := sorted(name for name in told["missing_keys"] if not name.startswith("pooler.")):
        raise InputError(f"'{directory}' lacks {len(missing)} weights of its {type(encoder).__name__}: {missing[:3]}.")
    return _bare(encoder)


def described(stock: Mapping[str, Any]) -> Any:
    """An encoder of this configuration with random weights."""
    transformers: Any = extra("transformers", "hf")
    try:
        return _bare(transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**stock)))
    except Exception as error:  # whatever a configuration of another version makes the library do
        raise RecipeError(f"transformers cannot build the encoder's configuration: {first_line(error)}") from error


def _bare(encoder: Any) -> Any:
    """Without the pooling layer, which no head here reads."""
    if encoder.config.is_encoder_decoder:
        raise RecipeError(f"{type(encoder).__name__} is an encoder with a decoder; pretrained takes an encoder alone.")
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no report from transformers: what matters of them is an error here."""
    logging: Any = extra("transformers", "hf").utils.logging
    level, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error(), logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()
