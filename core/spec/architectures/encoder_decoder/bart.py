"""BART (arXiv 1910.13461): BERT's layers with a decoder, learned positions that begin with the third row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError, VariantError
from ...hf_values import COUNT, DTYPE, FLAG, LAYERS, NULL, TEXT, WHOLE
from ...names import Names, Naming
from ...stack import AttentionSpec, LayerSpec, MLPSpec, NormSpec, StackSpec
from .. import Architecture

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    **{
        f"{part}_{key}": size
        for part in ("encoder", "decoder")
        for key, size in (("layers", 12), ("ffn_dim", 4096), ("attention_heads", 16))
    },
    "activation_function": "gelu",
    "d_model": 1024,
    "scale_embedding": False,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
}
VALUES = {
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "d_model"), COUNT),
    **{f"{part}_{key}": COUNT for part in ("encoder", "decoder") for key in ("ffn_dim", "attention_heads")},
    **{f"{part}_layers": LAYERS for part in ("encoder", "decoder")},
    "activation_function": TEXT,
    **dict.fromkeys(("scale_embedding", "is_encoder_decoder", "tie_word_embeddings"), FLAG),
    "pad_token_id": WHOLE | NULL,
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}
OTHER_NAMES = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads", "num_hidden_layers": "encoder_layers"}
#: Rows of the position table before the first.
OFFSET = 2


def stack(hf: Mapping[str, Any]) -> StackSpec:
    positions = {"num_positions": hf["max_position_embeddings"] + OFFSET, "position_offset": OFFSET}
    return bart(hf, pre_norm=False, embedding_norm=True, **positions)


def bart(
    hf: Mapping[str, Any], *, pre_norm: bool, embedding_norm: bool, logits_bias: bool = True, shared: bool = True, **both: Any
) -> StackSpec:
    """The stack of BART and its descendants. Raises ModelError for what we do not compute, VariantError for a decoder by itself.

    Args:
        embedding_norm: embeddings are normed. With norms before the parts there is one at the end, too.
        logits_bias: logits have a fixed bias.
        shared: encoder and decoder have one embedding.
        both: of both `StackSpec`s, such as positions.
    """
    if not hf["is_encoder_decoder"]:
        raise VariantError("config.json: is_encoder_decoder is false: a decoder by itself")
    if not hf["tie_word_embeddings"]:
        raise ModelError("config.json: tie_word_embeddings is false, which is not supported for models with an encoder of this kind")
    hidden = hf["d_model"]
    computed = ("embed_positions.weight", "embed_positions.weights") if both.get("sinusoids") else ()
    twice = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight") if shared else ()
    common: dict[str, Any] = {
        "naming": Naming(("model.",), buffers=(*computed, *twice)),
        "vocab_size": hf["vocab_size"],
        "hidden_size": hidden,
        "norm": NormSpec(eps=1e-5, centered=True, bias=True),
        "pre_norm": pre_norm,
        "embedding_scale": hidden**0.5 if hf["scale_embedding"] else 1.0,
        **both,
    }

    def layers(part: str) -> tuple[LayerSpec, ...]:
        heads, count = hf[f"{part}_attention_heads"], hf[f"{part}_layers"]
        if hidden % heads:
            raise ModelError(f"config.json: {heads} attention heads cannot share {hidden} features")
        dim = hidden // heads
        sizes = {"num_heads": heads, "num_kv_heads": heads, "head_dim": dim, "scale": dim**-0.5}
        attention = AttentionSpec(**sizes, qkv_bias=True, out_bias=True)
        mlp = MLPSpec(size=hf[f"{part}_ffn_dim"], activation=hf["activation_function"], gated=False, bias=True)
        return (LayerSpec(attention=attention, cross=attention if part == "decoder" else None, feed_forward=mlp),) * count

    def names(part: str) -> Names:
        return Names(
            words="model.shared" if shared else f"model.{part}.embed_tokens",
            positions=f"model.{part}.embed_positions",
            embedding_norm=f"model.{part}.layernorm_embedding" if embedding_norm else "",
            layer=f"model.{part}.layers.{{}}",
            attention_norm="self_attn_layer_norm",
            qkv=tuple(f"self_attn.{one}_proj" for one in "qkv"),
            attention_out="self_attn.out_proj",
            cross_norm="encoder_attn_layer_norm",
            cross_qkv=tuple(f"encoder_attn.{one}_proj" for one in "qkv"),
            cross_out="encoder_attn.out_proj",
            mlp_norm="final_layer_norm",
            up=("fc1",),
            down="fc2",
            final_norm=f"model.{part}.layer_norm" if pre_norm else "",
            head="lm_head",
            logits_bias="final_logits_bias",
        )

    return StackSpec(
        **common,
        names=names("decoder"),
        layers=layers("decoder"),
        tie_embeddings=True,
        logits_bias=logits_bias,
        encoder=StackSpec(**common, names=names("encoder"), layers=layers("encoder")),
    )


ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES, other_names=OTHER_NAMES, end_token=2)
