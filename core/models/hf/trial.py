"""A few tokens through a model of transformers at load time: is what we made of it still the model it was?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, AttentionMeta, KVCache

from ...errors import ModelError
from .model import HFModel

log = logging.getLogger(__name__)

#: Tokens of the sequence that is tried; its second half goes in a step of its own.
TOKENS = 2 * ROW_MULTIPLE
#: Relative distance of two rows that rounding explains.
FAR_IN_FLOAT32, FAR_IN_HALF = 2e-3, 0.05
#: Rows after a step's border by which to see whether something did not come over it: a short convolution touches no others.
TOUCHED = 4
#: Blocks of a sequence, and tokens of a block, in the trial's cache.
_BLOCKS, _BLOCK_SIZE = 3, ROW_MULTIPLE


def tokens_to_try(config: Any, vocab_size: int, device: torch.device) -> Tensor:
    """int64 [TOKENS], none of those that config.json gives a name: image tokens and padding mean something of their own."""
    named = {value for key, value in vars(config).items() if key.endswith(("token_id", "token_index")) and isinstance(value, int)}
    plain = [token for token in range(min(vocab_size, 4 * TOKENS + len(named))) if token not in named] or [0]
    dice = torch.Generator().manual_seed(0)
    return torch.tensor(plain)[torch.randint(0, len(plain), (TOKENS,), generator=dice)].to(device)


def check_against(model: HFModel, expected: Tensor, dtype: torch.dtype) -> None:
    """Compares with the logits [TOKENS, V] that transformers' own attention gives. Raises ModelError if they are others.

    What shows up here: attention that needs more than keys, values and a window (biases, indices of its own), position ids
    that are not looked at or do not count from 0 (RoBERTa's), and state that layers keep elsewhere than in the cache (Mamba,
    convolutions).
    """
    tokens = model.tokens_to_try
    caches = _caches(model, dtype, tokens.device, 2)
    (whole,) = _step(model, caches, [(0, 0, tokens)])
    # The median: a row may choose other experts by rounding alone.
    _compare(model.logits(whole), expected, dtype, "with a paged cache", torch.median)
    other = tokens.flip(0)
    caches = _caches(model, dtype, tokens.device, 2)
    half = TOKENS // 2
    first, _ = _step(model, caches, [(0, 0, tokens[:half]), (1, 0, other)])
    (second,) = _step(model, caches, [(0, half, tokens[half:])])
    _compare(torch.cat([first, second[:TOUCHED]]), whole[: half + TOUCHED], dtype, "in two steps and beside another", torch.max)


def rows_are_alike(model: HFModel, dtype: torch.dtype) -> bool:
    """True if a sequence gets the same bits alone, in pieces and beside others."""
    count = 9  # so many rows that torch uses more than one thread
    tokens = model.tokens_to_try
    caches = _caches(model, dtype, tokens.device, count + 1)
    (whole,) = _step(model, caches, [(0, 0, tokens)])
    others = [(i, 0, tokens.roll(i)) for i in range(1, count + 1)]
    half = TOKENS // 2 + 1
    first, *_ = _step(model, caches, [(0, 0, tokens[:half]), *others])
    last, *_ = _step(model, caches, [*others[:2], (0, half, tokens[half:])])[::-1]
    return torch.equal(torch.cat([first, last]), whole)


def warn_if_rows_differ(model: HFModel, dtype: torch.dtype) -> None:
    """Says so if an answer of this model depends on what runs beside it. Not tried on a GPU unless `deterministic` is set."""
    if model.tokens_to_try.device.type == "cuda" and not model.ops.deterministic:
        return
    if not rows_are_alike(model, dtype):
        log.warning(
            "transformers' code for this model gives a record slightly other numbers depending on what runs beside it: "
            "answers may vary with the batch size"
        )


def _caches(model: HFModel, dtype: torch.dtype, device: torch.device, sequences: int) -> list[KVCache]:
    return [
        model.ops.new_kv_cache(sequences * _BLOCKS + 1, _BLOCK_SIZE, cache.num_kv_heads, cache.head_dim, dtype, device)
        for cache in model.caches
    ]


def _step(model: HFModel, caches: list[KVCache], parts: Sequence[tuple[int, int, Tensor]]) -> list[Tensor]:
    """Hidden states of each part: a sequence's number, the position of the first token, and the tokens."""
    device = parts[0][2].device
    tokens = torch.cat([part for _, _, part in parts])
    positions = torch.cat([torch.arange(start, start + len(part), device=device) for _, start, part in parts])
    rows = len(tokens)
    blocks = torch.arange(_BLOCKS, dtype=torch.int32) + 1
    tables = torch.stack([blocks + _BLOCKS * sequence for sequence, _, _ in parts])
    owner = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for _, _, part in parts]))
    slots = tables[owner, positions.cpu() // _BLOCK_SIZE].long() * _BLOCK_SIZE + positions.cpu() % _BLOCK_SIZE
    starts = torch.tensor([0, *(len(part) for _, _, part in parts)], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    meta = AttentionMeta(
        query_start=starts.to(device),
        kv_lens=torch.tensor([start + len(part) for _, start, part in parts], dtype=torch.int32).to(device),
        block_tables=tables.to(device),
        slots=slots.to(device),
        block_size=_BLOCK_SIZE,
    )
    pad = tokens.new_zeros(-rows % ROW_MULTIPLE)
    hidden = model.forward(torch.cat([tokens, pad]), torch.cat([positions, pad]), caches, meta)
    return list(hidden[:rows].split([len(part) for _, _, part in parts]))


def _compare(got: Tensor, expected: Tensor, dtype: torch.dtype, how: str, of_rows: Callable[[Tensor], Tensor]) -> None:
    if got.shape != expected.shape:
        raise ModelError(f"its output {how} has shape {tuple(got.shape)}, not {tuple(expected.shape)}")
    got, expected = got.float(), expected.float()
    if not expected.isfinite().all():
        log.warning("the model's output is not finite, so it cannot be checked")
        return
    distance = of_rows((got - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)).item()
    if not distance <= (FAR_IN_FLOAT32 if dtype == torch.float32 else FAR_IN_HALF):
        why = "its layers do what our attention cannot, or count positions in their own way"
        raise ModelError(f"its output {how} differs (relative distance {distance:.2g}): {why}")
