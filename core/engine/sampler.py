"""From logits to tokens and logprobs: gathers what each row asks for and lets the backend draw.

What no row asks for costs nothing, and no work here grows with the length of a sequence (but for what logits processors, which
are given the whole of it, do by themselves).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infer.kernels.ops import Ops, Penalties, SamplingRows, TokenMask, TopLogprobs

from ..errors import RecordError
from ..outputs import Logprob
from ..params import SamplingParams
from .bad_words import BadWordBook
from .beams import Candidates
from .noise import uniforms
from .penalties import PenaltyBook
from .processors import process
from .request import Sequence
from .row_settings import ALLOWED, BAD_WORDS, CHANGES, DRAWS, LOGPROBS, MIN_TOKENS, PROCESSORS, STRUCTURED, RowSettings
from .token_bits import pack_flags
from .token_masks import TokenMasks

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer

#: Rows of float32 logits that are made at a time for log-probabilities of the processed distribution.
PIECE = 64


@dataclass(slots=True)
class Samples:
    """What one step drew for its R rows."""

    tokens: list[int]
    failed: dict[int, RecordError]
    """Row -> why nothing could be drawn for it; its token means nothing."""
    logprobs: dict[int, dict[int, Logprob]]
    """Row -> token id -> Logprob, most likely first, for the rows that asked, and those whose best choices are sought."""


@dataclass(slots=True)
class _Draw:
    """What the backend draws from."""

    logits: Tensor
    """[R, vocabulary]: the model's, or a float32 copy with what logits processors made of some rows."""
    rows: SamplingRows | None
    penalties: Penalties | None
    mask: TokenMask | None


