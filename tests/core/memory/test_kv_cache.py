"""Sizes of the KV cache: how many blocks there are, the log's words for it, and when it is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from infer.core.errors import ConfigError
from infer.core.memory.kv_cache import CPU_SHARE, KVShape, choose_num_blocks, free_memory
from infer.core.settings.args import EngineArgs
from infer.core.settings.config import EngineConfig
from infer.core.spec.read import read_spec
from infer.core.spec.stack import KVSpec

SHAPE = KVShape((KVSpec(2, 8),) * 2, torch.float32)  # 256 bytes a token
BLOCK = 16 * SHAPE.bytes_per_token


def config(**kwargs: Any) -> EngineConfig:
    return EngineArgs.from_kwargs(model="m", device="cpu", dtype="float32", **kwargs).resolve(read_spec({"max_position_embeddings": 1024}))


def test_bytes_per_token() -> None:
    assert SHAPE.bytes_per_token == 2 * 2 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("kwargs", "free", "blocks"),
    [
        ({"num_gpu_blocks_override": 77}, 0, 77),
        ({"kv_cache_memory_bytes": "1MiB"}, 0, (1 << 20) // BLOCK),
        ({}, 10 << 20, int((10 << 20) * CPU_SHARE) // BLOCK),
        ({"max_num_seqs": 2}, 10 << 30, 2 * 1024 // 16),  # no more than could ever be used
    ],
)
def test_number_of_blocks(kwargs: dict[str, Any], free: int, blocks: int) -> None:
    assert choose_num_blocks(config(**kwargs), SHAPE, free) == blocks


def test_the_size_and_what_it_allows_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "infer"):
        logging.getLogger("infer").propagate = True
        choose_num_blocks(config(num_gpu_blocks_override=128), SHAPE, 0)
    assert "128 blocks of 16 tokens" in caplog.text
    assert "2.0 records of 1024 tokens" in caplog.text


def test_a_given_length_that_does_not_fit_is_refused_with_the_largest_that_does() -> None:
    with pytest.raises(ConfigError, match=r"max_model_len=512 does not fit.*hold 160 tokens; lower it to 160"):
        choose_num_blocks(config(num_gpu_blocks_override=10, max_model_len=512), SHAPE, 0)
    assert choose_num_blocks(config(num_gpu_blocks_override=10, max_model_len=160), SHAPE, 0) == 10


def test_a_derived_length_that_does_not_fit_is_kept_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "infer"):
        logging.getLogger("infer").propagate = True
        assert choose_num_blocks(config(num_gpu_blocks_override=10), SHAPE, 0) == 10
    assert caplog.text.count("kv_capacity") == 1
    assert "160 tokens" in caplog.text


def test_no_room_for_a_block_is_refused() -> None:
    with pytest.raises(ConfigError, match="no room for one block"):
        choose_num_blocks(config(kv_cache_memory_bytes=BLOCK - 1), SHAPE, 0)


def test_free_memory_is_a_plausible_number() -> None:
    assert 1 << 20 < free_memory(torch.device("cpu")) < 1 << 50
