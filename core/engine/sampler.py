"""From logits to tokens and logprobs: gathers what each row asks for into tensors and lets the backend draw.

Rows that use only common fields cost no Python beyond reading their parameters.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Penalties, SamplingRows

from ..outputs import Logprob
from ..params import MIN_TEMPERATURE
from .noise import uniforms
from .request import Sequence


@dataclass(slots=True)
class Samples:
    """What one step drew for its R rows."""

    tokens: list[int]
    failed: set[int]
    """Rows whose logits are not finite; their token means nothing."""
    logprobs: dict[int, dict[int, Logprob]]
    """Row -> token id -> Logprob, most likely first, for the rows that asked."""


class Sampler:
    """
    Args:
        end_ids: tokens that end an output unless `ignore_eos`.
    """

    def __init__(self, ops: Ops, end_ids: frozenset[int]) -> None:
        self.ops = ops
        self.end_ids = end_ids

    @torch.inference_mode()
    def sample(self, logits: Tensor, sequences: list[Sequence]) -> Samples:
        """Draws one token a row of float32 [R, vocabulary], which is overwritten."""
        # Infinities of both signs sum to NaN and no finite row can overflow: one pass finds them all.
        failed = set((~torch.isfinite(logits.sum(-1))).nonzero().flatten().tolist())
        for row in failed:
            logits[row] = 0
        asking = [i for i, s in enumerate(sequences) if s.params.logprobs is not None and i not in failed]
        raw = torch.log_softmax(logits[asking], dim=-1) if asking else None
        self._mask_ends(logits, sequences)
        penalties = self._penalties(logits, sequences)
        if penalties is not None:
            self.ops.apply_penalties(logits, penalties)
        tokens = self.ops.sample(logits, _rows(sequences, logits.device)).tolist()
        logprobs = {}
        if raw is not None:
            for place, row in enumerate(asking):
                logprobs[row] = _logprobs(raw[place], tokens[row], sequences[row].params.logprobs or 0)
        return Samples(tokens, failed, logprobs)

    def _mask_ends(self, logits: Tensor, sequences: list[Sequence]) -> None:
        """Forbids end and stop tokens to rows that have not reached `min_tokens`."""
        for i, s in enumerate(sequences):
            if s.num_output < s.params.min_tokens:
                ids = self.end_ids.union(s.params.stop_token_ids)
                inside = [t for t in ids if t < logits.shape[-1]]
                logits[i, inside] = float("-inf")

    def _penalties(self, logits: Tensor, sequences: list[Sequence]) -> Penalties | None:
        rows: list[int] = []
        tokens: list[int] = []
        repetition: list[float] = []
        subtract: list[float] = []
        for i, s in enumerate(sequences):
            p = s.params
            if p.repetition_penalty == 1 and not p.frequency_penalty and not p.presence_penalty:
                continue
            counts = Counter(s.output_ids)
            seen = counts.keys() if p.repetition_penalty == 1 else set(s.tokens)
            for token in seen:
                count = counts.get(token, 0)
                rows.append(i)
                tokens.append(token)
                repetition.append(p.repetition_penalty)
                subtract.append(p.frequency_penalty * count + p.presence_penalty * (count > 0))
        if not rows:
            return None
        device = logits.device
        return Penalties(
            torch.tensor(rows, device=device),
            torch.tensor(tokens, device=device),
            torch.tensor(repetition, dtype=torch.float32, device=device),
            torch.tensor(subtract, dtype=torch.float32, device=device),
        )


def _rows(sequences: list[Sequence], device: torch.device) -> SamplingRows:
    params = [s.params for s in sequences]
    greedy = [p.greedy for p in params]
    noise = uniforms([s.noise_key for s in sequences], [s.num_output for s in sequences])
    return SamplingRows(
        temperature=torch.tensor(
            [0.0 if g else max(p.temperature, MIN_TEMPERATURE) for p, g in zip(params, greedy, strict=True)], device=device
        ),
        top_k=torch.tensor([max(p.top_k, 0) for p in params], device=device),
        top_p=torch.tensor([p.top_p for p in params], dtype=torch.float32, device=device),
        min_p=torch.tensor([p.min_p for p in params], dtype=torch.float32, device=device),
        uniform=torch.as_tensor(noise, device=device),
        all_greedy=all(greedy),
        any_truncated=any(p.top_k > 0 or p.top_p < 1 or p.min_p > 0 for p in params),
    )


def _logprobs(row: Tensor, token: int, count: int) -> dict[int, Logprob]:
    """The `count` most likely tokens of log-probabilities [vocabulary], lower ids first among equals, and `token`."""
    best: list[int] = []
    if count:
        least = torch.topk(row, min(count, row.shape[0])).values[-1]
        # Every token that ties with the last one is looked at, so that which of them is reported is a rule, not chance.
        candidates = (row >= least).nonzero().flatten()
        order = torch.sort(row[candidates], descending=True, stable=True).indices
        best = candidates[order][:count].tolist()
    values = row[[*best, token]].tolist()
    result = {t: Logprob(value, rank) for rank, (t, value) in enumerate(zip(best, values, strict=False), start=1)}
    if token not in result:
        result[token] = Logprob(values[-1], int((row > values[-1]).sum()) + 1)
    return result
