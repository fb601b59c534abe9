"""ModernBERT: pre-norm, rotary positions, gated feed-forward; most layers see a window only (arXiv 2412.13663)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infer.kernels.ops import Ops

from ..layers.classifier import Classifier
from ..layers.norm import LayerNorm
from ..layers.rope import RopeConfig
from ..weights.renamed import Naming
from .decoder import check_kinds
from .encoder import Encoder, EncoderConfig, Names

NAMES = Names(
    words="embeddings.tok_embeddings",
    embedding_norm="embeddings.norm",
    layer="layers.{}",
    qkv=("attn.Wqkv",),
    attention_out="attn.Wo",
    attention_norm="attn_norm",
    up=("mlp.Wi",),
    down="mlp.Wo",
    mlp_norm="mlp_norm",
    final_norm="final_norm",
)
#: Where config.json names no base of rotation.
GLOBAL_THETA, LOCAL_THETA = 160000.0, 10000.0


class Model(Encoder):
    def __init__(self, hf: Mapping[str, Any], ops: Ops, *, labels: int = 0) -> None:
        head_dim = hf["hidden_size"] // hf["num_attention_heads"]
        config = EncoderConfig(
            names=NAMES,
            naming=Naming(("model.",)),
            vocab_size=hf["vocab_size"],
            hidden_size=hf["hidden_size"],
            intermediate_size=hf["intermediate_size"],
            num_layers=hf["num_hidden_layers"],
            num_heads=hf["num_attention_heads"],
            norm_eps=hf.get("norm_eps", 1e-5),
            activation=hf.get("hidden_activation", "gelu"),
            gated=True,
            pre_norm=True,
            attention_bias=bool(hf.get("attention_bias", False)),
            mlp_bias=bool(hf.get("mlp_bias", False)),
            norm_bias=bool(hf.get("norm_bias", False)),
            rope=_rope(hf, "full_attention", hf.get("global_rope_theta") or GLOBAL_THETA, head_dim),
            local_rope=_rope(hf, "sliding_attention", hf.get("local_rope_theta") or LOCAL_THETA, head_dim),
            sliding_windows=_windows(hf),
        )
        super().__init__(config, ops, _classifier(hf, ops, config, labels) if labels else None)


def _windows(hf: Mapping[str, Any]) -> tuple[int | None, ...]:
    """`local_attention` counts the tokens on both sides of one; a window of ours begins with the token itself."""
    kinds = hf.get("layer_types")
    if kinds is None:
        every = hf.get("global_attn_every_n_layers", 3)
        kinds = ["sliding_attention" if i % every else "full_attention" for i in range(hf["num_hidden_layers"])]
    check_kinds(kinds)
    window = hf.get("local_attention", 128) // 2 + 1
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _rope(hf: Mapping[str, Any], kind: str, theta: float, head_dim: int) -> RopeConfig:
    """Of one kind of layer: transformers 5 has `rope_parameters` by kind, before there was a base each and one scaling."""
    parameters = hf.get("rope_parameters") or {}
    one = parameters.get(kind) or {}
    merged = {"rope_theta": theta, **one, **(hf.get("rope_scaling") or {})}
    return RopeConfig.from_hf({**hf, "rope_scaling": None, "rope_parameters": merged}, head_dim)


def _classifier(hf: Mapping[str, Any], ops: Ops, c: EncoderConfig, labels: int) -> Classifier:
    return Classifier(
        ops,
        c.hidden_size,
        labels,
        out="classifier",
        dense="head.dense",
        dense_bias=bool(hf.get("classifier_bias", False)),
        activation=hf.get("classifier_activation", "gelu"),
        norm=LayerNorm(ops, "head.norm", c.hidden_size, c.norm_eps, bias=c.norm_bias),
    )
