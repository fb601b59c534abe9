"""Gemma 3: Gemma 2 with norms of queries and keys in place of caps; one layer in six sees everything, with a rotation of its own.

EmbeddingGemma (arXiv 2509.20354) is one whose tokens see each other in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import FULL, SLIDING, qk_norm, ropes_by_kind
from ...stack import StackSpec
from .. import Architecture
from .gemma2 import GEMMA2_DEFAULTS, GEMMA2_VALUES, gemma

GEMMA3_DEFAULTS = GEMMA2_DEFAULTS | {
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    every = hf.get("sliding_window_pattern") or hf.get("_sliding_window_pattern") or 6
    kinds = hf.get("layer_types") or [SLIDING if (i + 1) % every else FULL for i in range(hf["num_hidden_layers"])]
    ropes = ropes_by_kind({**hf, "layer_types": kinds}, {FULL: hf.get("rope_theta", 1e6), SLIDING: hf.get("rope_local_base_freq", 1e4)})
    if hf.get("use_bidirectional_attention"):  # the window is then of both sides, and as in transformers half of it is on each
        hf = {**hf, "use_bidirectional_attention": False, "sliding_window": hf["sliding_window"] // 2 + 1}
    return gemma(hf, kinds, {"qk_norm": qk_norm(hf, offset=1.0)}, ropes)


ARCHITECTURE = Architecture(
    stack=stack,
    defaults=GEMMA3_DEFAULTS,
    values=GEMMA2_VALUES,
    end_token=1,
    unsafe_dtypes=frozenset({"float16"}),
    encoder_key="use_bidirectional_attention",
)
