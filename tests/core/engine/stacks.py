"""A small decoder with random weights and its cache, for tests of what a runner does with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from infer.core import models
from infer.core.engine.batch import Batch, padded_rows
from infer.core.engine.runner import Runner
from infer.core.memory import kv_cache, state_pools
from infer.core.models.decoder import Decoder
from infer.core.quant import SCHEMES
from infer.core.spec.read import read_spec
from infer.core.weights import loader
from infer.kernels.ops import Ops

BLOCK_SIZE = 4
LENGTH = 64
VOCABULARY = 61
NUM_STATES = 20


def described(ops: Ops, *, num_layers: int = 6, quantization: str | None = None, **changes: Any) -> Decoder:
    """A model before its weights are loaded."""
    hf = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": LENGTH,
        **changes,
    }
    return models.build(read_spec(hf), ops, choose=(lambda _: SCHEMES[quantization](ops)) if quantization else None)


def load(model: Decoder, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Decoder:
    loader.load_dummy(model.parameters(), dtype, torch.device(device), seed=7)
    model.allocate(LENGTH, torch.device(device))
    return model


def runner_of(model: Decoder, num_blocks: int = 40, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Runner:
    """Over a cache with the null block in front of `num_blocks`, zeros all of it."""
    where = torch.device(device)
    caches = kv_cache.allocate(model.ops, kv_cache.KVShape(model.caches, dtype), num_blocks, BLOCK_SIZE, where)
    for cache in caches:
        for tensor in cache:
            tensor.zero_()
    pools = state_pools.allocate(state_pools.StateShape(model.states, dtype), NUM_STATES, where)
    return Runner(model, model.ops, caches, BLOCK_SIZE, where, pools)


def step(*sequences: tuple[list[int], int, list[int]], draw: list[bool] | None = None, block_size: int = BLOCK_SIZE) -> Batch:
    """A batch of (new tokens, tokens in the cache before, blocks) for each sequence; `draw`: who draws, else all."""
    counts = [len(tokens) for tokens, _, _ in sequences]
    total, rows = sum(counts), padded_rows(sum(counts))
    ends = np.cumsum(counts)
    tokens, positions = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    tokens[:total] = [token for new, _, _ in sequences for token in new]
    places = [(blocks, before + i) for new, before, blocks in sequences for i in range(len(new))]
    positions[:total] = [place for _, place in places]
    tables = np.zeros((len(sequences), max(len(blocks) for _, _, blocks in sequences)), np.int32)
    for row, (_, _, blocks) in enumerate(sequences):
        tables[row, : len(blocks)] = blocks
    wanted = (ends - 1)[draw or [True] * len(sequences)]
    logit_rows = np.zeros(padded_rows(len(wanted)), np.int64)
    logit_rows[: len(wanted)] = wanted
    return Batch(
        tokens=tokens,
        positions=positions,
        query_start=np.array([0, *ends], np.int32),
        kv_lens=np.array([before + len(new) for new, before, _ in sequences], np.int32),
        block_tables=tables,
        slots=np.array([blocks[place // block_size] * block_size + place % block_size for blocks, place in places], np.int64),
        logit_rows=logit_rows,
        num_logits=len(wanted),
        prompt_start=len(logit_rows),
        num_prompt_logits=0,
        copies=np.empty((0, 2), np.int64),
        state_slots=np.arange(1, len(sequences) + 1, dtype=np.int32),
    )
