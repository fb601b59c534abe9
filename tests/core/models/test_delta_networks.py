"""Models with gated delta networks as they are published: config.json's keys, and the forms that their tensors come in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from infer.core.errors import ConfigError
from infer.core.parallel.sizes import check_size, fitting_sizes
from infer.core.spec.delta import DeltaSpec
from infer.core.spec.read import read_spec
from infer.core.spec.stack import ExpertsSpec

from .test_architectures import DELTA, MOE
from .test_folders import ours, saved, theirs, with_weights

EXPERTS = {**DELTA, **MOE, "num_experts": 4, "num_experts_per_tok": 4, "shared_expert_intermediate_size": 40}
#: Of Qwen3-Next-80B-A3B.
PUBLISHED: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 262144,
    "mlp_only_layers": [],
    "model_type": "qwen3_next",
    "moe_intermediate_size": 512,
    "norm_topk_prob": True,
    "num_attention_heads": 16,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "shared_expert_intermediate_size": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def test_a_published_config() -> None:
    spec = read_spec(PUBLISHED)
    stack = spec.need_stack()
    assert [layer.attention is None for layer in stack.layers] == [True, True, True, False] * 12
    assert [layer.mixer is None for layer in stack.layers] == [False, False, False, True] * 12
    attention, mixer, experts = stack.layers[3].need_attention(), stack.layers[0].mixer, stack.layers[0].feed_forward
    assert attention.rope is not None
    assert (attention.rope.rotary_dim, attention.rope.theta, attention.gated, attention.num_kv_heads) == (64, 1e7, True, 2)
    assert isinstance(mixer, DeltaSpec)
    window, matrix = mixer.states
    assert (window.shape, window.is_wide, matrix.shape, matrix.is_wide) == ((3, 8192), False, (32, 128, 128), True)
    assert isinstance(experts, ExpertsSpec)
    assert (experts.count, experts.routing.per_token, experts.shared_gate, stack.norm.offset) == (512, 10, True, 1.0)
    assert (spec.max_length, spec.end_tokens, len(spec.caches or ()), len(spec.states)) == (262144, (151645,), 12, 72)


def test_ranks_share_key_heads() -> None:
    spec = read_spec(PUBLISHED)
    assert fitting_sizes(spec.shares) == [1, 2, 4, 8, 16]
    with pytest.raises(ConfigError, match=r"16 channels or heads of layers that keep states .*sizes that work: 1, 2, 4, 8, 16$"):
        check_size(spec, 32)


def test_tensors_that_guess_ahead_are_left_out_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = ours(saved(tmp_path, "qwen3_next", **EXPERTS))
    more = {
        "mtp.fc.weight": torch.ones(48, 96),
        "mtp.layers.0.self_attn.q_proj.weight": torch.ones(8, 48),
        "mtp.norm.weight": torch.ones(48),
    }
    with_weights(tmp_path, lambda _: more)
    with caplog.at_level(logging.WARNING):
        assert ours(tmp_path) == expected == theirs(tmp_path)
    assert caplog.text.count("3 tensors that guess further tokens ahead are not read") == 1


def test_experts_in_one_tensor_or_one_each_and_beside_what_reads_images(tmp_path: Path) -> None:
    """As the language model of a wrapper's files is read by itself, too."""
    file = saved(tmp_path, "qwen3_5_moe_text", **EXPERTS) / "model.safetensors"
    expected, weights = ours(tmp_path), load_file(file)
    assert expected == theirs(tmp_path)
    each = {name: tensor for name, tensor in weights.items() if ".experts." in name}
    fused = {name: tensor for name, tensor in weights.items() if name not in each}
    for layer in {name.partition(".mlp.")[0] for name in each}:
        gate, up, down = ([each[f"{layer}.mlp.experts.{i}.{one}_proj.weight"] for i in range(4)] for one in ("gate", "up", "down"))
        fused[f"{layer}.mlp.experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(gate, up, strict=True)])
        fused[f"{layer}.mlp.experts.down_proj"] = torch.stack(down)
    renamed = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in fused.items()}
    save_file({**renamed, "model.visual.blocks.0.norm1.weight": torch.ones(8)}, file, {"format": "pt"})
    assert ours(tmp_path) == expected == theirs(tmp_path)
