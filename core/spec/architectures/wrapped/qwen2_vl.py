"""Qwen2-VL. On text, the three parts of its positions are the same; those of images have a time, a row and a column (M-RoPE)."""

from __future__ import annotations

from ...vision import Vision
from .. import Wrapper

#: Where its text_config does not say.
DEFAULTS = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_window_layers": 80,
    "rope_theta": 1e6,
}
ROPE = {"mrope_section": [16, 24, 24]}
ARCHITECTURE = Wrapper(
    model_type="qwen2",
    spellings=("qwen2_vl_text",),
    defaults=DEFAULTS,
    vision=Vision(processor="qwen2_vl.Qwen2VLProcessor", token=151655, rope=ROPE, video="grid", video_token=151656),
)
