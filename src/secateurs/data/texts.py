"""Texts: lower-cased words and signs become ids; 0 is padding, 1 every word that training did not know.

vocabulary(texts, size, min_count) -> words, most frequent first      encode(texts, words, max_length) -> ids
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from secateurs.errors import InputError

SPECIAL = ("<pad>", "<unknown>")
UNKNOWN = 1
_WORD = re.compile(r"\w+|[^\w\s]")


def words_of(text: str) -> Iterator[str]:
    """Words and single signs, lower-cased.

    >>> list(words_of("Where's my card?"))
    ['where', "'", 's', 'my', 'card', '?']
    """
    return (match.group() for match in _WORD.finditer(text.lower()))


def vocabulary(texts: Sequence[str], size: int, min_count: int, where: str) -> tuple[str, ...]:
    """The specials and the most frequent words (ties in alphabetical order), `size` in all at most."""
    counts = Counter(word for text in texts for word in words_of(text))
    known = sorted((-n, word) for word, n in counts.items() if n >= min_count)
    if not known:
        raise InputError(
            f"{where}: no word occurs {min_count} times in the {len(texts):,} training texts. "
            "Check the text column, or set min_count=1."
        )
    return SPECIAL + tuple(word for _, word in known[: size - len(SPECIAL)])


def encode(texts: Sequence[str], words: Sequence[str], max_length: int) -> list[list[int]]:
    """Ids of the first `max_length` words of every text."""
    ids = {word: i for i, word in enumerate(words)}
    return [[ids.get(word, UNKNOWN) for word in words_of(text)][:max_length] for text in texts]


def pad(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """int64 (n, length): every row cut at `length` and filled up with padding."""
    out = np.zeros((len(rows), length), dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row[:length]
    return torch.from_numpy(out)


def encode_texts(
    splits: Sequence[Sequence[str]], size: int, min_count: int, max_length: int, where: str
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Every split as ids of the vocabulary of the first (training) split, as wide as its longest text."""
    words = vocabulary(splits[0], size, min_count, where)
    rows = [encode(texts, words, max_length) for texts in splits]
    length = max(1, max(map(len, rows[0])))
    return [pad(split, length) for split in rows], words
