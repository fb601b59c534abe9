"""Distributions that tokens are drawn from: a step's logits and what each row asks to be done to them.

Nothing is gathered that no row asks for, and no work here grows with the length of a sequence (but for what logits processors, which
are given the whole of it, do by themselves).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infer.kernels.ops import Penalties, SamplingRows, TokenMask

from ..containment import own_error
from ..errors import RecordError
from ..types.noise import as_keys, uniforms
from ..types.request import Sequence
from .bad_words import BadWordBook
from .penalties import PenaltyBook
from .processors import process
from .row_settings import ALLOWED, BAD_WORDS, CHANGES, DRAWS, MIN_TOKENS, PROCESSORS, STRUCTURED, THINKING, RowSettings
from .token_bits import pack_flags
from .token_masks import TokenMasks
from .transfers import to_device

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer


@dataclass(slots=True)
class Distributions:
    """The distributions of R rows, as the backend takes them."""

    logits: Tensor
    """[R, vocabulary]: the model's, or a float32 copy with what logits processors made of some rows."""
    rows: SamplingRows | None
    penalties: Penalties | None
    mask: TokenMask | None


@dataclass(frozen=True, slots=True)
class _Lasting:
    """Inputs of draws that stay the same while the same sequences run. They are looked up and copied to the device once."""

    settings: NDArray[np.void]
    """The settings that these inputs were made from; other sequences have other settings."""
    rows: SamplingRows
    """Without the noise."""
    noise_keys: NDArray[np.uint64]
    num_prompt: NDArray[np.int64]
    tokens: list[list[int]]
    """The sequences' own lists, which grow."""

    @classmethod
    def of(cls, settings: NDArray[np.void], sequences: list[Sequence], device: torch.device) -> _Lasting:
        def column(name: str) -> Tensor:
            return to_device(torch.from_numpy(settings[name].copy()), device)

        no_noise = torch.empty(0, dtype=torch.float64)
        rows = SamplingRows(column("temperature"), column("top_k"), column("top_p"), column("min_p"), no_noise)
        prompts = np.array([s.num_prompt for s in sequences], dtype=np.int64)
        return cls(settings, rows, as_keys([s.noise_key for s in sequences]), prompts, [s.tokens for s in sequences])


class DistributionBook:
    """
    Args:
        end_ids: tokens that end an output unless `ignore_eos`.
        tokenizer: for bad words; None: they are refused.
        vocab_size: of the model's logits.
    """

    def __init__(self, end_ids: frozenset[int], tokenizer: Tokenizer | None, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._settings = RowSettings()
        self._penalties = PenaltyBook(end_ids)
        self._bad_words = BadWordBook(tokenizer)
        self._masks = TokenMasks(vocab_size)
        self._lasting: _Lasting | None = None

    def settings(self, sequences: list[Sequence]) -> NDArray[np.void]:
        """The settings of the rows; see row_settings.py."""
        return self._settings.gather(sequences)

    def asked(self, settings: NDArray[np.void]) -> int:
        """The bits of `needs` that some of the rows have."""
        return self._settings.asked(settings)

    def gather(
        self,
        logits: Tensor,
        sequences: list[Sequence],
        settings: NDArray[np.void],
        failed: dict[int, RecordError],
        *,
        again: bool = False,
    ) -> Distributions:
        """The distributions to draw from; rows that their logits processors or grammars make impossible go to `failed`. `again`: see
        `Sampler.begin`."""
        needs, device = settings["needs"], logits.device
        any_needs = self.asked(settings)
        draw = Distributions(logits, None, None, None)
        left: dict[int, Tensor] = {}
        due = _due(sequences, rows_with(needs, THINKING), failed) if any_needs & THINKING else {}
        if any_needs & PROCESSORS:
            rows = [row for row in rows_with(needs, PROCESSORS) if row not in due]
            draw.logits, left = _processed(logits, sequences, rows, failed)
        if any_needs & DRAWS:
            draw.rows = self._sampling_rows(settings, sequences, device)
        mask = None
        if any_needs & (ALLOWED | STRUCTURED) or left or due:
            masked = sorted({*rows_with(needs, ALLOWED | STRUCTURED), *left, *due})
            mask = self._masks.gather(sequences, masked, left, failed, due, again=again)
            draw.mask = TokenMask(to_device(mask.rows, device), to_device(mask.bits, device))
        if any_needs & (CHANGES | MIN_TOKENS | BAD_WORDS):
            draw.penalties = self._change(sequences, needs, mask, due, device, again=again)
        return draw

    def _sampling_rows(self, settings: NDArray[np.void], sequences: list[Sequence], device: torch.device) -> SamplingRows:
        if self._lasting is None or self._lasting.settings is not settings:
            self._lasting = _Lasting.of(settings, sequences, device)
        lasting = self._lasting
        positions = np.fromiter(map(len, lasting.tokens), dtype=np.int64, count=len(sequences)) - lasting.num_prompt
        noise = to_device(torch.from_numpy(uniforms(lasting.noise_keys, positions)), device)
        return replace(lasting.rows, uniform=noise)

    def _change(
        self,
        sequences: list[Sequence],
        needs: NDArray[np.unsignedinteger],
        mask: TokenMask | None,
        due: Mapping[int, int],
        device: torch.device,
        *,
        again: bool,
    ) -> Penalties | None:
        with_words = [row for row in rows_with(needs, BAD_WORDS) if row not in due]
        banned = {row: self._bad_words.of(sequences[row].params.bad_words).banned(sequences[row]) for row in with_words}
        may_end = set(due)
        if mask is not None:
            # Where a finished structured output can only end, it ends, however short it is.
            for row in rows_with(needs, MIN_TOKENS):
                held_back = self._penalties.held_back(sequences[row])
                if held_back and int(mask.rows[row]) >= 0 and self._masks.leaves_nothing_but(held_back, mask, row):
                    may_end.add(row)
        changing = rows_with(needs, CHANGES | MIN_TOKENS | BAD_WORDS)
        return self._penalties.gather(sequences, changing, self.vocab_size, device, banned=banned, may_end=may_end, again=again)


def _due(sequences: list[Sequence], rows: Iterable[int], failed: dict[int, RecordError]) -> dict[int, int]:
    """Row -> the only token that may come next, of those whose budget of thinking is spent."""
    found = {}
    for row in rows:
        sequence = sequences[row]
        if sequence.thinking is None:
            continue
        try:
            token = sequence.thinking.due(sequence.tokens)
        except BaseException as error:
            failed[row] = own_error(error, f"request {sequence.request.request_id}")
        else:
            if token is not None:
                found[row] = token
    return found


def rows_with(needs: NDArray[np.unsignedinteger], bits: int) -> list[int]:
    """The rows that ask for one of some things."""
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
