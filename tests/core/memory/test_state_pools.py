"""Slots for states: how many there are, what they leave for the KV cache, and what is said of them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.errors import ConfigError
from infer.core.memory.kv_cache import KVShape, choose_num_blocks
from infer.core.memory.state_pools import FEWEST_SNAPSHOTS, MOST_SNAPSHOTS, StateShape, allocate, choose_num_states
from infer.core.settings.args import EngineArgs
from infer.core.spec.mixers import StateSpec
from infer.core.spec.stack import KVSpec

from .test_kv_cache import config

SHAPE = StateShape(((StateSpec((3, 16)), StateSpec((2, 8, 4), is_wide=True)), (StateSpec((3, 16)),)), torch.bfloat16)
EACH = 2 * 3 * 16 * 2 + 2 * 8 * 4 * 4


def test_bytes_of_a_sequence_and_pools_of_them() -> None:
    assert SHAPE.bytes_per_sequence == EACH
    pools = allocate(SHAPE, 5, torch.device("cpu"))
    assert [[tuple(one.shape) for one in layer] for layer in pools] == [[(6, 3, 16), (6, 2, 8, 4)], [(6, 3, 16)]]
    assert [one.dtype for layer in pools for one in layer] == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert sum(one.nbytes for layer in pools for one in layer) == SHAPE.bytes_of(5)


@pytest.mark.parametrize(
    ("kwargs", "budget", "attends", "slots"),
    [
        ({"max_num_seqs": 8}, None, True, 8 + MOST_SNAPSHOTS),
        ({"max_num_seqs": 8, "enable_prefix_caching": False}, 1 << 20, True, 8 + FEWEST_SNAPSHOTS),
        ({"max_num_seqs": 8}, 2 * 7 * EACH, True, 6),  # half of it, the null slot counted
        ({"max_num_seqs": 8}, 7 * EACH, False, 6),
    ],
)
def test_number_of_slots(kwargs: dict[str, Any], budget: int | None, attends: bool, slots: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "infer"):
        logging.getLogger("infer").propagate = True
        assert choose_num_states(config(**kwargs), SHAPE, budget, attends=attends) == slots
    assert ("no more run at a time" in caplog.text) == (slots < 8)


def test_no_room_for_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"states of one sequence are {EACH} bytes.*raise kv_cache_memory_bytes"):
        choose_num_states(config(), SHAPE, 3 * EACH, attends=True)
    assert choose_num_states(config(), StateShape((), torch.float32), 0, attends=True) == 0


def test_the_kv_cache_has_what_they_leave() -> None:
    shape = KVShape((KVSpec(2, 8),), torch.float32)
    block = 16 * shape.bytes_per_token
    assert choose_num_blocks(config(kv_cache_memory_bytes=20 * block), shape, 0, state_bytes=5 * block) == 15
    assert choose_num_blocks(config(max_num_seqs=3), KVShape((), torch.float32), 0, state_bytes=100) == 3 * 1024 // 16


def test_an_engine_runs_as_many_as_have_room(tmp_path: Path) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    kinds = {"num_key_value_heads": 1, "layer_types": ["conv", "full_attention"], "max_position_embeddings": 64, "bos_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"], **sizes, **kinds}))
    more = {"load_format": "dummy", "skip_tokenizer_init": True, "device": "cpu", "dtype": "float32", "kv_cache_memory_bytes": 1 << 15}
    plan = make_plan(EngineArgs.from_kwargs(model=str(tmp_path), **more))
    each = plan.state_bytes_per_sequence()
    assert each == 2 * 32 * 4
    engine = build_engine(plan)
    slots = (1 << 14) // each - 1
    assert engine.max_num_seqs == engine.stats.num_states == slots < plan.config.max_num_seqs
    assert engine.stats.num_kv_blocks == plan.limits().num_blocks == ((1 << 15) - (slots + 1) * each) // (16 * 2 * 16 * 4)
