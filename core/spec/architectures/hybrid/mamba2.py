"""Mamba-2: nothing but its layers, which are one part each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...decoder import VALUES
from ...hf_values import COUNT, FLAG, NULL, POSITIVE
from ...hybrid import ALL_TIMES, TIMES, silu_only, times_of
from ...mamba import Mamba2Spec, MambaSpec
from ...names import Names, Naming
from ...stack import LayerSpec, NormSpec, StackSpec
from .. import Architecture

MAMBA_NAMES = Names(
    words="backbone.embeddings",
    layer="backbone.layers.{}",
    attention_norm="norm",
    mixer="mixer",
    qkv=(),
    attention_out="",
    up=(),
    down="",
    final_norm="backbone.norm_f",
    head="lm_head",
)
#: Of Mamba's first generation, too.
MAMBA_NAMING = Naming(("backbone.",), renames={"embedding.": "embeddings."})
MAMBA_VALUES = {
    key: kind
    for key, kind in VALUES.items()
    if key in ("vocab_size", "hidden_size", "num_hidden_layers", "hidden_act", "tie_word_embeddings")
} | {
    **dict.fromkeys(("state_size", "expand", "conv_kernel"), COUNT),
    **dict.fromkeys(("use_bias", "use_conv_bias"), FLAG),
    "layer_norm_epsilon": POSITIVE,
}
MAMBA2_DEFAULTS: dict[str, Any] = {
    "num_heads": 128,
    "head_dim": 64,
    "vocab_size": 32768,
    "hidden_size": 4096,
    "state_size": 128,
    "num_hidden_layers": 64,
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
    "n_groups": 8,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "time_step_limit": ALL_TIMES,
    "tie_word_embeddings": False,
}


def of_mixers(hf: Mapping[str, Any], mixer: Mamba2Spec | MambaSpec) -> StackSpec:
    """A model whose layers are all this mixer."""
    silu_only(hf["hidden_act"])
    return StackSpec(
        names=MAMBA_NAMES,
        naming=replace(MAMBA_NAMING, splits=mixer.splits("mixer")),
        vocab_size=hf["vocab_size"],
        hidden_size=hf["hidden_size"],
        layers=(LayerSpec(attention=None, mixer=mixer, feed_forward=None),) * hf["num_hidden_layers"],
        norm=NormSpec(eps=hf["layer_norm_epsilon"]),
        tie_embeddings=bool(hf["tie_word_embeddings"]),
    )


def stack(hf: Mapping[str, Any]) -> StackSpec:
    heads, head_dim, size = hf["num_heads"], hf["head_dim"], hf["expand"] * hf["hidden_size"]
    if heads * head_dim != size:
        raise ModelError(f"config.json: {heads} heads of {head_dim} features are not {size} (expand * hidden_size) together")
    return of_mixers(
        hf,
        Mamba2Spec(
            num_heads=heads,
            head_dim=head_dim,
            num_groups=hf["n_groups"],
            state_size=hf["state_size"],
            width=hf["conv_kernel"],
            bias=hf["use_bias"],
            out_bias=hf["use_bias"],
            conv_bias=hf["use_conv_bias"],
            times=times_of(hf["time_step_limit"]),
            norm_eps=hf["layer_norm_epsilon"],
        ),
    )


MAMBA2_VALUES = MAMBA_VALUES | {**dict.fromkeys(("num_heads", "head_dim", "n_groups"), COUNT), "time_step_limit": TIMES | NULL}
ARCHITECTURE = Architecture(stack=stack, defaults=MAMBA2_DEFAULTS, values=MAMBA2_VALUES, end_token=2)
