"""Sampling: draws one token a row.

Thresholds in place of sorting: equal logits are kept or dropped together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import Penalties, SamplingRows, TokenMask, TopLogprobs

_LARGEST = torch.finfo(torch.float32).max


def complete_tokens(tokens: Tensor, drawn: Tensor) -> Tensor:
    """See `infer.kernels.ops.Ops.complete_tokens`."""
    return torch.where(tokens < 0, drawn[(-1 - tokens).clamp(min=0)].clamp(min=0), tokens)


def sample(logits: Tensor, rows: SamplingRows | None, penalties: Penalties | None, mask: TokenMask | None = None) -> tuple[Tensor, Tensor]:
    """See `infer.kernels.ops.Ops.sample`."""
    scores, finite = _changed(logits, penalties, mask)
    tokens = scores.argmax(-1)
    if rows is not None:
        tokens = torch.where(rows.temperature > 0, _draw(scores, rows), tokens)
    tokens = torch.where(scores.amax(-1) > float("-inf"), tokens, -1)
    return torch.where(finite, tokens, 0), finite


def processed_logits(
    logits: Tensor, places: Tensor, rows: SamplingRows | None, penalties: Penalties | None, mask: TokenMask | None
) -> Tensor:
    """See `infer.kernels.ops.Ops.processed_logits`."""
    scores, _ = _changed(logits, penalties, mask)
    if rows is not None:
        drawing = (rows.temperature > 0)[:, None]
        _, kept = _narrowed(scores, rows)
        scores = torch.where(drawing & ~kept, float("-inf"), scores * _inverse(rows)[:, None])
    return scores[places].clamp_(max=_LARGEST)


def top_logprobs(logits: Tensor, rows: Tensor, tokens: Tensor, count: int) -> TopLogprobs:
    """See `infer.kernels.ops.Ops.top_logprobs`."""
    raw = logits[rows].float()
    ids = torch.sort(raw, dim=-1, descending=True, stable=True).indices[:, :count]
    logprobs = torch.log_softmax(raw, dim=-1)
    ranks = 1 + (raw > raw.gather(-1, tokens[:, None])).sum(-1)
    return TopLogprobs(ids, logprobs.gather(-1, ids), logprobs.gather(-1, tokens[:, None])[:, 0], ranks)


def _changed(logits: Tensor, penalties: Penalties | None, mask: TokenMask | None) -> tuple[Tensor, Tensor]:
    """(float32 logits [R, V] as masks and penalties leave them, which rows were finite before)."""
    finite = torch.isfinite(logits).all(-1)
    # Rows that are not finite go through the rest as zeros: what becomes of them is dropped at the end.
    scores = torch.where(finite[:, None], logits.float(), 0.0)
    if mask is not None:
        bits = (mask.bits[:, :, None] >> torch.arange(32, dtype=torch.int32, device=mask.bits.device)) & 1
        allowed = bits.flatten(1)[:, : scores.shape[-1]].bool()[mask.rows]  # -1 gives some row, not looked at
        scores = torch.where(allowed | (mask.rows < 0)[:, None], scores, float("-inf"))
    if penalties is not None:
        _penalize(scores, penalties)
    return scores, finite


def _penalize(scores: Tensor, penalties: Penalties) -> None:
    """In place on float32 [R, V]."""
    entries = penalties.row_start.diff()
    row = torch.repeat_interleave(torch.arange(len(entries), device=scores.device), entries)
    before = scores[row, penalties.token]
    values = before + penalties.bias
    values = torch.where(values > 0, values / penalties.repetition, values * penalties.repetition) - penalties.subtract
    # A tiny repetition penalty can overflow; an infinite best logit would make the others' weights NaN.
    values = torch.where(before.isinf() | penalties.subtract.isposinf(), float("-inf"), values.clamp_(max=_LARGEST))
    scores[row, penalties.token] = values


def _inverse(rows: SamplingRows) -> Tensor:
    """[R]: what logits are multiplied by; greedy rows' stay."""
    return 1.0 / torch.where(rows.temperature > 0, rows.temperature, 1.0)


def _narrowed(scores: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor]:
    """(weights, which tokens min_p, top_k and top_p leave), both [R, V]; other tokens weigh 0. Of greedy rows neither means anything."""
    highest = scores.amax(-1, keepdim=True)
    # Rows that are greedy, or have no token left, must not make NaN on the way.
    highest = torch.where(highest.isinf(), 0.0, highest)
    # Weights relative to the most likely token's, which is 1: nothing over- or underflows that matters.
    weights = torch.exp((scores - highest) * _inverse(rows)[:, None])
    kept = (weights >= rows.min_p[:, None]) & (scores >= _kth(scores, rows.top_k))
    weights = torch.where(kept, weights, 0.0)
    if bool((rows.top_p < 1).any()):
        kept &= scores >= _nucleus(scores, weights, rows.top_p)
        weights = torch.where(kept, weights, 0.0)
    return weights, kept


def _draw(scores: Tensor, rows: SamplingRows) -> Tensor:
    cumulative = torch.cumsum(_narrowed(scores, rows)[0].double(), dim=-1)
    target = rows.uniform[:, None] * cumulative[:, -1:]
    # The first token whose cumulative weight exceeds the target; dropped tokens add none, so they are never it.
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_(max=scores.shape[-1] - 1)


def _kth(scores: Tensor, top_k: Tensor) -> Tensor:
    """[R, 1]: each row's k-th largest score; -inf where top_k is off."""
    vocabulary = scores.shape[-1]
    limit = torch.where(top_k > 0, top_k, vocabulary).clamp_(max=vocabulary)
    longest = int(torch.where(top_k > 0, limit, 1).amax())
    kth = torch.topk(scores, longest, dim=-1).values.gather(-1, limit.clamp(max=longest)[:, None] - 1)
    return torch.where((top_k > 0)[:, None], kth, float("-inf"))


def _nucleus(scores: Tensor, weights: Tensor, top_p: Tensor) -> Tensor:
    """[R, 1]: the smallest score of the shortest run of most likely tokens whose share of the weight reaches top_p."""
    ordered, ids = torch.sort(scores, dim=-1, descending=True)
    cumulative = torch.cumsum(weights.gather(-1, ids).double(), dim=-1)
    wanted = top_p.double() * cumulative[:, -1]
    place = torch.searchsorted(cumulative, wanted[:, None]).clamp_(max=scores.shape[-1] - 1)
    return torch.where((top_p < 1)[:, None], ordered.gather(-1, place), float("-inf"))
