"""SmolLM3: Llama without rotation in every fourth layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, FULL, SLIDING, VALUES, biased, check_length, decoder, gated, windows_of, without
from ...hf_values import COUNT, COUNTS, NULL
from ...stack import StackSpec
from .. import Architecture

SMOLLM3_DEFAULTS = without(DEFAULTS, "head_dim") | {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": None,
    "no_rope_layer_interval": 4,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
}
MORE_VALUES = {"no_rope_layers": COUNTS | NULL, "no_rope_layer_interval": COUNT}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    every, count = hf["no_rope_layer_interval"], hf["num_hidden_layers"]
    turns = hf.get("no_rope_layers") or [(i + 1) % every for i in range(count)]
    check_length("no_rope_layers", turns, count)
    # Layers with a window are those without rotation, where no list says otherwise.
    kinds = hf.get("layer_types") or [FULL if turned or not hf["sliding_window"] else SLIDING for turned in turns]
    windows = windows_of(kinds, hf["sliding_window"]) if hf["use_sliding_window"] else ()
    still = [{} if turned else {"rope": None} for turned in turns]
    return decoder(hf, attention=biased(hf), windows=windows, by_layer=still, feed_forward=gated(hf, bias=hf["mlp_bias"]))


ARCHITECTURE = Architecture(stack=stack, defaults=SMOLLM3_DEFAULTS, values=VALUES | MORE_VALUES, theta=2e6, end_token=128001)
