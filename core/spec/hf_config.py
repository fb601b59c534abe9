"""config.json as a model's code reads it: overrides counted, values checked, transformers' defaults and precedence.

Every reader of config.json takes it from here, so that none believes what another one ignores. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .hf_values import check_layers, check_values

FILE = "config.json"

_LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_QWEN2: dict[str, Any] = {
    **_LLAMA,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_BERT: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
_ROBERTA: dict[str, Any] = {**_BERT, "pad_token_id": 1}
#: What a key that is absent means, by model_type: the defaults of transformers' config classes.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA | {"attention_bias": False, "mlp_bias": False},
    "mistral": _LLAMA | {"intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    "qwen2": _QWEN2,
    "qwen3": _QWEN2 | {"head_dim": 128, "attention_bias": False},
    "bert": _BERT,
    "roberta": _ROBERTA | {"vocab_size": 50265},
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "modernbert": {
        "vocab_size": 50368,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "hidden_activation": "gelu",
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "local_attention": 128,
        "pad_token_id": 50283,
    },
    "nomic_bert": _BERT | {"vocab_size": 30528, "hidden_act": "silu", "max_position_embeddings": 2048},
}
#: End tokens of a model whose files name none, likewise.
DEFAULT_END_TOKENS: dict[str, int] = {"llama": 2, "mistral": 2}
#: Base of rotation where config.json names none. ModernBERT has one a kind of layer, see its file.
DEFAULT_THETA: dict[str, float] = {"llama": 1e4, "mistral": 1e4, "qwen2": 1e4, "qwen3": 1e4, "nomic_bert": 1e3}
#: Scalings that count from the length a model was trained with.
_FROM_ORIGINAL = ("llama3", "yarn", "longrope")


def effective(raw: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, path: Path | str = FILE) -> dict[str, Any]:
    """The content of a config.json, the same for every reader of it.

    Values are checked, and of a model_type that we have code for, absent keys have transformers' defaults and `rope_parameters`
    says all of rotation: `rope_scaling`, which goes before it as in transformers, and `rope_theta` are in it.

    Args:
        raw: the file's content.
        overrides: `hf_overrides`.
        path: the file, for messages.

    Raises:
        ModelError: a value is of the wrong kind or out of range. ConfigError: it is one of the overrides.
    """
    merged = apply_hf_overrides(raw, overrides)
    check_values(merged, overrides or {}, path)
    kind = merged.get("model_type")
    if kind not in DEFAULTS or (kind == "nomic_bert" and "n_embd" in merged):  # its first releases have names of their own
        return merged
    found = {**DEFAULTS[kind], **merged}
    check_layers(found, path)
    if kind in DEFAULT_THETA:
        found["rope_parameters"] = _rope_parameters(found, DEFAULT_THETA[kind], path)
        found.pop("rope_scaling", None)
        found.pop("partial_rotary_factor", None)
    return found


def apply_hf_overrides(hf_config: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of `hf_config` with `overrides` merged in, mappings within mappings."""
    merged = dict(hf_config)
    for key, value in (overrides or {}).items():
        old = merged.get(key)
        merged[key] = apply_hf_overrides(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def rope_of(hf_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of rotation as config.json has them: `rope_scaling` first, as in transformers."""
    return hf_config.get("rope_scaling") or hf_config.get("rope_parameters") or {}


def _rope_parameters(config: Mapping[str, Any], theta: float, path: Path | str) -> dict[str, Any]:
    found = dict(rope_of(config))
    if nested := [key for key, value in found.items() if isinstance(value, Mapping)]:
        raise ModelError(f"{path}: rope_parameters by kind of layer ({', '.join(nested)}) are not supported for {config['model_type']}")
    found.setdefault("rope_theta", config.get("rope_theta", theta))
    if found["rope_theta"] is None:
        raise ModelError(f"{path}: rope_theta is null; it must be a number above 0")
    found["rope_type"] = found.get("rope_type", found.get("type", "default"))
    partial = found.pop("partial_rotary_factor", config.get("partial_rotary_factor"))
    if found["rope_type"] != "default" and partial not in (None, 1):  # these models' code rotates whole heads
        raise ModelError(f"{path}: partial_rotary_factor {partial} is not supported for {config['model_type']}")
    if found["rope_type"] in _FROM_ORIGINAL:
        trained = config.get("original_max_position_embeddings") or found.get("original_max_position_embeddings")
        found["original_max_position_embeddings"] = trained or config["max_position_embeddings"]
    return found
