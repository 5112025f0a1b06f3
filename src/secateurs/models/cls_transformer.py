"""A transformer classifier with a class token: the network whose CLS head and FFN layers the story follows.

Made for one slow CPU thread: few tokens, few small operations, one matrix product for query, key and value.
"""

from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateurs.data.lengths import PADDING, cut
from secateurs.data.shape import InputShape
from secateurs.errors import InputError, RecipeError
from secateurs.models.network import Network, whole

STD = 0.02


@final
class Attention(nn.Module):
    """Multi-head self-attention; with `first_only`, only the first token asks (and all tokens answer)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads  # `shrink` changes it
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor, is_token: Tensor | None, first_only: bool) -> Tensor:
        batch, n_tokens, _ = x.shape
        split = self.query_key_value(x).view(batch, n_tokens, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each (batch, heads, tokens, dim / heads)
        if first_only:
            query = query[:, :, :1]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=is_token)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out


@final
class FeedForward(nn.Module):
    """dim -> ffn -> dim. ReLU and not GELU: as accurate here, and a fifth of a training step faster."""

    def __init__(self, dim: int, ffn: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, ffn)
        self.down = nn.Linear(ffn, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.relu(self.up(x)))
        return out


@final
class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, is_token: Tensor | None, first_only: bool) -> Tensor:
        mixed = self.dropout(self.attention(self.attention_norm(x), is_token, first_only))
        x = (x[:, :1] if first_only else x) + mixed
        out: Tensor = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return out


@final
class CLSTransformer(Network):
    """Embed patches or tokens, put a learned class token in front, attend, classify the class token.

    dim      width of the residual stream, divisible by heads
    depth    number of blocks
    heads    attention heads
    ffn      hidden width of the feed-forward layers; 0 means 4 * dim
    patch    images: the side of a square patch, or "2x8" (height x width); 0 picks one by image size
    dropout  after attention and feed-forward, while training

    Token id 0 is padding: it is never attended to, so columns of padding never change a result.
    Dosovitskiy et al. 2020, arXiv:2010.11929; Devlin et al. 2018, arXiv:1810.04805.
    """

    tracked: ClassVar[dict[str, str]] = {"cls-head": "head.weight", "ffnn": "blocks.0.ffn.up.weight"}
    initialiser = (
        f"truncated normal with standard deviation {STD}, cut at +-2 (as in ViT) for every matrix, "
        "the class token and the embeddings; biases zero: a narrow bell"
    )

    def __init__(
        self,
        shape: InputShape,
        dim: int = 64,
        depth: int = 2,
        heads: int = 2,
        ffn: int = 0,
        patch: int | str = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        dim = whole(dim, "dim", 1, 16_384)
        depth = whole(depth, "depth", 1, 256)
        heads = whole(heads, "heads", 1, dim)
        ffn = whole(ffn, "ffn", 0, 65_536) or 4 * dim
        if dim % heads:
            raise RecipeError(f"dim must be divisible by heads; found dim={dim}, heads={heads}.")
        if isinstance(dropout, bool | str) or not 0 <= dropout < 1:
            raise RecipeError(f"dropout must be a number in [0, 1); found {dropout!r}.")
        if shape.kind == "image":
            channels, height, width = shape.size
            self.patch = patch_size(patch, height, width)
            n_tokens = (height // self.patch[0]) * (width // self.patch[1])
            self.patches = nn.Linear(channels * self.patch[0] * self.patch[1], dim)
        else:
            if patch != 0:
                raise RecipeError(f"patch is for images; the data are {shape}. Leave patch={patch!r} out.")
            n_tokens = shape.size[1]
            # from_pretrained, because nn.Embedding(...) draws normal numbers first, to be thrown away below.
            table = torch.empty(shape.size[0], dim)
            self.tokens: nn.Embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
                table, freeze=False, padding_idx=PADDING
            )
        self.reads_tokens = shape.kind == "tokens"
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + n_tokens, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, ffn, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, shape.n_classes)
        self._initialise()

    @property
    def hidden_names(self) -> tuple[str, ...]:
        """The blocks."""
        return tuple(f"blocks.{i}" for i in range(len(self.blocks)))

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=STD)
        nn.init.trunc_normal_(self.position_embedding, std=STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=STD)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=STD)
                with torch.no_grad():
                    module.weight[PADDING].zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, n_classes) of images (batch, channels, height, width) or token ids (batch, length)."""
        if self.reads_tokens:
            x, is_token = self._embed_tokens(x)
        else:
            x, is_token = self._embed_image(x), None
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)  # (batch, 1 + tokens, dim)
        x = x + self.position_embedding[:, : x.shape[1]]
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            # The head reads the class token alone, so the last block computes nothing else.
            x = block(x, is_token, first_only=i == last)
        out: Tensor = self.head(self.norm(x[:, 0]))
        return out

    def _embed_image(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        h, w = self.patch
        x = x.reshape(batch, channels, height // h, h, width // w, w)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * h * w)
        out: Tensor = self.patches(x)  # (batch, tokens, dim)
        return out

    def _embed_tokens(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        longest = self.position_embedding.shape[1] - 1
        if ids.shape[1] > longest:
            raise InputError(f"Sequences of {ids.shape[1]} tokens; this network reads at most {longest}. Cut them.")
        ids = cut(ids)
        is_token = F.pad(ids != PADDING, (1, 0), value=True)  # the class token is never padding
        return self.tokens(ids), is_token[:, None, None, :]


def patch_size(patch: int | str, height: int, width: int) -> tuple[int, int]:
    """(height, width) of a patch from 4, "2x8" or 0 (pick one); RecipeError unless patches tile the image.

    >>> patch_size(0, 8, 8), patch_size(0, 28, 28), patch_size("2x8", 8, 8)
    ((4, 4), (7, 7), (2, 8))
    """
    sides = [side for side in range(1, 1 + min(height, width)) if height % side == 0 == width % side]
    if patch == 0:
        # Few tokens make a fast step: the smallest square of 4 pixels or more that leaves at most 16 of them.
        fitting = [side for side in sides if side >= 4 and (height // side) * (width // side) <= 16]
        return (fitting[0], fitting[0]) if fitting else (height, width)
    try:
        h, w = (int(side) for side in (patch.split("x") if isinstance(patch, str) else (patch, patch)))
    except (TypeError, ValueError):
        raise RecipeError(
            f'patch must be a whole number or text like "2x8" (height x width); found {patch!r}.'
        ) from None
    if h < 1 or w < 1 or height % h or width % w:
        raise RecipeError(
            f"patch must divide the image; {h}x{w} patches do not tile {height}x{width}. "
            f"Squares that do have sides {', '.join(map(str, sides))}."
        )
    return h, w
