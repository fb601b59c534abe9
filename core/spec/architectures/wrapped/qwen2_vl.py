"""Qwen2-VL. On text, the three parts of its positions are the same: M-RoPE is plain rotation."""

from __future__ import annotations

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
ARCHITECTURE = Wrapper(model_type="qwen2", spellings=("qwen2_vl_text",), defaults=DEFAULTS)
