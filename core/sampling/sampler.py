"""Sampler: draws a token from each row of logits, and makes the log-probabilities that are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infer.kernels.ops import Ops, TopLogprobs

from ..errors import RecordError
from ..types.outputs import Logprob
from ..types.request import Sequence
from .beam_search import Candidates
from .distributions import DistributionBook, Distributions, rows_with
from .row_settings import LOGPROBS, RULES
from .transfers import ToHost, to_device

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer

#: Rows of float32 logits that are made at a time for log-probabilities of the processed distribution.
PIECE = 64


@dataclass(slots=True)
class Samples:
    """The tokens that one step drew for its R rows."""

    tokens: list[int]
    failed: dict[int, RecordError]
    """Row -> why nothing could be drawn for it; its token means nothing."""
    logprobs: dict[int, dict[int, Logprob]]
    """Row -> token id -> Logprob, most likely first, for the rows that asked, and those whose best choices are sought."""
    ids: NDArray[np.int64]
    """[R] the tokens again."""

    def of(self, rows: NDArray[np.intp] | list[int]) -> Samples:
        """Those of some rows, which then count from 0 in this order."""
        if len(rows) == len(self.tokens):
            return self
        ids = self.ids[rows]
        places = {int(row): new for new, row in enumerate(rows)}
        failed = {places[row]: self.failed[row] for row in sorted(self.failed) if row in places}
        logprobs = {places[row]: entries for row, entries in self.logprobs.items() if row in places}
        return Samples(ids.tolist(), failed, logprobs, ids)


@dataclass(slots=True)
class Draws:
    """The draws of one step that the device has begun with: R rows, whose tokens may be used there before the host has them."""

    tokens: Tensor
    """int64 [R] on the device; -1 where none is left."""
    needs: NDArray[np.unsignedinteger]
    """[R] what the rows ask for; see row_settings.py."""
    asked: int
    """Its bits that some row has."""
    sequences: list[Sequence]
    _failed: dict[int, RecordError]
    _arriving: ToHost
    """Tokens, and which rows were finite."""
    _tops: Iterable[_Tops]


@dataclass(slots=True)
class _Tops:
    """Log-probabilities of some rows, on their way to the host."""

    rows: list[int]
    arriving: ToHost
    asked: list[int] | None = None
    """The tokens that they are of, one a row; None: of those that are drawn, and of the likeliest."""


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
        self._distributions = DistributionBook(end_ids, tokenizer, vocab_size)

    def sample(self, logits: Tensor, sequences: list[Sequence]) -> Samples:
        """Draws one token a row of logits [R, vocabulary] in any floating dtype; they stay as they are."""
        return self.finish(self.begin(logits, sequences))

    @torch.inference_mode()
    def begin(self, logits: Tensor, sequences: list[Sequence], *, ahead: bool = False, again: bool = False) -> Draws:
        """The first half of `sample`: nothing here waits for the device.

        Args:
            ahead: the device gets other work before `finish` is called, which is not to wait for that.
            again: these are further draws of a step, so what is remembered of its other sequences is kept.
        """
        settings, failed = self._distributions.settings(sequences), dict[int, RecordError]()
        if not sequences:
            return Draws(torch.empty(0, dtype=torch.int64, device=logits.device), settings["needs"], 0, sequences, failed, ToHost([]), [])
        draw = self._distributions.gather(logits, sequences, settings, failed, again=again)
        tokens, finite = self.ops.sample(draw.logits, draw.rows, draw.penalties, draw.mask)
        needs, asked = settings["needs"], self._distributions.asked(settings)
        tops: Iterable[_Tops] = ()
        if asked & LOGPROBS:
            if ahead:
                tops = list(self._tops(logits, draw, sequences, needs, tokens, finite))
            else:  # made when it is known which rows can have some
                tops = self._tops(logits, draw, sequences, needs, tokens, failed)
        return Draws(tokens, needs, asked, sequences, failed, ToHost([tokens, finite]), tops)

    @torch.inference_mode()
    def finish(self, draws: Draws) -> Samples:
        """The second half: waits for the draws."""
        if not draws.sequences:
            return Samples([], {}, {}, np.empty(0, dtype=np.int64))
        tokens, finite = draws._arriving.wait()
        ids, failed = tokens.numpy(), draws._failed
        if np.count_nonzero(sound := finite.numpy()) < len(sound):
            for row in (~sound).nonzero()[0].tolist():
                failed[row] = _not_finite()
        if ids.min() < 0:
            for row in (ids < 0).nonzero()[0].tolist():
                failed.setdefault(row, _nothing_left(draws.sequences[row]))
            ids = np.maximum(ids, 0)
        drawn = ids.tolist()
        logprobs: dict[int, dict[int, Logprob]] = {}
        merged: set[int] = set()
        for top in draws._tops:
            tokens_of = top.asked if top.asked is not None else [drawn[row] for row in top.rows]
            entries = self._entries(TopLogprobs(*top.arriving.wait()), tokens_of)
            for row, entry in zip(top.rows, entries, strict=True):
                if row not in failed:
                    logprobs.setdefault(row, {}).update(entry)
            if top.asked is not None:
                merged.update(row for row in top.rows if row not in failed)
        for row in merged:
            logprobs[row] = dict(sorted(logprobs[row].items(), key=lambda item: item[1].rank))
        return Samples(drawn, failed, logprobs, ids)

    @torch.inference_mode()
    def candidates(self, logits: Tensor, sequences: list[Sequence], count: int) -> list[Candidates | RecordError]:
        """The `count` likeliest next tokens of the beams `sequences` by the distribution that their parameters make of logits
        [R, vocabulary]: everything but the draw counts, and with a temperature of 0 the logits are not divided."""
        failed: dict[int, RecordError] = {}
        settings = self._distributions.settings(sequences)
        draw = self._distributions.gather(logits, sequences, settings, failed)
        places = torch.arange(len(sequences), device=logits.device)
        finite = self.ops.sample(logits, None, None, None)[1].tolist()  # the quickest way to know
        if draw.rows is None and draw.mask is None and draw.penalties is None:
            final = logits if all(finite) else torch.where(logits.isfinite(), logits, 0)
        else:
            final = self.ops.processed_logits(logits, places, draw.rows, draw.penalties, draw.mask)
        top = self.ops.top_logprobs(final, places, torch.zeros_like(places), min(count, self.vocab_size))
        ids, values = top.ids.cpu().numpy(), top.values.cpu().numpy()
        for row in rows_with(settings["needs"], RULES):
            # transformers has rules forbid tokens of a distribution, whose others do not become likelier by it.
            if finite[row]:
                values[row] += (final[row].float().logsumexp(-1) - logits[row].float().logsumexp(-1)).item()
        failed.update({row: _not_finite() for row, good in enumerate(finite) if not good})
        return [failed.get(row) or Candidates(ids[row], values[row]) for row in range(len(sequences))]

    @torch.inference_mode()
    def prompt_logprobs(self, logits: Tensor, tokens: list[int], count: int) -> list[dict[int, Logprob]]:
        """For each row of logits [A, vocabulary] the `count` (-1: all) most likely tokens, and the one of `tokens` [A] that the
        prompt goes on with. Always of the model's own distribution. The logits are finite: who asks has looked."""
        if not tokens:
            return []
        rows = torch.arange(len(tokens), device=logits.device)
        asked = torch.tensor(tokens, device=logits.device)
        return self._entries(self.ops.top_logprobs(logits, rows, asked, self._count(count)), tokens)

    # -- log-probabilities ---------------------------------------------------------------------------------------
    def _tops(
        self,
        logits: Tensor,
        draw: Distributions,
        sequences: list[Sequence],
        needs: NDArray[np.unsignedinteger],
        tokens: Tensor,
        broken: Tensor | dict[int, RecordError],
    ) -> Iterator[_Tops]:
        """Log-probabilities of the rows that ask for some.

        Args:
            broken: the rows that have none; or, where the host does not know them yet, which rows are finite: bool [R].
        """
        by_count: dict[tuple[bool, int], list[int]] = {}
        ruled = set(rows_with(needs, RULES))
        for row in rows_with(needs, LOGPROBS):
            if isinstance(broken, Tensor) or row not in broken:
                by_count.setdefault((row in ruled, self._count(sequences[row].params.logprobs or 0)), []).append(row)
        groups: list[tuple[bool, int, list[int], list[int] | None]] = [(by, count, rows, None) for (by, count), rows in by_count.items()]
        for by in (False, True):
            pairs = [(row, token) for (one, _), rows in by_count.items() if one is by for row in rows for token in sequences[row].asked]
            if pairs:
                groups.append((by, 0, [row for row, _ in pairs], [token for _, token in pairs]))
        for by_rules, count, rows, asked in groups:
            step = PIECE if self._processed or by_rules or asked is not None else len(rows)
            for start in range(0, len(rows), step):
                piece, own = rows[start : start + step], None if asked is None else asked[start : start + step]
                places = in_scores = to_device(torch.tensor(piece), tokens.device)
                scores = logits
                if by_rules and not self._processed:
                    scores = self.ops.processed_logits(draw.logits, places, None, None, draw.mask)
                    in_scores = torch.arange(len(piece), device=tokens.device)
                elif self._processed:
                    scores = self.ops.processed_logits(draw.logits, places, draw.rows, draw.penalties, draw.mask)
                    in_scores = torch.arange(len(piece), device=tokens.device)
                if isinstance(broken, Tensor):
                    # Nobody reads what becomes of rows without a token, but it must come out of numbers.
                    sound = broken[places] & (tokens[places] >= 0)
                    scores = torch.where(sound[:, None], scores[in_scores], 0)
                    in_scores = torch.arange(len(piece), device=tokens.device)
                wanted = tokens[places].clamp(min=0) if own is None else to_device(torch.tensor(own), tokens.device)
                yield _Tops(piece, ToHost(self.ops.top_logprobs(scores, in_scores, wanted, count)), own)

    def _count(self, asked: int) -> int:
        return self.vocab_size if asked < 0 else min(asked, self.vocab_size)

    def _entries(self, top: TopLogprobs, tokens: list[int]) -> list[dict[int, Logprob]]:
        text = self._tokenizer.token_name if self._tokenizer is not None else lambda token: None
        result = []
        for ids, values, token, value, rank in zip(*(t.tolist() for t in top[:2]), tokens, *(t.tolist() for t in top[2:]), strict=True):
            best = {t: Logprob(v, place, text(t)) for place, (t, v) in enumerate(zip(ids, values, strict=True), start=1)}
            if token not in best:
                best[token] = Logprob(value, rank, text(token))
            result.append(best)
        return result


def _not_finite() -> RecordError:
    return RecordError("non_finite_logits", "the model's logits for this record are not finite")


def _nothing_left(sequence: Sequence) -> RecordError:
    if sequence.grammar is not None and (failure := sequence.grammar.failure) is not None:
        return failure
    params = sequence.params
    names = ("structured_outputs", "allowed_token_ids", "bad_words", "min_tokens", "logits_processors")
    given = [name for name in names if getattr(params, name)]
    return RecordError(
        "invalid_value", f"no token may come next: {', '.join(given) or 'penalties'} forbid them all", param=given[0] if given else None
    )
