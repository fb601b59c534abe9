"""Qwen3-VL with experts: a tower before a Qwen3-MoE, whose experts lie in one tensor a layer."""

from __future__ import annotations

from ...names import Stack
from .. import Wrapper
from .qwen3_vl import VISION

STACKS = {
    "mlp.experts.gate_up_proj": Stack(("mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.up_proj.weight"), transposed=None),
    "mlp.experts.down_proj": Stack(("mlp.experts.{}.down_proj.weight",), transposed=None),
}
#: Where its text_config does not say.
DEFAULTS = {
    "rope_theta": 5e5,
    "max_position_embeddings": 128000,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "moe_intermediate_size": 1408,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
}
ARCHITECTURE = Wrapper(model_type="qwen3_moe", spellings=("qwen3_vl_moe_text",), defaults=DEFAULTS, stacks=STACKS, vision=VISION)
