"""The largest steps there can be, to see how much memory they take. Their tokens and what comes of them mean nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from infer.kernels.ops import Ops, SamplingRows
from infer.kernels.state import NULL_STATE

from ..engine.batch import Batch, padded_rows
from ..memory import kv_cache, state_pools
from ..memory.kv_cache import KVShape
from ..memory.state_pools import StateShape
from ..models.decoder import Decoder
from ..models.language_model import LanguageModel
from ..settings.config import EngineConfig
from .stage_runner import StageRunner

#: The one block of the cache that all sequences write to and read.
_BLOCK = 1
#: Sequences of the second step. Attention cuts the contexts of few sequences into pieces, and needs room for what it puts together.
_FEW = 16
#: Logprobs for each token, where there is no limit to them.
_LOGPROBS = 20


@torch.inference_mode()
def run_largest_steps(
    model: LanguageModel, ops: Ops, shape: KVShape, states: StateShape, config: EngineConfig, device: torch.device, *, draws: bool
) -> None:
    """Computes the most tokens a step may have, for the most sequences and for a few, and draws from the logits of all of them.

    Args:
        draws: whether this rank has the logits.
    """
    caches = kv_cache.allocate(ops, shape, 1, config.block_size, device)
    pools = state_pools.allocate(states, 0, device)
    for num_seqs in sorted({config.max_num_seqs, min(config.max_num_seqs, _FEW)}):
        batch = largest_batch(config, num_seqs)
        before, after = neighbours(model, len(batch.tokens), states.dtype, device)
        logits = StageRunner(model, ops, caches, config.block_size, device, pools, before, after).run(batch)
        if draws:
            _draw(ops, logits, config.max_logprobs)


class Nobody:
    """In the place of another stage: gives the same tensors again and again, and takes what comes."""

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = tensors

    def send(self, tensors: Sequence[Tensor]) -> None:
        pass

    def receive(self) -> list[Tensor]:
        return [tensor.clone() for tensor in self._tensors]


def neighbours(model: LanguageModel, rows: int, dtype: torch.dtype, device: torch.device) -> tuple[Nobody | None, Nobody | None]:
    """Channels for a stage that is alone for now, of steps of so many rows."""
    if not isinstance(model, Decoder) or model.stage.count == 1:
        return None, None
    x = torch.zeros(rows, model.stack.hidden_size, dtype=dtype, device=device)
    return None if model.stage.is_first else Nobody(x, x), None if model.stage.is_last else Nobody()


def largest_batch(config: EngineConfig, num_seqs: int) -> Batch:
    """As many tokens as a step may have, shared out among sequences that begin with it; each has room for the longest context, and all
    have the same block."""
    size, length = config.block_size, config.max_kept
    longest = length if not config.has_encoder else config.encoder_len // size * size + config.max_model_len
    total = min(config.max_num_batched_tokens, num_seqs * longest)
    num_seqs = min(num_seqs, total)
    counts = np.full(num_seqs, total // num_seqs)
    counts[: total % num_seqs] += 1
    query_start = np.zeros(num_seqs + 1, dtype=np.int32)
    np.cumsum(counts, out=query_start[1:])
    place = np.arange(total) - np.repeat(query_start[:-1], counts)
    positions = np.zeros(padded_rows(total), dtype=np.int64)
    positions[:total] = place
    logit_rows = np.zeros(padded_rows(num_seqs), dtype=np.int64)
    logit_rows[:num_seqs] = query_start[1:] - 1
    encoder = np.minimum(counts - 1, config.encoder_len) // size * size if config.has_encoder else np.zeros(0)
    return Batch(
        encoder_lens=encoder.astype(np.int32),
        tokens=np.zeros_like(positions),
        positions=positions,
        query_start=query_start,
        kv_lens=counts.astype(np.int32),
        block_tables=np.full((num_seqs, -(-length // size)), _BLOCK, dtype=np.int32),
        slots=_BLOCK * size + place % size,
        logit_rows=logit_rows,
        num_logits=num_seqs,
        prompt_start=len(logit_rows),
        num_prompt_logits=0,
        copies=np.zeros((0, 2), dtype=np.int64),
        state_slots=np.full(num_seqs, NULL_STATE, dtype=np.int32),
    )


def _draw(ops: Ops, logits: Tensor, max_logprobs: int) -> None:
    """Draws with all that a record may ask for at a time."""
    count, vocabulary = logits.shape

    def full(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((count,), value, dtype=dtype, device=logits.device)

    rows = SamplingRows(full(1.0), full(min(50, vocabulary), torch.int64), full(0.9), full(0.01), full(0.5, torch.float64))
    tokens, _ = ops.sample(logits, rows, None)
    top = min(vocabulary, _LOGPROBS if max_logprobs < 0 else max(1, max_logprobs))
    ops.top_logprobs(logits, torch.arange(count, device=logits.device), tokens.clamp(min=0), top)
