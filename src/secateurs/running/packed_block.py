"""PackedBlock: a whole layer of a transformer for inference, its weights packed; nothing of torch between its products.

    parts = parts_of(layer)                       # None where it is no layer that is known here
    block = PackedBlock(parts, ["bitmask"] * 4, "w8a8")

Query, key and value are one product, so an input is rounded once for all three. To add a kind of layer: its function in
KINDS, and what it is called with in a class of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateurs.errors import InputError
from secateurs.layout import layout_of
from secateurs.models.cls_transformer import Block
from secateurs.running import encoding
from secateurs.running.curves import GELU, GELU_TANH, NONE, RELU
from secateurs.running.packed_linear import PackedLinear
from secateurs.running.products import Floats, multiplied, team_for
from secateurs.running.ready import Ready

MASKED = -3e38  # what is added to the score of a key that is not to be heard: finite, as all keys may be such
_NOTHING: Floats = np.zeros(0, np.float32)
_Known = tuple[list[tuple[Ready, Floats]], list[tuple[Any, ...]]]
# Layers of transformers that are BERT's: `attention.self`, `attention.output`, `intermediate`, `output`.
BERTS = ("BertLayer", "CamembertLayer", "ElectraLayer", "RobertaLayer", "XLMRobertaLayer")
# And those that are ViT's: `attention.q_proj` to `attention.o_proj`, `mlp`.
VITS = ("DeiTLayer", "IJepaLayer", "ViTLayer", "ViTMSNLayer", "VivitLayer")
ACTIVATIONS = {
    "ReLU": RELU,
    "FastGELUActivation": GELU_TANH,
    "GELUActivation": GELU,
    "GELUTanh": GELU_TANH,
    "NewGELUActivation": GELU_TANH,
}


@dataclass(frozen=True, eq=False)
class Parts:
    """What a layer of a transformer is made of.

    linears     query, key and value, or all three in one; what follows the attention; to the wide states; and back:
                each nn.Linear or GPT-2's Conv1D
    heads       of the attention
    activation  of the wide states: RELU, GELU or GELU_TANH
    is_before   whether the norms come before the attention and the wide states, or after them
    norms       the attention's and that of the wide states
    layer_idx   its place, where it keeps keys and values
    scaling     what the scores are multiplied by, where that is not 1 / sqrt(dim)
    """

    linears: tuple[tuple[Any, ...], Any, Any, Any]
    heads: int
    activation: int
    is_before: bool
    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    kind: "type[PackedBlock]"
    layer_idx: int | None = None
    scaling: float | None = None

    @property
    def all_linears(self) -> tuple[Any, ...]:
        """Every one of them."""
        return (*self.linears[0], *self.linears[1:])

    @property
    def wide(self) -> tuple[int, int]:
        """(width of the wide states, width of the states)."""
        rows, columns = layout_of(self.linears[2], "weight").seen(tuple(self.linears[2].weight.shape))
        return rows, columns

    def weights(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of each of the four products."""
        found = []
        for some in (self.linears[0], *((each,) for each in self.linears[1:])):
            weights = [layout_of(each, "weight").turn(each.weight.detach()) for each in some]
            biases = [
                torch.zeros(len(weight)) if each.bias is None else each.bias.detach()
                for each, weight in zip(some, weights, strict=True)
            ]
            found.append((torch.cat(weights), torch.cat(biases)))
        return found


