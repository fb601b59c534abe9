"""llama.cpp's tensor names -> Hugging Face's."""

from __future__ import annotations

import re

#: Architecture in a GGUF -> (HF model_type, HF class name). Mistral models are "llama" here.
ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
}

_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_IN_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_OUTSIDE = re.compile(r"(\w+)\.(weight|bias)")


def hf_name(name: str) -> str:
    """The name in a Hugging Face checkpoint. A tensor we do not know keeps its own, so that the loader's check can name it."""
    if (match := _IN_LAYER.fullmatch(name)) and match[2] in _LAYER:
        return f"model.layers.{match[1]}.{_LAYER[match[2]]}.{match[3]}"
    if (match := _OUTSIDE.fullmatch(name)) and match[1] in _OUTER:
        return f"{_OUTER[match[1]]}.{match[2]}"
    return name


def permuted(architecture: str, name: str) -> str | None:
    """ "q" or "k" if llama.cpp reordered the rows of this tensor (its own name), else None.

    For "llama" it stores the two halves of each head's rotary pairs next to each other; the other architectures
    keep Hugging Face's order.
    """
    match = _IN_LAYER.fullmatch(name)
    if architecture != "llama" or match is None:
        return None
    return {"attn_q": "q", "attn_k": "k"}.get(match[2])
