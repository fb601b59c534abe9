"""config.json and generation_config.json from a GGUF file's metadata."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ModelError, nearest
from ..source import TensorInfo
from .metadata import Metadata
from .names import ARCHITECTURES

TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def config(meta: Metadata, tensors: Mapping[str, TensorInfo], rope_factors: Sequence[float] | None) -> dict[str, Any]:
    """config.json. `tensors` is what the source streams; `rope_factors` is the content of rope_freqs.weight, if there is one.

    Raises ModelError for an architecture that is not read, and for metadata that is missing or of the wrong type.
    """
    check(meta)
    heads = meta.need(".attention.head_count", least=1)
    hidden = meta.need(".embedding_length")
    head_dim = meta.integer(".attention.key_length") or hidden // heads
    for key in (".attention.value_length", ".rope.dimension_count"):
        if (meta.integer(key) or head_dim) != head_dim:
            raise ModelError(
                f"{meta.path}: {meta.architecture}{key} {meta.integer(key)} differs from the head size {head_dim}: not supported"
            )
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is None:
        raise ModelError(f"{meta.path} has no token_embd.weight; if it is one part of a split model, join the parts first")
    model_type, class_name = ARCHITECTURES[meta.architecture]
    found: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": meta.need(".feed_forward_length"),
        "num_hidden_layers": meta.need(".block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.integer(".attention.head_count_kv") or heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": meta.number(".attention.layer_norm_rms_epsilon") or 1e-5,
        "max_position_embeddings": meta.need(".context_length"),
        "rope_theta": meta.number(".rope.freq_base") or 10000.0,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "attention_bias": model_type == "qwen2" or "model.layers.0.self_attn.q_proj.bias" in tensors,
        "torch_dtype": _dtype(tensors),
        **_token_ids(meta),
    }
    if "model.layers.0.mlp.gate_proj.bias" in tensors:
        found["mlp_bias"] = True
    if window := meta.integer(".attention.sliding_window"):
        found["sliding_window"] = window
    if scaling := _rope_scaling(meta, found, rope_factors):
        found["rope_scaling"] = scaling
    return found


def generation_config(meta: Metadata) -> dict[str, Any]:
    """generation_config.json: every token that ends an answer (end of sequence, of turn, of message)."""
    ids = _token_ids(meta)
    ends = [ids.get("eos_token_id"), meta.integer("tokenizer.ggml.eot_token_id"), meta.integer("tokenizer.ggml.eom_token_id")]
    unique = list(dict.fromkeys(id for id in ends if id is not None))
    if len(unique) > 1:
        ids["eos_token_id"] = unique
    return ids


def check(meta: Metadata) -> None:
    """Raises ModelError if the file holds a kind of model that is not read from GGUF."""
    architecture = meta.architecture
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(
            f"{meta.path}: architecture {architecture!r} is not read from GGUF{nearest(architecture, ARCHITECTURES)} (known: {known})"
        )
    if meta.integer(".expert_count"):
        raise ModelError(f"{meta.path}: a mixture of experts, which is not supported yet")
    if (meta.integer("split.count") or 1) > 1:
        raise ModelError(f"{meta.path} is one part of a split model; join the parts first (llama-gguf-split --merge FIRST OUT)")


def _token_ids(meta: Metadata) -> dict[str, Any]:
    names = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    found = {name: meta.integer(f"tokenizer.ggml.{key}") for name, key in names.items()}
    return {name: id for name, id in found.items() if id is not None}


def _dtype(tensors: Mapping[str, TensorInfo]) -> str:
    """The dtype most of the weights are streamed in."""
    counts: Counter[str] = Counter()
    for info in tensors.values():
        counts[info.dtype] += math.prod(info.shape)
    return TORCH_NAMES.get(counts.most_common(1)[0][0], "bfloat16")


def _rope_scaling(meta: Metadata, config: Mapping[str, Any], rope_factors: Sequence[float] | None) -> dict[str, Any] | None:
    if rope_factors is not None:
        return llama3_scaling(rope_factors, config["head_dim"], config["rope_theta"])
    kind = meta.text(".rope.scaling.type") or "none"
    factor = meta.number(".rope.scaling.factor") or meta.number(".rope.scale_linear")
    if kind == "none" and meta.number(".rope.scale_linear"):
        kind = "linear"
    if kind == "none" or not factor:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise ModelError(f"{meta.path}: rope scaling {kind!r} is not read from GGUF (known: linear, yarn)")
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    if original := meta.integer(".rope.scaling.original_context_length"):
        scaling["original_max_position_embeddings"] = original
    for name in ("beta_fast", "beta_slow"):
        if (value := meta.number(f".rope.scaling.yarn_{name}")) is not None:
            scaling[name] = value
    if (sharper := meta.number(".rope.scaling.attn_factor")) is not None:
        # llama.cpp multiplies the usual factor by this one; Hugging Face gives the product.
        scaling["attention_factor"] = sharper * (0.1 * math.log(factor) + 1.0)
    return scaling


def llama3_scaling(factors: Sequence[float], head_dim: int, theta: float) -> dict[str, Any] | None:
    """The llama3 rule that made these divisors of the rotary frequencies, or None if they are all 1.

    llama.cpp stores the divisors, not the rule: 1 / ((1 - s) / F + s), where s rises linearly with the frequency, from 0 where
    `low_freq_factor` turns fit the original context to 1 where `high_freq_factor` do. Two divisors between 1 and F give that
    line; it fixes the three numbers up to a common scale, which we choose so that low_freq_factor is 1.
    Raises ValueError if no such rule gives these divisors.
    """
    largest = max(factors)
    frequencies = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    if len(factors) != len(frequencies) or min(factors) < 1 - 1e-6:
        raise ValueError("not divisors of this model's frequencies")
    if largest <= 1 + 1e-6:
        return None
    turns = [f / (2 * math.pi) for f in frequencies]
    ramp = [(x, (largest / d - 1) / (largest - 1)) for x, d in zip(turns, factors, strict=True) if 1.0001 < d < largest * 0.9999]
    if len(ramp) < 2:
        low, high, original = 1.0, 4.0, 8192.0  # what every published Llama 3 has
    else:
        (x0, s0), (x1, s1) = ramp[0], ramp[-1]
        slope = (s1 - s0) / (x1 - x0)
        low = 1.0
        high = low - low / (s0 - slope * x0)
        original = slope * (high - low)
    if not (high > low and original > 0):
        raise ValueError("no llama3 rule gives these divisors")
    rule = {"factor": float(largest), "low_freq_factor": low, "high_freq_factor": float(f"{high:.4g}")}
    rule["original_max_position_embeddings"] = round(original)
    for x, divisor in zip(turns, factors, strict=True):
        s = (rule["original_max_position_embeddings"] * x - low) / (rule["high_freq_factor"] - low)
        s = min(max(s, 0.0), 1.0)
        if abs(1 / ((1 - s) / largest + s) - divisor) > 1e-3 * divisor:
            raise ValueError("no llama3 rule gives these divisors")
    return {"rope_type": "llama3", **rule}
