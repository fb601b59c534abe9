"""BERT's reading of config.json, on top of which an encoder's file says its differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ModelError
from .hf_values import COUNT, DTYPE, FLAG, LAYERS, NULL, POSITIVE, TEXT, WHOLE, Kind
from .names import Names, Naming
from .rope import RopeConfig
from .stack import AttentionSpec, ClassifierSpec, LayerSpec, MLPSpec, NormSpec, StackSpec

NAMES = Names(
    words="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    types="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    layer="encoder.layer.{}",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up=("intermediate.dense",),
    down="output.dense",
    mlp_norm="output.LayerNorm",
)
DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
VALUES: dict[str, Kind] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"), COUNT),
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": COUNT,
    "type_vocab_size": WHOLE,
    "layer_norm_eps": POSITIVE,
    "hidden_act": TEXT,
    "is_decoder": FLAG,
    "pad_token_id": WHOLE | NULL,
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}


def encoder(
    hf: Mapping[str, Any],
    naming: Naming,
    *,
    bias: bool = True,
    windows: Sequence[int | None] = (),
    rope: RopeConfig | None = None,
    local_rope: RopeConfig | None = None,
    slopes: tuple[float, ...] = (),
    mlp: MLPSpec | None = None,
    **differences: Any,
) -> StackSpec:
    """BERT's layers, which attend in both directions. Raises KeyError for what is missing, ModelError for what does not fit.

    Args:
        bias: of the layers of attention.
        windows: one entry a layer; empty: all layers see everything.
        local_rope: of layers with a window, where it is another.
        slopes: one a head: its scores fall by so much with each token between two (ALiBi), to both sides.
        differences: of the `StackSpec`.
    """
    hidden, heads = hf["hidden_size"], hf["num_attention_heads"]
    if hidden % heads:
        raise ModelError(f"config.json: {heads} attention heads cannot share {hidden} features")
    head_dim = hidden // heads
    mlp = mlp or MLPSpec(size=hf["intermediate_size"], activation=hf.get("hidden_act", "gelu"), gated=False, bias=True)

    def layer(window: int | None) -> LayerSpec:
        turned = rope if window is None else local_rope or rope
        sizes = {"num_heads": heads, "num_kv_heads": heads, "head_dim": head_dim, "scale": head_dim**-0.5, "slopes": slopes}
        return LayerSpec(
            attention=AttentionSpec(**sizes, window=window, rope=turned, qkv_bias=bias, out_bias=bias),
            feed_forward=mlp,
        )

    values: dict[str, Any] = {
        "names": NAMES,
        "naming": naming,
        "vocab_size": hf["vocab_size"],
        "hidden_size": hidden,
        "layers": tuple(layer(window) for window in windows or (None,) * hf["num_hidden_layers"]),
        "norm": NormSpec(eps=hf.get("layer_norm_eps", 1e-12), centered=True, bias=True),
        "pre_norm": False,
        "classifier": ClassifierSpec(out="classifier", dense="pooler.dense"),
    }
    stack = StackSpec(**{**values, **differences})
    if stack.max_length is not None and stack.max_length < 1:
        raise ModelError(f"config.json: {stack.num_positions} positions leave none for text, which starts at {stack.first_position}")
    return stack


def learned(hf: Mapping[str, Any], prefix: str, **differences: Any) -> StackSpec:
    """BERT itself and what has its learned positions. Raises ModelError for variants that we do not compute."""
    kind = hf.get("position_embedding_type") or "absolute"
    if kind != "absolute":
        raise ModelError(f"config.json: position_embedding_type {kind!r} is not supported (known: absolute)")
    if hf.get("is_decoder"):
        raise ModelError("config.json: is_decoder is set; an encoder that attends to earlier tokens alone is not supported")
    tables = {"num_positions": hf["max_position_embeddings"], "num_token_types": hf.get("type_vocab_size", 2)}
    return encoder(hf, Naming((prefix,)), **{**tables, **differences})