class Sampler:
    """
    Args:
        end_ids: tokens that end an output unless `ignore_eos`.
        tokenizer: for bad words and the texts of tokens in logprobs; None: the former are refused, the latter are None.
        vocab_size: of the model's logits.
        logprobs_mode: "raw_logprobs", of the model's own distribution, or "processed_logprobs", of the one that is drawn from.
    """

    def __init__(
        self, ops: Ops, end_ids: frozenset[int], tokenizer: Tokenizer | None, vocab_size: int, logprobs_mode: str = "raw_logprobs"
    ) -> None:
        assert logprobs_mode in ("raw_logprobs", "processed_logprobs"), logprobs_mode
        self.ops = ops
        self.vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._processed = logprobs_mode == "processed_logprobs"
        self._settings = RowSettings()
        self._penalties = PenaltyBook(end_ids)
        self._bad_words = BadWordBook(tokenizer)
        self._masks = TokenMasks(vocab_size)

    def check(self, params: SamplingParams) -> None:
        """Raises RecordError for parameters that cannot be followed here: bad words that are too many, or without a tokenizer."""
        if params.bad_words:
            self._bad_words.of(params.bad_words)

    @torch.inference_mode()
    def sample(self, logits: Tensor, sequences: list[Sequence]) -> Samples:
        """Draws one token a row of logits [R, vocabulary] in any floating dtype; they stay as they are."""
        if not sequences:
            return Samples([], {}, {})
        settings = self._settings.gather(sequences)
        needs, failed = settings["needs"], dict[int, RecordError]()
        draw = self._draw(logits, sequences, settings, failed)
        tokens, finite = self.ops.sample(draw.logits, draw.rows, draw.penalties, draw.mask)
        drawn = tokens.tolist()
        if not bool(finite.all()):
            for row in (~finite).nonzero().flatten().tolist():
                failed[row] = _not_finite()
        if min(drawn) < 0:
            for row in (row for row, token in enumerate(drawn) if token < 0):
                failed.setdefault(row, _nothing_left(sequences[row]))
                drawn[row] = 0
        logprobs = {}
        if np.bitwise_or.reduce(needs) & LOGPROBS:
            asking = [row for row in _rows_with(needs, LOGPROBS) if row not in failed]
            logprobs = self._logprobs(logits, draw, sequences, asking, tokens)
        return Samples(drawn, failed, logprobs)

    @torch.inference_mode()
    def candidates(self, logits: Tensor, sequences: list[Sequence], count: int) -> list[Candidates | RecordError]:
        """The `count` likeliest next tokens of the beams `sequences` by the distribution that their parameters make of logits
        [R, vocabulary]: everything but the draw counts, and with a temperature of 0 the logits are not divided."""
        draw = self._draw(logits, sequences, self._settings.gather(sequences), {})
        places = torch.arange(len(sequences), device=logits.device)
        finite = self.ops.sample(logits, None, None, None)[1].tolist()  # the quickest way to know
        if draw.rows is None and draw.mask is None and draw.penalties is None:
            final = logits if all(finite) else torch.where(logits.isfinite(), logits, 0)
        else:
            final = self.ops.processed_logits(logits, places, draw.rows, draw.penalties, draw.mask)
        top = self.ops.top_logprobs(final, places, torch.zeros_like(places), min(count, self.vocab_size))
        ids, values = top.ids.cpu().numpy(), top.values.cpu().numpy()
        return [Candidates(ids[i], values[i]) if finite[i] else _not_finite() for i in range(len(sequences))]

    @torch.inference_mode()
    def prompt_logprobs(self, logits: Tensor, tokens: list[int], count: int) -> list[dict[int, Logprob]]:
        """For each row of logits [A, vocabulary] the `count` (-1: all) most likely tokens, and the one of `tokens` [A] that the
        prompt goes on with. Always of the model's own distribution. The logits are finite: who asks has looked."""
        if not tokens:
            return []
        rows = torch.arange(len(tokens), device=logits.device)
        asked = torch.tensor(tokens, device=logits.device)
        return self._entries(self.ops.top_logprobs(logits, rows, asked, self._count(count)), tokens)

    def _draw(self, logits: Tensor, sequences: list[Sequence], settings: NDArray[np.void], failed: dict[int, RecordError]) -> _Draw:
        """What is drawn from, without the draw; rows that their logits processors make impossible go to `failed`."""
        needs, device = settings["needs"], logits.device
        any_needs = int(np.bitwise_or.reduce(needs))
        draw = _Draw(logits, None, None, None)
        left: dict[int, Tensor] = {}
        if any_needs & PROCESSORS:
            draw.logits, left = _processed(logits, sequences, _rows_with(needs, PROCESSORS), failed)
        if any_needs & DRAWS:
            draw.rows = _sampling_rows(settings, sequences, device)
        mask = None
        if any_needs & (ALLOWED | STRUCTURED) or left:
            mask = self._masks.gather(sequences, sorted({*_rows_with(needs, ALLOWED | STRUCTURED), *left}), left)
            draw.mask = TokenMask(mask.rows.to(device), mask.bits.to(device))
        if any_needs & (CHANGES | MIN_TOKENS | BAD_WORDS):
            draw.penalties = self._change(sequences, needs, mask, device)
        return draw

    def _change(
        self, sequences: list[Sequence], needs: NDArray[np.unsignedinteger], mask: TokenMask | None, device: torch.device
    ) -> Penalties | None:
        banned = {row: self._bad_words.of(sequences[row].params.bad_words).banned(sequences[row]) for row in _rows_with(needs, BAD_WORDS)}
        may_end = set()
        if mask is not None:
            # Where a finished structured output can only end, it ends, however short it is.
            for row in _rows_with(needs, MIN_TOKENS):
                held_back = self._penalties.held_back(sequences[row])
                if held_back and int(mask.rows[row]) >= 0 and self._masks.leaves_nothing_but(held_back, mask, row):
                    may_end.add(row)
        changing = _rows_with(needs, CHANGES | MIN_TOKENS | BAD_WORDS)
        return self._penalties.gather(sequences, changing, self.vocab_size, device, banned=banned, may_end=may_end)

    # -- log-probabilities ---------------------------------------------------------------------------------------
    def _logprobs(
        self, logits: Tensor, draw: _Draw, sequences: list[Sequence], asking: list[int], tokens: Tensor
    ) -> dict[int, dict[int, Logprob]]:
        by_count: dict[int, list[int]] = {}
        for row in asking:
            by_count.setdefault(self._count(sequences[row].params.logprobs or 0), []).append(row)
        result: dict[int, dict[int, Logprob]] = {}
        for count, rows in by_count.items():
            for start in range(0, len(rows), PIECE if self._processed else len(rows)):
                piece = rows[start : start + PIECE] if self._processed else rows
                places = torch.tensor(piece, device=logits.device)
                drawn = tokens[places]
                if self._processed:
                    processed = self.ops.processed_logits(draw.logits, places, draw.rows, draw.penalties, draw.mask)
                    top = self.ops.top_logprobs(processed, torch.arange(len(piece), device=logits.device), drawn, count)
                else:
                    top = self.ops.top_logprobs(logits, places, drawn, count)
                result.update(zip(piece, self._entries(top, drawn.tolist()), strict=True))
        return result

    def _count(self, asked: int) -> int:
        return self.vocab_size if asked < 0 else min(asked, self.vocab_size)

    def _entries(self, top: TopLogprobs, tokens: list[int]) -> list[dict[int, Logprob]]:
        text = self._tokenizer.token_text if self._tokenizer is not None else lambda token: None
        result = []
        for ids, values, token, value, rank in zip(*(t.tolist() for t in top[:2]), tokens, *(t.tolist() for t in top[2:]), strict=True):
            best = {t: Logprob(v, place, text(t)) for place, (t, v) in enumerate(zip(ids, values, strict=True), start=1)}
            if token not in best:
                best[token] = Logprob(value, rank, text(token))
            result.append(best)
        return result


