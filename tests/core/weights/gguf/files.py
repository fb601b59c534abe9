"""GGUF files of tiny random models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rope_theta": 50000.0,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama with biases": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "llama with wide heads": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=False, head_dim=32),
    "qwen2": lambda: Qwen2Config(**SHAPE, tie_word_embeddings=False),
    "qwen3": lambda: Qwen3Config(**SHAPE, tie_word_embeddings=True, head_dim=32),
}
NAMES = {
    "embed_tokens": "token_embd",
    "lm_head": "output",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


def random_model(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases start as ones and zeros, which would hide a mix-up
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def gguf_name(name: str) -> str:
    known = next(ours for theirs, ours in NAMES.items() if f"{theirs}." in name)
    layer = f"blk.{name.split('.')[2]}." if ".layers." in name else ""
    return f"{layer}{known}.{name.rsplit('.', 1)[1]}"


def permute(weights: np.ndarray, num_heads: int) -> np.ndarray:
    """As llama.cpp's converter reorders q and k of llama models."""
    return weights.reshape(num_heads, 2, weights.shape[0] // num_heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


#: Bytes of a K-quant's block at which it has its float16 factors.
FACTORS = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def packed(data: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """The blocks of a matrix. The package does not write K-quants: of these, random ones about as large."""
    if kind.name not in FACTORS:
        return quantize(data, kind)
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows, blocks = data.shape[0], data.shape[1] // size
    raw = np.random.default_rng(rows + blocks).integers(0, 256, (rows, blocks, num_bytes), dtype=np.uint8)
    if kind.name == "Q6_K":
        raw[..., 192:208] &= 63  # its scales have a sign
    # Codes reach 15 or 31 and scales 63; the minimum, which is as large as half of that, is taken off.
    most = {"Q4_K": 15, "Q5_K": 31, "Q6_K": 31}[kind.name] * 63
    for place, factor in zip(FACTORS[kind.name], (1 / most, 0.5 * most / 63 / most), strict=False):
        raw[..., place : place + 2] = np.array([data.std() * 3 * factor], np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    *,
    quant: str = "F32",
    extra: Mapping[str, np.ndarray] | None = None,
    more: Callable[[gguf.GGUFWriter], None] | None = None,
) -> Path:
    config = model.config
    architecture = config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim != config.hidden_size // config.num_attention_heads:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_dimension_count(head_dim)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if more is not None:
        more(writer)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data = tensor.float().numpy()
        if architecture == "llama" and "q_proj" in name:
            data = permute(data, config.num_attention_heads)
        if architecture == "llama" and "k_proj" in name:
            data = permute(data, config.num_key_value_heads)
        kind = gguf.GGMLQuantizationType[quant if data.ndim > 1 else "F32"]
        if kind.name in {"F32", "F16"}:
            writer.add_tensor(gguf_name(name), data.astype(np.float16 if kind.name == "F16" else np.float32))
        else:
            writer.add_tensor(gguf_name(name), packed(data, kind), raw_dtype=kind)
    for name, data in (extra or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
