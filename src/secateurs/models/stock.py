"""Stock: a pretrained network's encoder for stock loaders, its head beside it.

save_stock(network, tokenizer, directory)      AutoModel.from_pretrained(directory), head.safetensors
"""

import os
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes

from secateurs.data.tokenizing import save_tokenizer
from secateurs.durable import make_directory, write_bytes
from secateurs.errors import RecipeError
from secateurs.models.network import Network
from secateurs.models.pretrained import Pretrained, described, quiet
from secateurs.models.vocabulary import whole_vocabulary

HEAD_FILE = "head.safetensors"


def save_stock(module: Network, tokenizer: str, directory: str | os.PathLike[str]) -> None:
    """Write the encoder and its tokenizer as transformers does, and the head as head.safetensors.

    The head's `weight` and `bias` are a linear layer on the encoder's `last_hidden_state`: of its first token, or the
    mean of all, as the file's metadata say under `pooling`. A trimmed vocabulary is written whole, the tokens that are
    gone as the unknown one, so that the tokenizer fits and the answers are the same.

    RecipeError where the encoder was shrunk to sizes that its configuration cannot say.
    """
    if not isinstance(module, Pretrained):
        raise RecipeError(f"Only the network 'pretrained' has a form for stock loaders; got {type(module).__name__}.")
    whole = whole_vocabulary(module)
    with torch.device("meta"):
        plan = described(whole.stock).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in whole.encoder.state_dict().items()}
    if odd := [name for name, shape in shapes.items() if name not in plan or tuple(plan[name].shape) != shape]:
        raise RecipeError(f"The encoder's configuration cannot say the size of {odd[0]!r}: save it with save_shrunk.")
    folder = Path(directory)
    make_directory(folder)
    save_tokenizer(tokenizer, folder)
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in whole.head.state_dict().items()}
    write_bytes(folder / HEAD_FILE, to_bytes(head, {"format": "pt", "pooling": whole.pooling}))
    whole.encoder.config._name_or_path = ""
    with quiet():
        whole.encoder.save_pretrained(folder)
