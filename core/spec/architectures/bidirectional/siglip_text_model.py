"""The text tower of SigLIP (arXiv 2303.15343) and SigLIP 2: texts are filled up to one length, whose last token stands for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...stack import StackSpec
from .. import Architecture
from .clip_text_model import VALUES, text_tower


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return text_tower(hf, causal=False)


DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "pad_token_id": 1,
}
ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES, is_encoder=True)
