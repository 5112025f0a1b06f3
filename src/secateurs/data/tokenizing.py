"""Tokenizing: texts as the ids of a published tokenizer (extra `hf`), padded with 0.

tokenize(splits, tokenizer, max_length) -> ids of every split, tokens, the id of what is unknown
save_tokenizer(tokenizer, directory)    has_tokenizer(directory)
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from secateurs.checkpoint.hub import directory_of
from secateurs.checks import extra, first_line
from secateurs.data.texts import pad
from secateurs.durable import write_bytes
from secateurs.errors import InputError

MARK = "tokenizer_config.json"


def tokenize(
    splits: Sequence[Sequence[str]], tokenizer: str, max_length: int
) -> tuple[list[Tensor], tuple[str, ...], int | None]:
    """Every split as wide as the longest text of the first (training) one, longer texts cut by the tokenizer's rules.

    max_length  of the ids of a text, those that the tokenizer adds included
    """
    found = _opened(tokenizer)
    if found.pad_token_id != 0:
        raise InputError(
            f"The tokenizer in '{tokenizer}' pads with the id {found.pad_token_id}; only tokenizers that pad with 0, "
            "as BERT's, are read here."
        )
    length = max_length
    ids: list[Tensor] = []
    for texts in splits:
        rows = found(list(texts), max_length=length, truncation=True)["input_ids"]
        length = length if ids else max(1, max(map(len, rows)))
        ids.append(pad(rows, length))
    tokens = found.convert_ids_to_tokens(range(len(found)))
    return ids, tuple(map(str, tokens)), found.unk_token_id


def save_tokenizer(tokenizer: str, directory: Path) -> None:
    """Write what `tokenize` reads; each file is either the old one or the complete new one."""
    with tempfile.TemporaryDirectory() as scratch:
        _opened(tokenizer).save_pretrained(scratch)
        for path in sorted(Path(scratch).iterdir(), key=lambda path: path.name == MARK):
            write_bytes(directory / path.name, path.read_bytes())


def has_tokenizer(directory: str | os.PathLike[str]) -> bool:
    """Whether a tokenizer lies in this directory."""
    return (Path(directory) / MARK).is_file()


def _opened(tokenizer: str) -> Any:
    transformers: Any = extra("transformers", "hf")
    folder = directory_of(tokenizer)
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises types of its own, of its storage and of the tokenizers
        raise InputError(f"'{tokenizer}' holds no tokenizer that transformers can open: {first_line(error)}") from error
