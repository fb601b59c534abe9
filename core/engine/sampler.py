"""From logits to tokens and logprobs: gathers what each row asks for and lets the backend draw.

What no row asks for costs nothing, and no work here grows with the length of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infer.kernels.ops import Ops, SamplingRows

from ..outputs import Logprob
from .noise import uniforms
from .penalties import PenaltyBook
from .request import Sequence
from .row_settings import DRAWS, LOGPROBS, MIN_TOKENS, PENALTIES, RowSettings


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
        self._settings = RowSettings()
        self._penalties = PenaltyBook(end_ids)

    @torch.inference_mode()
    def sample(self, logits: Tensor, sequences: list[Sequence]) -> Samples:
        """Draws one token a row of logits [R, vocabulary] in any floating dtype; they stay as they are."""
        if not sequences:
            return Samples([], set(), {})
        settings = self._settings.gather(sequences)
        needs = int(np.bitwise_or.reduce(settings["needs"]))
        rows = _sampling_rows(settings, sequences, logits.device) if needs & DRAWS else None
        penalties = None
        if needs & (PENALTIES | MIN_TOKENS):
            changing = np.flatnonzero(settings["needs"] & (PENALTIES | MIN_TOKENS)).tolist()
            penalties = self._penalties.gather(sequences, changing, logits.shape[-1], logits.device)
        tokens, finite = self.ops.sample(logits, rows, penalties)
        failed = set() if bool(finite.all()) else set((~finite).nonzero().flatten().tolist())
        logprobs = {}
        if needs & LOGPROBS:
            asking = [row for row in np.flatnonzero(settings["needs"] & LOGPROBS).tolist() if row not in failed]
            logprobs = self._logprobs(logits, sequences, asking, tokens)
        return Samples(tokens.tolist(), failed, logprobs)

    def _logprobs(self, logits: Tensor, sequences: list[Sequence], asking: list[int], tokens: Tensor) -> dict[int, dict[int, Logprob]]:
        by_count: dict[int, list[int]] = {}
        for row in asking:
            by_count.setdefault(min(sequences[row].request.params.logprobs or 0, logits.shape[-1]), []).append(row)
        result = {}
        for count, rows in by_count.items():
            places = torch.tensor(rows, device=logits.device)
            drawn = tokens[places]
            top = self.ops.top_logprobs(logits, places, drawn, count)
            for row, ids, values, token, value, rank in zip(rows, *(t.tolist() for t in (*top[:2], drawn, *top[2:])), strict=True):
                best = {t: Logprob(v, place) for place, (t, v) in enumerate(zip(ids, values, strict=True), start=1)}
                if token not in best:
                    best[token] = Logprob(value, rank)
                result[row] = best
        return result


def _sampling_rows(settings: NDArray[np.void], sequences: list[Sequence], device: torch.device) -> SamplingRows:
    noise = uniforms([s.noise_key for s in sequences], [len(s.tokens) - s.num_prompt for s in sequences])

    def column(name: str) -> Tensor:
        return torch.from_numpy(settings[name].copy()).to(device)

    return SamplingRows(column("temperature"), column("top_k"), column("top_p"), column("min_p"), torch.from_numpy(noise).to(device))
