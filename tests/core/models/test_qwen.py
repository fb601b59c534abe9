"""The first Qwen, which transformers has no class for: against a Qwen2 of the same weights under other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from infer.core.spec.read import read_spec

from .test_architectures import TINY
from .test_folders import ours, saved, theirs

NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.layers": "transformer.h",
    "model.norm": "transformer.ln_f",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.gate_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w1",
    "mlp.down_proj": "mlp.c_proj",
}
#: As published, sizes apart: of Qwen-7B-Chat, and of its first release.
SWITCHES = {"use_dynamic_ntk": True, "use_logn_attn": True, "no_bias": True, "rotary_pct": 1.0, "rotary_emb_base": 5000}
LATER = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 160, "max_position_embeddings": 512}
FIRST = {"n_embd": 48, "n_layer": 3, "n_head": 6, "n_inner": None, "ffn_hidden_size": 160, "n_positions": 512, "apply_residual": False}


def renamed(folder: Path) -> None:
    """Makes the files of the Qwen2 in a folder those of a Qwen."""
    weights = load_file(folder / "model.safetensors")
    for part in (f"model.layers.{layer}.self_attn" for layer in range(3)):
        for kind in ("weight", "bias"):
            fused = [weights.pop(f"{part}.{one}_proj.{kind}") for one in "qkv"]
            weights[f"{part.replace('self_attn', 'attn')}.c_attn.{kind}"] = torch.cat(fused)
    for old, new in NAMES.items():
        weights = {name.replace(old, new): tensor for name, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("sizes", [LATER, FIRST], ids=["later", "first"])
def test_it_writes_what_a_qwen2_does(tmp_path: Path, sizes: dict[str, Any]) -> None:
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    saved(tmp_path, "qwen2", num_key_value_heads=6, head_dim=16, rms_norm_eps=1e-5, rope_parameters=rope)
    weights = load_file(tmp_path / "model.safetensors")
    noise = {name: torch.randn_like(one) * 0.3 for name, one in weights.items() if name.endswith("bias")}
    assert noise
    save_file(weights | noise, tmp_path / "model.safetensors", {"format": "pt"})
    expected = theirs(tmp_path)
    renamed(tmp_path)
    config = {"model_type": "qwen", "vocab_size": TINY["vocab_size"], "kv_channels": 16, "seq_length": 128, "layer_norm_epsilon": 1e-5}
    (tmp_path / "config.json").write_text(json.dumps({**config, **SWITCHES, **sizes, "architectures": ["QWenLMHeadModel"]}))
    assert ours(tmp_path) == expected


def test_texts_are_no_longer_than_it_was_trained_with() -> None:
    """Beyond that it would stretch its rotation, by the length of each text."""
    spec = read_spec({"model_type": "qwen", "seq_length": 2048, "max_position_embeddings": 8192, "use_dynamic_ntk": True})
    assert (spec.max_length, spec.default_end_token) == (2048, 151643)
