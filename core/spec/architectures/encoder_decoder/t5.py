"""T5 and FLAN-T5 (arXiv 1910.10683): norms before the parts, no positions but a learned bias by distance, unscaled scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from ...distances import DistanceSpec
from ...hf_values import COUNT, DTYPE, FLAG, LAYERS, NULL, POSITIVE, TEXT
from ...names import Names, Naming
from ...stack import AttentionSpec, LayerSpec, MLPSpec, NormSpec, StackSpec
from .. import Architecture

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "is_encoder_decoder": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
VALUES = {
    **dict.fromkeys(("vocab_size", "d_model", "d_kv", "d_ff", "num_heads"), COUNT),
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS | NULL,
    **dict.fromkeys(("relative_attention_num_buckets", "relative_attention_max_distance"), COUNT),
    "layer_norm_epsilon": POSITIVE,
    "feed_forward_proj": TEXT,
    **dict.fromkeys(("is_encoder_decoder", "scale_decoder_outputs"), FLAG),
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}
OTHER_NAMES = {"hidden_size": "d_model", "head_dim": "d_kv", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
#: Tensors that old files have: the embedding under further names, and a table that no layer reads.
_UNREAD = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "EncDecAttention.relative_attention_bias.weight")


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return t5(hf, scaled=scales(hf))


def scales(hf: Mapping[str, Any]) -> bool:
    """True if hidden states are divided by the root of their size before the head.

    A key of transformers 5 says so; files before that say it by a tie that is none.
    """
    return bool(hf.get("scale_decoder_outputs", hf.get("tie_word_embeddings") is not False))


def t5(hf: Mapping[str, Any], *, scaled: bool, per_layer: bool = False) -> StackSpec:
    """The stack of T5 and its descendants. Raises ModelError for what we do not compute.

    Args:
        scaled: hidden states are divided by the root of their size before the head.
        per_layer: each layer has a bias by distance of its own.
    """
    if not hf["is_encoder_decoder"]:
        raise ModelError("config.json: is_encoder_decoder is false; T5's encoder without its decoder is not supported")
    mlp, heads = _mlp(hf), hf["num_heads"]
    sizes = {"num_heads": heads, "num_kv_heads": heads, "head_dim": hf["d_kv"], "scale": 1.0}
    attention = AttentionSpec(**sizes)
    buckets = hf["relative_attention_num_buckets"], hf["relative_attention_max_distance"]
    distances = {"buckets": buckets[0], "max_distance": buckets[1], "per_layer": per_layer}
    if buckets[0] < 4 or buckets[0] % 2 or buckets[1] <= buckets[0] // 2:
        raise ModelError(f"config.json: {buckets[0]} buckets of distances up to {buckets[1]} are not supported")
    common: dict[str, Any] = {
        "naming": Naming(("transformer.",), buffers=_UNREAD),
        "vocab_size": hf["vocab_size"],
        "hidden_size": hf["d_model"],
        "norm": NormSpec(eps=hf["layer_norm_epsilon"]),
    }
    encoder = StackSpec(
        **common,
        names=_names("encoder", 1, mlp, per_layer),
        layers=(LayerSpec(attention=attention, feed_forward=mlp),) * hf["num_layers"],
        relative=DistanceSpec(**distances),
    )
    layer = LayerSpec(attention=attention, cross=attention, feed_forward=mlp)
    return StackSpec(
        **common,
        names=_names("decoder", 2, mlp, per_layer),
        layers=(layer,) * (hf.get("num_decoder_layers") or hf["num_layers"]),
        relative=DistanceSpec(**distances, causal=True),
        tie_embeddings=True,  # unless the checkpoint has both
        logits_scale=hf["d_model"] ** -0.5 if scaled else 1.0,
        encoder=encoder,
    )


def _names(part: str, last: int, mlp: MLPSpec, per_layer: bool) -> Names:
    """Of the encoder, or of the decoder, whose feed-forward part is its layers' number `last`."""
    own = "layer.0.SelfAttention"
    return Names(
        words="shared",
        relative=f"{part}.block.{'{}' if per_layer else 0}.{own}.relative_attention_bias",
        layer=f"{part}.block.{{}}",
        attention_norm="layer.0.layer_norm",
        qkv=tuple(f"{own}.{name}" for name in "qkv"),
        attention_out=f"{own}.o",
        cross_norm="layer.1.layer_norm",
        cross_qkv=tuple(f"layer.1.EncDecAttention.{name}" for name in "qkv"),
        cross_out="layer.1.EncDecAttention.o",
        mlp_norm=f"layer.{last}.layer_norm",
        up=tuple(f"layer.{last}.DenseReluDense.{name}" for name in (("wi_0", "wi_1") if mlp.gated else ("wi",))),
        down=f"layer.{last}.DenseReluDense.wo",
        final_norm=f"{part}.final_layer_norm",
        head="lm_head",
    )


def _mlp(hf: Mapping[str, Any]) -> MLPSpec:
    kind, _, activation = hf["feed_forward_proj"].rpartition("-")
    if kind not in ("", "gated"):
        raise ModelError(
            f"config.json: feed_forward_proj {hf['feed_forward_proj']!r} is not supported (known: gated-ACTIVATION, ACTIVATION)"
        )
    if kind and activation == "gelu":  # what this has always stood for
        activation = "gelu_new"
    return MLPSpec(size=hf["d_ff"], activation=activation, gated=bool(kind))


ARCHITECTURE = Architecture(
    stack=stack, defaults=DEFAULTS, values=VALUES, other_names=OTHER_NAMES, end_token=1, unsafe_dtypes=frozenset({"float16"})
)
