"""Prunable: which weights a recipe may touch, by dtype, shape and name; one rule for live networks and for files.

    entry_reason(entry, skip, only) -> ""     prunable, else why it is left alone
    entry_reasons(entries, skip, only)        of all, once every pattern is known to mean something

To leave alone another well-known table: a word in _TABLES.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from secateurs.checkpoint.tensors import Entry
from secateurs.checks import nearest
from secateurs.errors import RecipeError
from secateurs.exact.kinds import KINDS

# By name, so that a checkpoint without its code is treated as the live network is.
_TABLES = re.compile(
    r"(^|[._])(embeddings?|embed|emb|embed_in|embed_tokens|embed_tokens_per_layer|embed_timestep|tok_embeddings|word_embeddings|wte|wpe"
    r"|tokens|cls_token|class_token|class_embedding|dist_token|distillation_token|mask_token|reg_token|register_tokens"
    r"|pos_embed|pos_embedding|position_embeddings?|positional_embedding|positions|position_ids|rel_pos_[hw]"
    r"|relative_position_bias_table|relative_attention_bias)([._](weight|table))?$"
)
# What a live network keeps in buffers, and old files hold beside the weights: causal masks and tables of angles.
_BUFFERS = re.compile(
    r"(^|\.)(attn|attention|self_attn)\.(attention\.)?(bias|masked_bias)$"
    r"|(^|[._])(attn_mask|causal_mask|tril|(cos|sin)_cached|freqs_(cis|cos|sin)|inv_freq|relative_coords_table|final_logits_bias)$"
)
VECTOR = "one dimension (bias, norm or scalar)"


def entry_reason(entry: Entry, skip: Sequence[str] = (), only: Sequence[str] = ()) -> str:
    """Why a tensor is left alone, "" where a recipe may prune it."""
    return unfit(entry) or names_reason(dict.fromkeys(entry.names, entry.is_table), skip, only)


def entry_reasons(entries: Iterable[Entry], skip: Sequence[str] = (), only: Sequence[str] = ()) -> list[str]:
    """The reason of every tensor, in their order.

    RecipeError for a pattern that matches no tensor, or one of `only` that names a tensor which cannot be pruned
    ("*" and the vectors that a wildcard matches aside).
    """
    found = list(entries)
    assert_known((*skip, *only), [name for entry in found for name in entry.names], "tensor")
    for entry in found:
        assert_can(entry.names, unfit(entry), len(entry.shape) < 2, skip, only)
    return [entry_reason(entry, skip, only) for entry in found]


def unfit(entry: Entry) -> str:
    """Why a tensor cannot be pruned whatever is asked, or ""."""
    if entry.unfit:
        return entry.unfit
    if len(entry.shape) < 2:
        return VECTOR
    if entry.dtype not in KINDS:
        is_floating = entry.dtype.startswith(("F", "BF"))
        return f"no order of sizes in {entry.dtype}" if is_floating else f"not floating point ({entry.dtype})"
    if not entry.is_weight and any(_BUFFERS.search(name) for name in entry.names):
        return "a mask or a table of angles"
    return ""


def names_reason(names: dict[str, bool], skip: Sequence[str], only: Sequence[str]) -> str:
    """Why a weight of these names ({name: its layer is an embedding}) is left alone, by request or default, or ""."""
    is_named = any(fnmatchcase(name, pattern) for name in names for pattern in only)
    whys = (_left_alone(name, is_table, skip, bool(only), is_named) for name, is_table in names.items())
    why = next((why for why in whys if why), "")
    return f"{why} (tied)" if why and len(names) > 1 else why


def names_it(pattern: str, names: Iterable[str]) -> bool:
    """Whether a pattern of `only` means one of these names; "*" is everything and names nothing."""
    return pattern != "*" and any(fnmatchcase(name, pattern) for name in names)


def assert_known(patterns: Iterable[str], names: Iterable[str], kind: str) -> None:
    """RecipeError for a pattern that matches no name; `kind` is what the names are of."""
    known = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise RecipeError(f"No {kind} is called {pattern!r}. {nearest(pattern, known)}")


def assert_can(names: Sequence[str], reason: str, is_vector: bool, skip: Sequence[str], only: Sequence[str]) -> None:
    """RecipeError where `only` names, and `skip` does not take back, a weight that cannot be pruned for a reason."""
    if not reason or any(fnmatchcase(name, pattern) for name in names for pattern in skip):
        return
    for pattern in only:
        is_vector_by_chance = is_vector and pattern not in names
        if names_it(pattern, names) and not is_vector_by_chance:
            raise RecipeError(f"only={pattern} names '{names[0]}', which cannot be pruned: {reason}.")


def overlaps(spans: Iterable[tuple[str, int, int, str]]) -> dict[str, str]:
    """{name: reason} of what shares part of its memory with another; spans are (place, start, end, name)."""
    reasons: dict[str, str] = {}
    farthest = ("", 0, 0, "")
    for span in sorted(spans):
        if span[0] == farthest[0] and span[1] < farthest[2]:
            reasons[span[3]] = f"shares part of its memory with '{farthest[3]}'"
            reasons.setdefault(farthest[3], f"shares part of its memory with '{span[3]}'")
        if span[0] != farthest[0] or span[2] > farthest[2]:
            farthest = span
    return reasons


def _left_alone(name: str, is_table: bool, skip: Sequence[str], has_only: bool, is_named: bool) -> str:
    """Why one name of a weight is left alone by default or by request, or ""."""
    for pattern in skip:
        if fnmatchcase(name, pattern):
            return f"skip={pattern}"
    if has_only:
        return "" if is_named else "not in only"
    if is_table or _TABLES.search(name):
        return "embedding, class token or position table"
    if name.endswith(("weight_g", "weight.original0")):
        return "gain of a weight norm"
    return ""
