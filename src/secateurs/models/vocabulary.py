"""Vocabulary: a pretrained network without the embeddings of tokens that its data never hold, and with them again.

trim_vocabulary(network, data.x_train, data.unknown) -> network      whole_vocabulary(network) -> network
"""

import copy

import torch
from torch import Tensor, nn

from secateurs.data.lengths import PADDING
from secateurs.errors import InputError, RecipeError
from secateurs.models.network import Network
from secateurs.models.pretrained import Pretrained


@torch.no_grad()
def trim_vocabulary(module: Network, ids: Tensor, unknown: int) -> Pretrained:
    """A copy of the network without the embeddings of tokens that are not in `ids`, which it then reads as `unknown`.

    ids      the training data, such as data.x_train; what the network answers to texts of their tokens stays as it is
    unknown  the tokenizer's id for what it does not know: data.unknown

    The tokenizer stays: the network keeps the new place of each of its ids, in the buffer `new_ids`.
    """
    if not isinstance(module, Pretrained):
        raise RecipeError(f"Only the network 'pretrained' has a vocabulary to trim; got {type(module).__name__}.")
    used = torch.unique(torch.cat([ids.flatten(), torch.tensor([PADDING, unknown])]))
    if int(used.min()) < 0 or int(used.max()) >= module.n_ids:
        raise InputError(f"ids from {int(used.min())} to {int(used.max())}; the network reads 0 to {module.n_ids - 1}.")
    rows = torch.arange(module.n_ids) if module.new_ids is None else module.new_ids.long().cpu()
    kept = torch.unique(rows[used])
    out = copy.deepcopy(module)
    n_old = out.encoder.get_input_embeddings().num_embeddings
    place = torch.full((n_old,), int(torch.searchsorted(kept, rows[unknown])), dtype=torch.int32)
    place[kept] = torch.arange(len(kept), dtype=torch.int32)
    if len(kept) < out.n_ids:
        _take_rows(out, kept)
        out.new_ids = place[rows].to(out.head.weight.device)
    return out


def whole_vocabulary(module: Pretrained) -> Pretrained:
    """A copy that has an embedding for every id again, those that were trimmed the one of `unknown`: equal answers."""
    out = copy.deepcopy(module)
    if out.new_ids is not None:
        _take_rows(out, out.new_ids.long())
        out.new_ids = None
    return out


@torch.no_grad()
def _take_rows(module: Pretrained, rows: Tensor) -> None:
    """Let the embedding have these of its rows, in this order."""
    old = module.encoder.get_input_embeddings()
    taken = old.weight[rows.to(old.weight.device)].clone()
    padding = None if old.padding_idx is None else PADDING
    new = nn.Embedding(len(taken), taken.shape[1], padding_idx=padding, device="meta")
    new.weight = nn.Parameter(taken, old.weight.requires_grad)
    module.encoder.set_input_embeddings(new)
    module.encoder.config.vocab_size = len(rows)
