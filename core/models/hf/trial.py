"""A few tokens through a model of transformers at load time: is what we made of it still the model it was?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, AttentionMeta, KVCache

from ...errors import ModelError
from .attention import Heard
from .model import HFModel
from .traced import Rows, traced

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


def check_against(model: HFModel, expected: Tensor, heard: Sequence[Heard], dtype: torch.dtype) -> None:
    """Compares with what transformers' own attention gives. Raises ModelError if it is something else.

    What shows up here: position ids that are not looked at or do not count from 0 (RoBERTa's), and state that layers keep elsewhere
    than in the cache (Mamba, convolutions). Where it could be lost in the sum of all layers, each is looked at by itself: queries and
    keys as they come to attention, and what each module gives.

    Args:
        expected: logits [TOKENS, V] of `model.tokens_to_try` at the positions that the model counts by itself.
        heard: queries and keys of each call of attention, likewise; of those after the first where attention meant something.
    """
    tokens, half = model.tokens_to_try, TOKENS // 2
    border = slice(half, half + TOUCHED)
    caches = _caches(model, dtype, tokens.device, 2)
    with model.attention.hearing() as heard_whole, traced(model.body, border, TOKENS) as whole_rows:
        (whole,) = _step(model, caches, [(0, 0, tokens)])
    _compare_heard(heard_whole, heard, slice(0, TOKENS), slice(0, TOKENS), dtype, "with a paged cache")
    # The median: a row may choose other experts by rounding alone.
    _compare(model.logits(whole), expected, dtype, "with a paged cache", torch.median)
    other = tokens.flip(0)
    caches = _caches(model, dtype, tokens.device, 2)
    first, _ = _step(model, caches, [(0, 0, tokens[:half]), (1, 0, other)])
    with model.attention.hearing() as heard_second, traced(model.body, slice(0, TOUCHED), half) as second_rows:
        (second,) = _step(model, caches, [(0, half, tokens[half:])])
    in_two = "in two steps and beside another"
    _compare_modules(second_rows, whole_rows, dtype, in_two)
    _compare_heard(heard_second, heard_whole, slice(0, half), slice(half, TOKENS), dtype, in_two)
    _compare(torch.cat([first, second[:TOUCHED]]), whole[: half + TOUCHED], dtype, in_two, torch.max)


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


def _compare_heard(got: Sequence[Heard], expected: Sequence[Heard], rows: slice, of: slice, dtype: torch.dtype, how: str) -> None:
    """By the median of rows. Those of the first call have been through one multiplication, and not through all layers before."""
    for number, (one, other) in enumerate(zip(got, expected, strict=False)):
        for what, ours, theirs in zip(("queries", "keys"), one, other, strict=True):
            distance = _distances(ours[rows].flatten(1), theirs[of].flatten(1)).median().item()
            if not distance <= (4 if number else 0.4) * _far(dtype):
                raise _differs(f"its {what} {how} differ", distance)


def _compare_modules(got: Rows, expected: Rows, dtype: torch.dtype, how: str) -> None:
    """By the row that differs most, in what modules make of rows that are alike."""
    for key, (entered, left) in got.items():  # what is inside comes first
        if key not in expected:
            continue
        entered_too, left_too = expected[key]
        if left.shape != left_too.shape or (entered is None) is not (entered_too is None):
            continue
        if entered is not None and entered_too is not None and not _distances(entered, entered_too).max() <= _far(dtype):
            continue
        distance = _distances(left, left_too).max().item()
        if not distance <= 4 * _far(dtype):
            raise _differs(f"the output of its {key[0]} {how} differs", distance)


def _compare(got: Tensor, expected: Tensor, dtype: torch.dtype, how: str, of_rows: Callable[[Tensor], Tensor]) -> None:
    if got.shape != expected.shape:
        raise ModelError(f"its output {how} has shape {tuple(got.shape)}, not {tuple(expected.shape)}")
    if not expected.isfinite().all():
        log.warning("the model's output is not finite, so it cannot be checked")
        return
    distance = of_rows(_distances(got, expected)).item()
    if not distance <= _far(dtype):
        raise _differs(f"its output {how} differs", distance)


def _distances(got: Tensor, expected: Tensor) -> Tensor:
    """[N], of rows [N, F], relative to the expected ones; 0 where those are not finite."""
    got, expected = got.float(), expected.float()
    distances = (got - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)
    return distances.where(expected.isfinite().all(dim=-1), 0.0)


def _far(dtype: torch.dtype) -> float:
    return FAR_IN_FLOAT32 if dtype == torch.float32 else FAR_IN_HALF


def _differs(what: str, distance: float) -> ModelError:
    why = "its layers do what our attention cannot, or count positions in their own way"
    return ModelError(f"{what} (relative distance {distance:.2g}): {why}")
