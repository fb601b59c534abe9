"""DeBERTa v2 and v3: BERT whose attention keeps what a token is and how far it is apart (arXiv 2006.03654, 2111.09543)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...distances import DisentangledSpec
from ...encoder import DEFAULTS, NAMES, VALUES, learned
from ...hf_values import FLAG, NULL, TEXT, TEXTS, WHOLE, Kind
from ...stack import ClassifierSpec, StackSpec
from .. import Architecture

OWN_NAMES = replace(
    NAMES,
    relative="encoder.rel_embeddings",
    qkv=("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
)
KINDS = ("c2p", "p2c")
OFF = Kind("a whole number from -1", lambda value: type(value) is int and value >= -1)
SIZES = {"vocab_size": 128100, "hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 24, "num_attention_heads": 24}
MORE_DEFAULTS = {
    **SIZES,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "relative_attention": False,
    "max_relative_positions": -1,
    "position_biased_input": True,
    "pooler_hidden_act": "gelu",
}
MORE_VALUES = {
    **dict.fromkeys(("relative_attention", "position_biased_input", "share_att_key"), FLAG),
    **dict.fromkeys(("max_relative_positions", "position_buckets"), OFF),
    **dict.fromkeys(("norm_rel_ebd", "pooler_hidden_act"), TEXT),
    **dict.fromkeys(("embedding_size", "attention_head_size", "pooler_hidden_size", "conv_kernel_size"), WHOLE | NULL),
    "pos_att_type": TEXT | TEXTS | NULL,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    hidden, heads = hf["hidden_size"], hf["num_attention_heads"]
    for key, only in (("embedding_size", hidden), ("attention_head_size", hidden // heads), ("pooler_hidden_size", hidden)):
        if (hf.get(key) or only) != only:
            raise ModelError(f"config.json: {key} {hf[key]} is not supported for deberta-v2 (known: {only}, of its sizes)")
    if hf.get("conv_kernel_size"):
        raise ModelError("config.json: deberta-v2 with a convolution beside its first layer (conv_kernel_size) is not supported")
    kinds = hf.get("pos_att_type") or []
    kinds = [kind.strip() for kind in kinds.lower().split("|")] if isinstance(kinds, str) else kinds
    relative = hf["relative_attention"]
    if set(kinds) - set(KINDS) or (relative and not kinds):
        raise ModelError(f"config.json: pos_att_type {kinds!r} is not supported for deberta-v2 (known: {'|'.join(KINDS)})")
    own = () if hf.get("share_att_key", False) or not relative else ("attention.self.pos_query_proj", "attention.self.pos_key_proj")
    if own and len(set(kinds)) < len(KINDS):
        raise ModelError(f"config.json: pos_att_type {kinds!r} with share_att_key false is not supported (known: {'|'.join(KINDS)})")
    normed = "layer_norm" in [part.strip() for part in hf.get("norm_rel_ebd", "none").lower().split("|")]
    found = learned(
        hf,
        "deberta.",
        names=replace(OWN_NAMES, relative_norm="encoder.LayerNorm" if normed else "", relative_qk=own),
        relative=DisentangledSpec(
            buckets=max(hf.get("position_buckets", -1), 0),
            max_distance=hf["max_relative_positions"] if hf["max_relative_positions"] > 0 else hf["max_position_embeddings"],
            by_query="c2p" in kinds,
            by_key="p2c" in kinds,
        )
        if relative
        else None,
        **({} if hf["position_biased_input"] else {"num_positions": 0}),
        classifier=ClassifierSpec(out="classifier", dense="pooler.dense", activation=hf["pooler_hidden_act"]),
    )
    scale = (hidden // heads * (1 + len(set(kinds)))) ** -0.5
    layers = [replace(layer, attention=replace(layer.need_attention(), scale=scale)) for layer in found.layers]
    return replace(found, layers=tuple(layers))


ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS | MORE_DEFAULTS, values=VALUES | MORE_VALUES, is_encoder=True)
