"""Gemma 4: sizes of heads by kind of layer, normed values, later layers that read the keys and values of earlier ones, per-layer
embeddings, experts beside the feed-forward part, and a factor behind each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...decoder import FULL, NAMING, SLIDING, biased, check_kinds, decoder, qk_norm, windows_of
from ...hf_values import COUNT, FLAG, NULL, OBJECT, TEXT, WHOLE
from ...names import Stack
from ...rope import RopeConfig
from ...stack import ExpertsSpec, MLPSpec, PerLayerSpec, RoutingSpec, StackSpec
from .. import Architecture
from . import gemma2

NAMES = replace(
    gemma2.NAMES,
    layer_scale="layer_scalar",
    per_layer_words="model.embed_tokens_per_layer",
    per_layer_projection="model.per_layer_model_projection",
    per_layer_norm="model.per_layer_projection_norm",
    per_layer_gate="per_layer_input_gate",
    per_layer_out="per_layer_projection",
    per_layer_out_norm="post_per_layer_input_norm",
    router="router.proj",
    router_norm="router.scale",
    expert_scales="router.per_expert_scale",
    expert_up=("experts.{}.gate_proj", "experts.{}.up_proj"),
    expert_down="experts.{}.down_proj",
    experts_norm="pre_feedforward_layernorm_2",
    experts_out_norm="post_feedforward_layernorm_2",
    beside_experts_norm="post_feedforward_layernorm_1",
)
STACKS = {
    ".experts.gate_up_proj": Stack((".experts.{}.gate_proj.weight", ".experts.{}.up_proj.weight")),
    ".experts.down_proj": Stack((".experts.{}.down_proj.weight",)),
}
#: Those of layers that read the keys and values of others, where files have them all the same.
UNREAD = ("k_proj.", "v_proj.", "k_norm.", "v_norm.")
ROPES = {
    SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}
PLAIN_DEFAULTS = {
    key: value for key, value in gemma2.GEMMA2_DEFAULTS.items() if key not in ("query_pre_attn_scalar", "attn_logit_softcapping")
}
PLAIN_DEFAULTS |= {
    "vocab_size": 262144,
    "num_hidden_layers": 30,
    "max_position_embeddings": 131072,
    "sliding_window": 512,
    "final_logit_softcapping": None,
    "use_bidirectional_attention": None,
    "rope_parameters": ROPES,
    "attention_k_eq_v": False,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
}
DEFAULTS = PLAIN_DEFAULTS | {"vocab_size_per_layer_input": 262144, "hidden_size_per_layer_input": 256, "enable_moe_block": False}
VALUES = gemma2.GEMMA2_VALUES | {
    **dict.fromkeys(("attention_k_eq_v", "use_double_wide_mlp", "enable_moe_block"), FLAG),
    **dict.fromkeys(("num_kv_shared_layers", "hidden_size_per_layer_input"), WHOLE | NULL),
    **dict.fromkeys(("global_head_dim", "num_global_key_value_heads", "vocab_size_per_layer_input"), COUNT | NULL),
    **dict.fromkeys(("num_experts", "top_k_experts", "moe_intermediate_size"), COUNT | NULL),
    "use_bidirectional_attention": TEXT | NULL,
    "per_layer_config": OBJECT | NULL,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    if hf["use_bidirectional_attention"] == "all":
        raise ModelError(f"config.json: use_bidirectional_attention is 'all', which is not supported for {hf['model_type']}")
    layers = hf["num_hidden_layers"]
    kinds = list(hf.get("layer_types") or [SLIDING if (i + 1) % 6 else FULL for i in range(layers)])
    check_kinds(kinds)
    kinds[-1] = FULL  # whatever the file says, as in transformers
    sources = _sources(kinds, hf["num_kv_shared_layers"] or 0)
    bias, eps = biased(hf), qk_norm(hf)
    wide = [2 if hf["use_double_wide_mlp"] and source is not None else 1 for source in sources]
    per_layer = hf.get("hidden_size_per_layer_input")
    if per_layer and (words := hf["vocab_size_per_layer_input"] or 0) < hf["vocab_size"]:
        raise ModelError(f"config.json: of the {hf['vocab_size']} tokens of vocab_size, vocab_size_per_layer_input {words} leaves some out")
    made = decoder(
        hf,
        attention={**bias, "scale": 1.0, "qk_norm": eps, "value_norm": eps},
        windows=windows_of(kinds, hf["sliding_window"]),
        by_layer=[_attention(hf, index, kind, source) for index, (kind, source) in enumerate(zip(kinds, sources, strict=True))],
        feed_forward=[MLPSpec(size=hf["intermediate_size"] * times, activation=hf["hidden_activation"]) for times in wide],
        names=NAMES,
        naming=replace(
            NAMING,
            stacks=STACKS,
            unused=tuple(f"layers.{i}.self_attn.{name}" for i, source in enumerate(sources) if source is not None for name in UNREAD),
        ),
        embedding_scale=hf["hidden_size"] ** 0.5,
        logits_soft_cap=hf["final_logit_softcapping"],
        per_layer=PerLayerSpec(vocab_size=hf["vocab_size_per_layer_input"], size=per_layer, activation=hf["hidden_activation"])
        if per_layer
        else None,
    )
    if not hf.get("enable_moe_block"):
        return made
    experts = ExpertsSpec(
        count=hf["num_experts"],
        routing=RoutingSpec(per_token=hf["top_k_experts"], normalized=True, norm=eps, expert_scales=True),
        size=hf["moe_intermediate_size"],
        activation=hf["hidden_activation"],
    )
    return replace(made, layers=tuple(replace(layer, experts=experts) for layer in made.layers))


def _sources(kinds: Sequence[str], shared: int) -> list[int | None]:
    """The layer whose keys and values each of the last `shared` layers reads: the last of its kind before them."""
    own = len(kinds) - shared
    last = {kind: index for index, kind in enumerate(kinds[: max(own, 0)])}
    if missing := set(kinds) - set(last):
        raise ModelError(f"config.json: num_kv_shared_layers {shared} leaves no layer of {', '.join(sorted(missing))} with its own keys")
    return [None if index < own else last[kind] for index, kind in enumerate(kinds)]


def _attention(hf: Mapping[str, Any], index: int, kind: str, source: int | None) -> dict[str, Any]:
    """Differences of a layer's attention: its sizes are under its number (transformers 5.24), or those of its kind (before)."""
    full = {"head_dim": hf.get("global_head_dim", 512)} if kind == FULL else {}
    if kind == FULL and hf["attention_k_eq_v"] and hf.get("num_global_key_value_heads"):
        full["num_key_value_heads"] = hf["num_global_key_value_heads"]
    by_layer = hf.get("per_layer_config")
    sizes = {"num_key_value_heads": hf["num_key_value_heads"], "head_dim": hf["head_dim"]}
    own = full if by_layer is None else by_layer.get(str(index), by_layer.get(index, {}))
    if not OBJECT.fits(own):
        raise ModelError(f"config.json: per_layer_config has {own!r} for layer {index}, not an object")
    if other := set(own) - set(sizes):
        raise ModelError(f"config.json: per_layer_config has {', '.join(sorted(other))} for layer {index}, which is not supported")
    for key, value in own.items():
        if not (COUNT | NULL).fits(value):
            raise ModelError(f"config.json: {key} of per_layer_config is {value!r} for layer {index}, not {COUNT.wanted}")
    sizes |= {key: value for key, value in own.items() if value is not None}
    heads, kv_heads, head_dim = hf["num_attention_heads"], sizes["num_key_value_heads"], sizes["head_dim"]
    if heads % kv_heads:
        raise ModelError(f"config.json: {heads} attention heads cannot share {kv_heads} key/value heads")
    rope = {**((hf["rope_parameters"] or ROPES).get(kind) or ROPES[kind])}
    if rope.get("rope_type", "default") == "default":
        rope.pop("partial_rotary_factor", None)  # whole heads turn then
    return {
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "rope": RopeConfig.from_hf({**hf, "rope_scaling": None, "rope_parameters": rope, "rope_theta": None}, head_dim),
        "reads": source,
        "values_are_keys": hf["attention_k_eq_v"] and kind == FULL,
    }


ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES, end_token=1, unsafe_dtypes=frozenset({"float16"}))
