"""Rotations whose frequencies depend on the length allowed for, or leave part of a head as it is: against transformers' own formulas."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from infer.core.layers.rope import Rope
from infer.core.spec.rope import RopeConfig

SHORT, LONG = [1.0, 1.1, 1.5, 2.0], [1.0, 3.0, 9.0, 20.0]
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    "scaling",
    [
        LONGROPE,
        {**LONGROPE, "attention_factor": 1.25},
        {**LONGROPE, "factor": 8.0},
        {"rope_type": "dynamic", "factor": 3.0},
        {"rope_type": "proportional", "partial_rotary_factor": 0.5},
        {"rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 2.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("length", [48, 64, 65, 300])
def test_tables_are_transformers(scaling: dict[str, Any], length: int) -> None:
    given: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 8, "max_position_embeddings": 128}
    parameters = {"rope_theta": 1e4, **scaling}
    theirs = LlamaConfig(**given, rope_parameters=dict(parameters))
    frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs, torch.device("cpu"), seq_len=length)
    rope = Rope(RopeConfig.from_hf({**given, "rope_parameters": parameters}, 8))
    rope.allocate(length, torch.device("cpu"))
    angles = torch.outer(torch.arange(length).float(), frequencies)
    torch.testing.assert_close(rope.cos, angles.cos() * factor, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rope.sin, angles.sin() * factor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("length", "times"), [(64, 0), (65, 1)])
def test_long_contexts_are_told_of(length: int, times: int, caplog: pytest.LogCaptureFixture) -> None:
    rope = Rope(RopeConfig.from_hf({"max_position_embeddings": 128, "rope_parameters": {"rope_theta": 1e4, **LONGROPE}}, 8))
    with caplog.at_level(logging.WARNING):
        rope.allocate(length, torch.device("cpu"))
    assert caplog.text.count("--max-model-len 64") == times


def test_queries_grow_by_whole_stretches() -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.5}
    rope = Rope(RopeConfig.from_hf({"max_position_embeddings": 64, "rope_parameters": yarn}, 8))
    rope.allocate(64, torch.device("cpu"))
    assert rope.query_scale is not None
    expected = [1 + 0.5 * torch.log(torch.tensor(1.0 + i // 16)).item() for i in range(64)]
    torch.testing.assert_close(rope.query_scale, torch.tensor(expected))
    assert rope.query_scale[:16].eq(1).all()
