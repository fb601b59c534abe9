"""Drawing one token a row. Thresholds in place of orderings: equal logits are kept or dropped together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import Penalties, SamplingRows

#: How many of the most likely tokens are looked at before a row is sorted whole.
HEAD = 256


def apply_penalties(logits: Tensor, penalties: Penalties) -> None:
    values = logits[penalties.row, penalties.token]
    values = torch.where(values > 0, values / penalties.repetition, values * penalties.repetition)
    logits[penalties.row, penalties.token] = values - penalties.subtract


def sample(logits: Tensor, rows: SamplingRows) -> Tensor:
    greedy = logits.argmax(-1)
    if rows.all_greedy:
        return greedy
    drawing = rows.temperature > 0
    scaled = logits / torch.where(drawing, rows.temperature, 1.0)[:, None]
    probs = torch.softmax(scaled, dim=-1)
    if rows.any_truncated:
        probs = _truncate(probs, rows)
    cumulative = torch.cumsum(probs.double(), dim=-1)
    target = rows.uniform[:, None] * cumulative[:, -1:]
    # The first token whose cumulative mass exceeds the target; dropped tokens add none, so they are never it.
    drawn = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return torch.where(drawing, drawn.clamp_(max=logits.shape[-1] - 1), greedy)


def _truncate(probs: Tensor, rows: SamplingRows) -> Tensor:
    """Zeroes what min_p, top_k and top_p drop. Not renormalized: the draw scales by what is left."""
    vocabulary = probs.shape[-1]
    floor = rows.min_p * probs.amax(-1)
    probs = torch.where(probs >= floor[:, None], probs, 0.0)

    limit = torch.where(rows.top_k > 0, rows.top_k, vocabulary).clamp(max=vocabulary)
    longest = int(torch.where(rows.top_k > 0, limit, 0).amax())
    head = torch.topk(probs, min(vocabulary, max(HEAD, longest)), dim=-1).values
    kth = head.gather(-1, (limit.clamp(max=head.shape[-1]) - 1)[:, None])
    kth = torch.where((rows.top_k > 0)[:, None], kth, 0.0)
    probs = torch.where(probs >= kth, probs, 0.0)

    nucleus = rows.top_p < 1
    if bool(nucleus.any()):
        wanted = rows.top_p.double() * torch.cumsum(probs.double(), dim=-1)[:, -1]
        threshold, found = _nucleus_threshold(torch.where(head >= kth, head, 0.0), wanted)
        for row in (~found & nucleus).nonzero().flatten().tolist():
            ordered = torch.sort(probs[row : row + 1], dim=-1, descending=True).values
            threshold[row] = _nucleus_threshold(ordered, wanted[row : row + 1])[0][0]
        probs = torch.where(probs >= torch.where(nucleus, threshold, 0.0)[:, None], probs, 0.0)
    return probs


def _nucleus_threshold(ordered: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest probability of the shortest prefix of `ordered` whose sum reaches `wanted`, and whether there is one."""
    cumulative = torch.cumsum(ordered.double(), dim=-1)
    place = torch.searchsorted(cumulative, wanted[:, None]).squeeze(-1)
    last = ordered.shape[-1] - 1
    return ordered.gather(-1, place.clamp(max=last)[:, None]).squeeze(-1), place <= last