class PackedBlock(nn.Module):
    """A layer of a transformer whose four products are packed.

    It computes in float32 on the CPU, on as many threads as torch may use, and gives back the input's dtype; no
    gradient reaches it, and it drops nothing out.
    """

    def __init__(self, parts: Parts, formats: Sequence[str], values: str) -> None:
        """formats, values  of the four products, and of all of them, as PackedLinear takes them: "blocks 32x32"."""
        super().__init__()
        self.heads, self.activation, self.is_before = parts.heads, parts.activation, parts.is_before
        self.linears = nn.ModuleList(
            _packed(weight, bias, each, values) for (weight, bias), each in zip(parts.weights(), formats, strict=True)
        )
        self.eps = [float(each.eps) for each in parts.norms]
        for i, each in enumerate(parts.norms):
            n = each.normalized_shape[0]
            weight = torch.ones(n) if each.weight is None else each.weight.detach()
            bias = torch.zeros(n) if each.bias is None else each.bias.detach()
            self.register_buffer(f"norm{i}_weight", weight.float().clone())
            self.register_buffer(f"norm{i}_bias", bias.float().clone())
        self.name = f"fused {sorted(set(formats))[0]} {values}"
        self._known: _Known | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all of its arrays."""
        return sum(each.nbytes for each in self.buffers())

    def encode(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        n_queries: int | None = None,
        attend: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The layer's output.

        x          (sequences, tokens, width), floating, on the CPU
        mask       (1 or sequences, 1, 1 or queries, tokens): where true a token is heard; or numbers, which are added
        n_queries  how many of the first tokens ask; None: all
        attend     in place of the attention: from (sequences, tokens, 3 * heads * dim), of each token its query, key
                   and value, to (sequences, tokens, heads * dim)
        returns    (sequences, queries, width) in x's dtype
        """
        if torch.compiler.is_compiling():  # which leaves it alone
            found: Tensor = torch.compiler.disable(self._encoded)(x, mask, n_queries, attend)  # type: ignore[no-untyped-call]
            return found
        return self._encoded(x, mask, n_queries, attend)

    def _encoded(
        self, x: Tensor, mask: Tensor | None, n_queries: int | None, attend: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        if not x.is_cpu or not x.is_floating_point() or x.dim() != 3:
            raise InputError(f"A packed layer takes (sequences, tokens, width) on the CPU; x is {tuple(x.shape)}.")
        n_sequences, n_keys, width = x.shape
        n_queries = n_keys if n_queries is None else n_queries
        tokens: Floats = x.detach().float().contiguous().numpy().reshape(-1, width)
        if not tokens.size:
            return x[:, :n_queries]
        qkv = self._product(0, self._normed(0, tokens, _NOTHING)[1] if self.is_before else tokens)
        if attend is None:
            states = self._heard(qkv, (n_sequences, n_keys, n_queries), mask)
        else:
            heard = attend(torch.from_numpy(qkv.reshape(n_sequences, n_keys, -1)))
            states = heard.contiguous().numpy().reshape(len(tokens), -1)
        if n_queries < n_keys:
            tokens = np.ascontiguousarray(tokens.reshape(n_sequences, n_keys, width)[:, :n_queries]).reshape(-1, width)
        mixed = self._product(1, states)
        if self.is_before:
            added, states = self._normed(1, tokens, mixed)
            y = added + self._widened(states)
        else:
            _, states = self._normed(0, tokens, mixed)
            _, y = self._normed(1, states, self._widened(states))
        found = torch.from_numpy(y.reshape(n_sequences, n_queries, width))
        return found if x.dtype == torch.float32 else found.to(x.dtype)

    def _heard(self, qkv: Floats, sizes: tuple[int, int, int], mask: Tensor | None) -> Floats:
        """What each token that asks heard, of all heads."""
        dim = qkv.shape[1] // 3 // self.heads
        shape = (*sizes, self.heads, dim)
        added, steps = _added(mask, sizes)
        out = np.empty((sizes[0] * sizes[2], self.heads * dim), np.float32)
        where, n = team_for(qkv.size + sizes[0] * self.heads * sizes[1] * sizes[2])
        room = np.empty((1 if n == 1 else n * encoding.PARTS) * encoding.room_of(shape), np.float32)
        encoding.mix(qkv.reshape(-1), shape, added, steps, room, out.reshape(-1), encoding.TILE, where, n)
        return out

    def _widened(self, states: Floats) -> Floats:
        return self._product(3, self._product(2, states, self.activation))

    def _product(self, i: int, tokens: Floats, curve: int = NONE) -> Floats:
        weight, bias = self._ready()[0][i]
        return multiplied(weight, tokens, bias, curve)

    def _normed(self, i: int, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """(x + y, its norm)."""
        added, out = np.empty_like(x), np.empty_like(x)
        weight, bias, eps = self._ready()[1][i]
        where, n = team_for(x.size)
        encoding.norm(x.reshape(-1), y.reshape(-1), weight, bias, eps, added.reshape(-1), out.reshape(-1), where, n)
        return added, out

    def _ready(self) -> "_Known":
        """What the loops read: a product's weight and bias, a norm's weight, bias and epsilon; as numpy has them."""
        if self._known is None:
            layers: list[Any] = list(self.linears)
            norms = [(self.get_buffer(f"norm{i}_weight"), self.get_buffer(f"norm{i}_bias")) for i in range(2)]
            self._known = (
                [(each.ready(), each.bias.numpy()) for each in layers],
                [(*(each.numpy() for each in pair), eps) for pair, eps in zip(norms, self.eps, strict=True)],
            )
        return self._known

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._known = None
        super()._load_from_state_dict(*arguments, **options)

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own views."""
        return {**self.__dict__, "_known": None}

    def _apply(self, function: Any, recurse: bool = True) -> "PackedBlock":
        """Kept as it is, as a packed layer is."""
        return self

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return f"heads={self.heads}, {self.name}, {self.nbytes:,} bytes"


class PackedEncoder(PackedBlock):
    """A layer of an encoder, as transformers calls it."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *others: Any, **more: Any) -> Tensor:
        """(sequences, tokens, width) -> the same."""
        told = [*others, *(more.get(key) for key in ("encoder_hidden_states", "past_key_values"))]
        if any(each is not None for each in told):
            raise InputError("A packed layer of an encoder keeps no keys and values, and hears no other states.")
        return self.encode(hidden_states, attention_mask)


class PackedCLS(PackedBlock):
    """A layer of this package's CLSTransformer."""

    def forward(self, x: Tensor, is_token: Tensor | None, first_only: bool) -> Tensor:
        """(sequences, tokens, width) -> the same, or that of the first tokens."""
        return self.encode(x, is_token, 1 if first_only else None)


class PackedGPT2(PackedBlock):
    """A layer of GPT-2, as transformers calls it, with its cache of keys and values; torch attends."""

    def __init__(self, parts: Parts, formats: Sequence[str], values: str) -> None:
        super().__init__(parts, formats, values)
        self.layer_idx, self.scaling = parts.layer_idx, parts.scaling

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        *others: Any,
        **more: Any,
    ) -> Tensor:
        """(sequences, tokens, width) -> the same."""
        if encoder_hidden_states is not None:
            raise InputError("A packed layer of a decoder hears no other states.")

        def attend(qkv: Tensor) -> Tensor:
            split = qkv.view(*qkv.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            query, key, value = split.unbind(0)  # each (sequences, heads, tokens, dim)
            if past_key_values is not None:
                key, value = past_key_values.update(key, value, self.layer_idx)
            is_causal = query.shape[2] > 1 and attention_mask is None
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=attention_mask, is_causal=is_causal, scale=self.scaling
            )
            return mixed.transpose(1, 2).flatten(2)

        return self.encode(hidden_states, attend=attend)


def parts_of(layer: nn.Module) -> Parts | None:
    """What the layer is made of; None where it is of no kind that is known, or of parts that are not torch's own."""
    for kind in KINDS:
        parts = kind(layer)
        if parts is not None:
            linears, norms = parts.all_linears, parts.norms
            is_known = all(type(each) is nn.Linear or layout_of(each, "weight").is_turned for each in linears) and all(
                type(each) is nn.LayerNorm and len(each.normalized_shape) == 1 for each in norms
            )
            return parts if is_known else None
    return None


def _is_one_of(layer: nn.Module, *names: str) -> bool:
    """Whether it is of a class of transformers of such a name."""
    return type(layer).__name__ in names and type(layer).__module__.startswith("transformers.")


def _of_bert(layer: Any) -> Parts | None:
    if not _is_one_of(layer, *BERTS):
        return None
    own, after, wide = layer.attention.self, layer.attention.output, layer.intermediate
    activation = ACTIVATIONS.get(type(wide.intermediate_act_fn).__name__)
    if activation is None or layer.is_decoder or layer.add_cross_attention:
        return None
    return Parts(
        ((own.query, own.key, own.value), after.dense, wide.dense, layer.output.dense),
        own.num_attention_heads,
        activation,
        False,
        (after.LayerNorm, layer.output.LayerNorm),
        PackedEncoder,
    )


def _of_distilbert(layer: Any) -> Parts | None:
    if not _is_one_of(layer, "TransformerBlock") or "distilbert" not in type(layer).__module__:
        return None
    own, wide = layer.attention, layer.ffn
    activation = ACTIVATIONS.get(type(wide.activation).__name__)
    if activation is None:
        return None
    return Parts(
        ((own.q_lin, own.k_lin, own.v_lin), own.out_lin, wide.lin1, wide.lin2),
        own.n_heads,
        activation,
        False,
        (layer.sa_layer_norm, layer.output_layer_norm),
        PackedEncoder,
    )


def _of_vit(layer: Any) -> Parts | None:
    if not _is_one_of(layer, *VITS) or not hasattr(layer.attention, "q_proj"):  # which older ones called otherwise
        return None
    own, wide = layer.attention, layer.mlp
    activation = ACTIVATIONS.get(type(wide.activation_fn).__name__)
    if activation is None:
        return None
    return Parts(
        ((own.q_proj, own.k_proj, own.v_proj), own.o_proj, wide.fc1, wide.fc2),
        own.num_attention_heads,
        activation,
        True,
        (layer.layernorm_before, layer.layernorm_after),
        PackedEncoder,
    )


def _of_cls(layer: Any) -> Parts | None:
    if type(layer) is not Block:
        return None
    own, wide = layer.attention, layer.ffn
    linears = ((own.query_key_value,), own.output, wide.up, wide.down)
    return Parts(linears, own.heads, RELU, True, (layer.attention_norm, layer.ffn_norm), PackedCLS)


def _of_gpt2(layer: Any) -> Parts | None:
    if not _is_one_of(layer, "GPT2Block"):
        return None
    own, wide = layer.attn, layer.mlp
    activation = ACTIVATIONS.get(type(wide.act).__name__)
    implementation = own.config._attn_implementation
    if activation is None or hasattr(layer, "crossattention") or implementation not in ("sdpa", "eager"):
        return None
    return Parts(
        ((own.c_attn,), own.c_proj, wide.c_fc, wide.c_proj),
        own.num_heads,
        activation,
        True,
        (layer.ln_1, layer.ln_2),
        PackedGPT2,
        own.layer_idx,
        own.scaling,
    )


KINDS: tuple[Callable[[nn.Module], Parts | None], ...] = (_of_bert, _of_distilbert, _of_vit, _of_cls, _of_gpt2)


def _packed(weight: Tensor, bias: Tensor, text: str, values: str) -> PackedLinear:
    format, _, size = text.partition(" ")
    sizes = dict(zip("hw", map(int, size.split("x")), strict=True)) if size else {}
    return PackedLinear.from_weight(weight, bias, format, values, **sizes)


def _added(mask: Tensor | None, sizes: tuple[int, int, int]) -> tuple[Floats, tuple[int, int]]:
    """The mask as numbers to add, and how far apart those of sequences and of queries are."""
    if mask is None:
        return _NOTHING, (0, 0)
    n_sequences, n_keys, n_queries = sizes
    of = tuple(mask.shape)
    if len(of) != 4 or of[0] not in (1, n_sequences) or of[1] != 1 or of[2] not in (1, n_queries) or of[3] != n_keys:
        raise InputError(
            f"A packed layer takes a mask (1 or {n_sequences}, 1, 1 or {n_queries}, {n_keys}) here; this one is {of}."
        )
    if mask.dtype == torch.bool:
        numbers = torch.zeros(of).masked_fill_(~mask, MASKED)
    else:
        numbers = mask.detach().float().clamp_min(MASKED).contiguous()
    return numbers.numpy().reshape(-1), (0 if of[0] == 1 else of[2] * n_keys, 0 if of[2] == 1 else n_keys)
