"""Which tensors of a file a recipe may touch: by dtype, shape and the names of well-known networks."""

from pathlib import Path

import pytest

from secateurs.checkpoint.dtypes import DTYPES
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.prunable import entry_reason, entry_reasons
from secateurs.checkpoint.tensors import Entry
from secateurs.errors import RecipeError

TABLE = "embedding, class token or position table"
PRUNABLE_DTYPES = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


def weight(name: str, dtype: str = "F32", shape: tuple[int, ...] = (4, 4)) -> Entry:
    return Entry(name, dtype, shape)


def test_every_dtype_is_prunable_or_has_a_reason() -> None:
    reasons = {dtype: entry_reason(weight("w", dtype)) for dtype in DTYPES}
    assert {dtype for dtype, reason in reasons.items() if not reason} == PRUNABLE_DTYPES
    assert reasons["I64"] == "not floating point (I64)"
    assert reasons["C64"] == "not floating point (C64)"
    assert reasons["F4"] == "no order of sizes in F4"
    assert entry_reason(weight("w", shape=(3,))) == "one dimension (bias, norm or scalar)"
    assert entry_reason(weight("w", shape=())) == "one dimension (bias, norm or scalar)"
    assert entry_reason(Entry("w", "F32", (2, 2), unfit="for a reason")) == "for a reason"


@pytest.mark.parametrize(
    "name",
    [
        *("embeddings.word_embeddings.weight", "bert.embeddings.token_type_embeddings.weight"),
        *("embeddings.position_embeddings.weight", "wte.weight", "transformer.wpe.weight"),
        *("tokens_embed.weight", "positions_embed.weight"),  # OpenAI's GPT
        *("model.embed_tokens.weight", "tok_embeddings.weight", "model.embed_tokens_per_layer.weight"),
        *("gpt_neox.embed_in.weight", "word_embeddings.weight", "rwkv.emb.weight", "backbone.embeddings.weight"),
        *("encoder.embed_tokens.weight", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        *("vit.embeddings.cls_token", "vit.embeddings.position_embeddings", "deit.embeddings.distillation_token"),
        *("class_token", "encoder.pos_embedding", "features.0.attn.relative_position_bias_table"),  # torchvision
        *("cls_token", "pos_embed", "dist_token", "reg_token", "blocks.0.attn.rel_pos_h"),  # timm
        *("text_model.embeddings.token_embedding.weight", "vision_model.embeddings.class_embedding"),  # CLIP
        *("vision_model.embeddings.position_embedding.weight", "positional_embedding", "visual.class_embedding"),
        *("model.encoder.embed_positions.weight", "model.decoder.embed_tokens.weight"),  # Whisper
        *("decoder.token_embedding.weight", "decoder.positional_embedding"),
        *("tok_emb.weight", "pos_emb", "mask_token", "register_tokens", "embed_timestep.weight"),
    ],
)
def test_tables_of_well_known_networks_are_left_alone(name: str) -> None:
    assert entry_reason(weight(name)) == TABLE


@pytest.mark.parametrize(
    "name",
    [
        *("encoder.layer.0.attention.self.query.weight", "pooler.dense.weight", "h.0.attn.c_attn.weight"),
        *("model.layers.0.mlp.gate_proj.weight", "lm_head.weight", "embed_out.weight", "text_projection"),
        *("vit.embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight", "conv1.weight"),
        *("encoder.block.0.layer.0.SelfAttention.q.weight", "backbone.layers.0.mixer.in_proj.weight"),
        *("time_emb.0.weight", "shared.weight", "tokens_mixer.weight", "embedder.weight", "pos_conv_embed.conv.weight"),
    ],
)
def test_weights_of_well_known_networks_are_pruned(name: str) -> None:
    assert entry_reason(weight(name)) == ""


@pytest.mark.parametrize(
    "name",
    [
        *("h.0.attn.bias", "transformer.h.0.attn.masked_bias", "transformer.h.0.attn.attention.bias"),
        *("gpt_neox.layers.0.attention.bias", "layers.0.blocks.1.attn_mask", "model.rotary_emb.cos_cached"),
        *("freqs_cis", "freqs_cos", "layers.0.blocks.0.attn.relative_coords_table", "final_logits_bias"),
    ],
)
def test_masks_and_angles_in_old_files_are_no_weights(name: str) -> None:
    assert entry_reason(weight(name, shape=(1, 1, 8, 8))) == "a mask or a table of angles"


def test_an_embedding_that_only_its_layer_or_its_config_tells() -> None:
    assert entry_reason(Entry("shared.weight", "F32", (4, 4), is_table=True)) == TABLE
    assert entry_reason(Entry("shared.weight", "F32", (4, 4), is_table=True), only=["shared*"]) == ""


def test_skip_only_and_tied_names_as_in_a_live_network() -> None:
    tied = Entry("a.weight", "F32", (4, 4), aliases=("b.weight",))
    assert entry_reason(tied) == ""
    assert entry_reason(tied, skip=["b*"]) == "skip=b* (tied)"
    assert entry_reason(tied, only=["b*"]) == ""
    assert entry_reason(tied, only=["c*"]) == "not in only (tied)"
    assert entry_reason(Entry("a.weight", "F32", (4, 4), aliases=("wte.weight",))) == f"{TABLE} (tied)"
    assert entry_reason(weight("wte.weight"), only=["*"]) == ""
    assert entry_reason(weight("conv.weight_g"), []) == "gain of a weight norm"
    assert entry_reason(weight("conv.parametrizations.weight.original0")) == "gain of a weight norm"


def test_patterns_are_held_against_the_names() -> None:
    entries = [weight("body.weight"), weight("body.bias", shape=(4,)), weight("ids", "I64"), weight("wte.weight")]
    assert entry_reasons(entries, skip=["body.*"]) == [
        "skip=body.*",
        "one dimension (bias, norm or scalar)",
        "not floating point (I64)",
        TABLE,
    ]
    assert entry_reasons(entries, only=["*"])[0] == entry_reasons(entries, only=["*"])[3] == ""
    assert entry_reasons(entries, only=["body.*"])[0] == ""
    for where in ("skip", "only"):
        with pytest.raises(RecipeError, match=r"No tensor is called 'bdy\.weight'\. Did you mean 'body\.weight'\?"):
            entry_reasons(entries, **{where: ["bdy.weight"]})
    with pytest.raises(RecipeError, match=r"only=ids names 'ids', which cannot be pruned: not floating point"):
        entry_reasons(entries, only=["ids"])
    with pytest.raises(RecipeError, match=r"names 'body\.bias', which cannot be pruned: one dimension"):
        entry_reasons(entries, only=["body.bias"])
    assert entry_reasons(entries, only=["ids", "body.weight"], skip=["ids"])[2] == "not floating point (I64)"


def test_the_real_language_model(data_dir: Path) -> None:
    with open_checkpoint(data_dir / "weights_stories260k") as checkpoint:
        reasons = dict(zip([e.name for e in checkpoint.entries], entry_reasons(checkpoint.entries), strict=True))
    assert reasons["tok_embeddings.weight"] == TABLE
    assert sum(not reason for reason in reasons.values()) == 5 * 7
