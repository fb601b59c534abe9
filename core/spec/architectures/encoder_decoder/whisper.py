"""Whisper (arXiv 2212.04356): a decoder of text beside an encoder of sound, which is a tower as that of images is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from ...hf_values import COUNT, DTYPE, FLAG, LAYERS, NULL, TEXT
from ...names import Names, Naming
from ...stack import AttentionSpec, LayerSpec, MLPSpec, NormSpec, StackSpec
from .. import Architecture

DEFAULTS: dict[str, Any] = {
    "vocab_size": 51865,
    "num_mel_bins": 80,
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_layers": 4,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 1536,
    "activation_function": "gelu",
    "scale_embedding": False,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
    "pad_token_id": 50256,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "decoder_start_token_id": 50257,
}
VALUES = {
    **dict.fromkeys(("vocab_size", "num_mel_bins", "d_model", "max_source_positions", "max_target_positions"), COUNT),
    **{f"{part}_{key}": COUNT for part in ("encoder", "decoder") for key in ("ffn_dim", "attention_heads")},
    **{f"{part}_layers": LAYERS for part in ("encoder", "decoder")},
    "activation_function": TEXT,
    **dict.fromkeys(("scale_embedding", "is_encoder_decoder", "tie_word_embeddings"), FLAG),
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}
OTHER_NAMES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_key_value_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    """Raises ModelError for what we do not compute."""
    if not hf["is_encoder_decoder"] or not hf["tie_word_embeddings"]:
        raise ModelError("config.json: is_encoder_decoder or tie_word_embeddings is false, which is not supported for Whisper")
    hidden, heads = hf["d_model"], hf["decoder_attention_heads"]
    if hidden % heads:
        raise ModelError(f"config.json: {heads} attention heads cannot share {hidden} features")
    dim = hidden // heads
    sizes = {"num_heads": heads, "num_kv_heads": heads, "head_dim": dim, "scale": dim**-0.5}
    attention = AttentionSpec(**sizes, qkv_bias=True, key_bias=False, out_bias=True)
    mlp = MLPSpec(size=hf["decoder_ffn_dim"], activation=hf["activation_function"], gated=False, bias=True)
    return StackSpec(
        names=Names(
            words="model.decoder.embed_tokens",
            positions="model.decoder.embed_positions",
            layer="model.decoder.layers.{}",
            attention_norm="self_attn_layer_norm",
            qkv=tuple(f"self_attn.{one}_proj" for one in "qkv"),
            attention_out="self_attn.out_proj",
            cross_norm="encoder_attn_layer_norm",
            cross_qkv=tuple(f"encoder_attn.{one}_proj" for one in "qkv"),
            cross_out="encoder_attn.out_proj",
            mlp_norm="final_layer_norm",
            up=("fc1",),
            down="fc2",
            final_norm="model.decoder.layer_norm",
            head="proj_out",
        ),
        naming=Naming(("model.",), media=("model.encoder.", "encoder.")),
        vocab_size=hf["vocab_size"],
        hidden_size=hidden,
        layers=(LayerSpec(attention=attention, cross=attention, feed_forward=mlp),) * hf["decoder_layers"],
        norm=NormSpec(eps=1e-5, centered=True, bias=True),
        num_positions=hf["max_target_positions"],
        embedding_scale=hidden**0.5 if hf["scale_embedding"] else 1.0,
        tie_embeddings=True,
        tower_positions=hf["max_source_positions"],
    )


ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES, other_names=OTHER_NAMES, end_token=50256)