def _rows_with(needs: NDArray[np.unsignedinteger], bits: int) -> list[int]:
    rows: list[int] = np.flatnonzero(needs & bits).tolist()
    return rows


def _processed(
    logits: Tensor, sequences: list[Sequence], rows: Iterable[int], failed: dict[int, RecordError]
) -> tuple[Tensor, dict[int, Tensor]]:
    """(float32 logits with what processors made of `rows`, row -> bits of the tokens that they left); errors go to `failed`.

    Forbidden tokens become a mask, and their logits 0: -inf among logits would mean that the model's are broken.
    """
    copy = logits.to(torch.float32, copy=True)
    left = {}
    for row in rows:
        if not bool(torch.isfinite(copy[row]).all()):
            continue  # the draw finds that out too
        try:
            result = process(sequences[row], copy[row].clone())
        except RecordError as error:
            failed[row] = error
            continue
        forbidden = result.isneginf()
        if bool(forbidden.any()):
            left[row] = pack_flags((~forbidden).cpu().numpy())
            result = result.masked_fill(forbidden, 0.0)
        copy[row] = result
    return copy, left


def _not_finite() -> RecordError:
    return RecordError("non_finite_logits", "the model's logits for this record are not finite")


def _nothing_left(sequence: Sequence) -> RecordError:
    params = sequence.params
    names = ("structured_outputs", "allowed_token_ids", "bad_words", "min_tokens", "logits_processors")
    given = [name for name in names if getattr(params, name)]
    return RecordError(
        "invalid_value", f"no token may come next: {', '.join(given) or 'penalties'} forbid them all", param=given[0] if given else None
    )


def _sampling_rows(settings: NDArray[np.void], sequences: list[Sequence], device: torch.device) -> SamplingRows:
    noise = uniforms([s.noise_key for s in sequences], [len(s.tokens) - s.num_prompt for s in sequences])

    def column(name: str) -> Tensor:
        return torch.from_numpy(settings[name].copy()).to(device)

    return SamplingRows(column("temperature"), column("top_k"), column("top_p"), column("min_p"), torch.from_numpy(noise).to(device))
