"""Drawing one token a row. Thresholds in place of orderings: equal logits are kept or dropped together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import Penalties, SamplingRows, TopLogprobs


def sample(logits: Tensor, rows: SamplingRows | None, penalties: Penalties | None) -> tuple[Tensor, Tensor]:
    """See `infer.kernels.ops.Ops.sample`."""
    finite = torch.isfinite(logits).all(-1)
    # Rows that are not finite go through the rest as zeros: what becomes of them is dropped at the end.
    scores = torch.where(finite[:, None], logits.float(), 0.0)
    if penalties is not None:
        _penalize(scores, penalties)
    tokens = scores.argmax(-1)
    if rows is not None:
        tokens = torch.where(rows.temperature > 0, _draw(scores, rows), tokens)
    return torch.where(finite, tokens, 0), finite


def top_logprobs(logits: Tensor, rows: Tensor, tokens: Tensor, count: int) -> TopLogprobs:
    """See `infer.kernels.ops.Ops.top_logprobs`."""
    raw = logits[rows].float()
    ids = torch.sort(raw, dim=-1, descending=True, stable=True).indices[:, :count]
    logprobs = torch.log_softmax(raw, dim=-1)
    ranks = 1 + (raw > raw.gather(-1, tokens[:, None])).sum(-1)
    return TopLogprobs(ids, logprobs.gather(-1, ids), logprobs.gather(-1, tokens[:, None])[:, 0], ranks)


def _penalize(scores: Tensor, penalties: Penalties) -> None:
    """In place on float32 [R, V]."""
    entries = penalties.row_start.diff()
    row = torch.repeat_interleave(torch.arange(len(entries), device=scores.device), entries)
    values = scores[row, penalties.token]
    values = torch.where(values > 0, values / penalties.repetition, values * penalties.repetition) - penalties.subtract
    # A tiny repetition penalty can overflow; an infinite best logit would make the others' weights NaN.
    scores[row, penalties.token] = values.clamp_(max=torch.finfo(torch.float32).max)


def _draw(scores: Tensor, rows: SamplingRows) -> Tensor:
    highest = scores.amax(-1, keepdim=True)
    # Rows that are greedy, or have no token left, must not make NaN on the way.
    highest = torch.where(highest.isinf(), 0.0, highest)
    temperature = torch.where(rows.temperature > 0, rows.temperature, 1.0)
    # Weights relative to the most likely token's, which is 1: nothing over- or underflows that matters.
    weights = torch.exp((scores - highest) * (1.0 / temperature)[:, None])
    weights = torch.where(weights >= rows.min_p[:, None], weights, 0.0)
    weights = torch.where(scores >= _kth(scores, rows.top_k), weights, 0.0)
    if bool((rows.top_p < 1).any()):
        weights = torch.where(scores >= _nucleus(scores, weights, rows.top_p), weights, 0.0)
    cumulative = torch.cumsum(weights.double(), dim=-1)
    target = rows.uniform[:, None] * cumulative[:, -1:]
    # The first token whose cumulative weight exceeds the target; dropped tokens add none, so they are never it.
    drawn = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return torch.where(cumulative[:, -1] > 0, drawn.clamp_(max=scores.shape[-1] - 1), 0)


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
