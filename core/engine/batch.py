"""A schedule as flat arrays: what the model needs of a step, without text, parameters or Python objects.

sequence      0 . . . 1 2 2 2 2 ...          S of them
tokens        [ t t t t|t|t t t t ... pad ]  N, padded to a multiple of ROW_MULTIPLE
query_start   [ 0 . . . 4 5 . . . 9 ]        S + 1
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import RecordError
from ..types.placed import Placed
from ..types.request import Request
from .running import ADAPTED, ENCODED, GIVEN, PLACED, SPANNED, Running
from .schedule import Schedule

#: Same as kernels.ops.ROW_MULTIPLE, which cannot be imported here without torch; a test compares them.
ROW_MULTIPLE = 16


class MediaEncoder(Protocol):
    """What computes the embeddings of media; see `media.store.MediaStore`."""

    def embeds(self, placed: Placed) -> NDArray[np.float32]:
        """[tokens, features], a row for each of its tokens, the same whenever it is asked; NaN where they cannot be made."""

    def fault(self, key: bytes) -> RecordError | None:
        """Why the embeddings of the medium with this key could not be made; None if they could."""


def media_fault(encoder: MediaEncoder | None, request: Request) -> RecordError | None:
    """Why media of a request could not be encoded, if that is so."""
    return None if encoder is None else next((fault for one in request.media if (fault := encoder.fault(one.key)) is not None), None)


#: What has no elements is the same in every batch.
_NO_PAIRS = np.zeros((0, 2), dtype=np.int64)
_NO_SLOTS, _NO_ROWS, _NO_SPANS = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.int32)
_NO_EMBEDS, _NO_GRID = np.zeros((0, 0), dtype=np.float32), np.zeros((0, 0), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class PromptSpan:
    """Tokens of one sequence whose logits are wanted although nothing is drawn from them."""

    row: int
    """The sequence's row in the schedule."""
    start: int
    """The first token's position."""
    count: int


@dataclass(slots=True, eq=False)  # not frozen: that makes the many fields slow to set
class Batch:
    """Ints, and the embeddings of virtual tokens: this is what is sent to other ranks. Nothing in it is changed."""

    tokens: NDArray[np.int64]
    """[N] token ids, zeros from T on. -1 - i stands for the i-th token that the step before draws, which only the device has yet."""
    positions: NDArray[np.int64]
    """[N] places in their sequences."""
    query_start: NDArray[np.int32]
    """[S + 1] first token row of each sequence, and T."""
    kv_lens: NDArray[np.int32]
    """[S] tokens in the cache after this step."""
    block_tables: NDArray[np.int32]
    """[S, most blocks], zero-padded; rows may be strided."""
    slots: NDArray[np.int64]
    """[T] where keys and values go."""
    logit_rows: NDArray[np.int64]
    """[W] token rows whose logits are wanted: those to draw from, of drafts after all others; zeros from R on, from `prompt_start` on
    those of prompt tokens, and zeros again; padded too."""
    num_logits: int
    """R"""
    prompt_start: int
    """R padded to a multiple of ROW_MULTIPLE."""
    num_prompt_logits: int
    """P"""
    copies: NDArray[np.int64]
    """[C, 2] (source, target) block copies to make after the swaps and before all else."""
    swap_out: NDArray[np.int64] = field(default_factory=lambda: _NO_PAIRS)
    """[O, 2] (device, CPU) block copies to make first."""
    swap_in: NDArray[np.int64] = field(default_factory=lambda: _NO_PAIRS)
    """[I, 2] (CPU, device) block copies to make then."""

    state_slots: NDArray[np.int32] = field(default_factory=lambda: _NO_SLOTS)
    """[S] each sequence's slot in the pools of states; all 0 for a model without."""
    state_copies: NDArray[np.int64] = field(default_factory=lambda: _NO_PAIRS)
    """[D, 2] (source, target) copies of states to make before all is computed; every source is read before a target is written."""
    virtual_rows: NDArray[np.int64] = field(default_factory=lambda: _NO_ROWS)
    """[V] token rows whose embeddings are not looked up but given."""
    embeds: NDArray[np.float32] = field(default_factory=lambda: _NO_EMBEDS)
    """[V, features] these embeddings; behind them what is added after the first layers, each as wide, of models with such media."""
    grid: NDArray[np.int64] = field(default_factory=lambda: _NO_GRID)
    """[3, N] positions in three parts, if some sequence's differ; else empty."""
    spans: NDArray[np.int32] = field(default_factory=lambda: _NO_SPANS)
    """[T, 2] what tokens see, if some see more than those before them (`AttentionMeta.spans`); else empty."""

    adapters: NDArray[np.int32] = field(default_factory=lambda: _NO_SLOTS)
    """[S] the slot of each sequence's adapter, 0 where it has none; empty where none has one."""
    encoder_lens: NDArray[np.int32] = field(default_factory=lambda: _NO_SLOTS)
    """[S] tokens of each sequence's encoder input (`AttentionMeta.encoder_lens`); empty where none has one."""

    @property
    def asks_back(self) -> bool:
        """True if it has tokens that only the device knows yet."""
        return bool((self.tokens < 0).any())

    def unpadded(self) -> Batch:
        """The same step of its own rows alone, for models that take any number; of prompt tokens' logits none may be wanted."""
        assert not self.num_prompt_logits, "rows to draw from and those of prompts are padded apart"
        total, drawn = int(self.query_start[-1]), self.num_logits
        return replace(
            self,
            tokens=self.tokens[:total],
            positions=self.positions[:total],
            grid=self.grid[:, :total],
            logit_rows=self.logit_rows[:drawn],
            prompt_start=drawn,
        )

    def moved(self) -> Batch:
        """The same step without the copies that it begins with."""
        if not any(map(len, (self.copies, self.swap_out, self.swap_in, self.state_copies))):
            return self
        return replace(self, copies=_NO_PAIRS, swap_out=_NO_PAIRS, swap_in=_NO_PAIRS, state_copies=_NO_PAIRS)

    def arrays(self) -> list[NDArray[Any]]:
        """Everything in it, as `from_arrays` takes it."""
        numbers = np.array([self.num_logits, self.prompt_start, self.num_prompt_logits], dtype=np.int64)
        return [*(getattr(self, name) for name in _ARRAYS), self.embeds.view(np.int32), numbers]

    @classmethod
    def from_arrays(cls, arrays: Sequence[NDArray[Any]]) -> Batch:
        """The batch that `arrays` was called of."""
        num_logits, prompt_start, num_prompt_logits = arrays[-1].tolist()
        return cls(
            **dict(zip(_ARRAYS, arrays[:-2], strict=True)),
            embeds=arrays[-2].view(np.float32),
            num_logits=num_logits,
            prompt_start=prompt_start,
            num_prompt_logits=num_prompt_logits,
        )


_ARRAYS = (
    *("tokens", "positions", "query_start", "kv_lens", "block_tables", "slots", "logit_rows"),
    *("copies", "swap_out", "swap_in", "state_slots", "state_copies", "adapters", "encoder_lens", "virtual_rows", "grid", "spans"),
)


def _pairs(pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """int64 [n, 2]"""
    return np.array(pairs, dtype=np.int64).reshape(-1, 2) if pairs else _NO_PAIRS


def padded_rows(count: int) -> int:
    """`count` rounded up to a multiple of ROW_MULTIPLE, and of a sixteenth of its size or so: GEMM libraries build and keep a
    kernel for every number of rows they meet, so the large ones come in few sizes."""
    step = max(ROW_MULTIPLE, 1 << max(0, count.bit_length() - 5))
    return -(-count // step) * step


def prompts_of(query_start: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The sequences with more than one token, [P], and where each begins among the tokens of these alone, [P + 1]; of the first token
    row of each sequence, [S + 1]."""
    counts = np.diff(query_start)
    rows = np.flatnonzero(counts > 1)
    starts = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum(counts[rows], out=starts[1:])
    return rows.astype(np.int32), starts


def pack(
    schedule: Schedule, running: Running, block_size: int, spans: Collection[PromptSpan] = (), encoder: MediaEncoder | None = None
) -> Batch:
    """The batch of a schedule. It stays as it is whatever becomes of `running`.

    Args:
        spans: what is wanted of prompts, in the order in which their logits come.
        encoder: of the media in prompts.
    """
    size, counts, num_drafts = len(schedule.counts), schedule.counts, None
    if schedule.drafts:
        num_drafts = schedule.num_drafts
        counts = counts + num_drafts
    computed, total = running.computed[:size], int(counts.sum())
    tokens = np.zeros(padded_rows(total), dtype=np.int64)
    if total == size and schedule.all_sample:  # a token each, the newest
        query_start = np.arange(size + 1, dtype=np.int32)
        owner, place, newest = query_start[:-1], computed, query_start[:-1]
        tokens[:size] = running.newest[:size]
    else:
        query_start = np.zeros(size + 1, dtype=np.int32)
        np.cumsum(counts, out=query_start[1:])
        newest = query_start[1:] - (1 if num_drafts is None else 1 + num_drafts)  # the row of each sequence's last token that is known
        tokens[newest] = running.newest[:size]
        for row in np.flatnonzero((schedule.counts > 1) | ~schedule.samples).tolist():
            start = int(computed[row])
            tokens[query_start[row] : newest[row] + 1] = schedule.sequences[row].tokens[start : start + int(schedule.counts[row])]
        for row, draft in schedule.drafts.items():
            tokens[newest[row] + 1 : query_start[row + 1]] = draft
        owner = np.repeat(np.arange(size), counts)
        place = np.arange(total) - (query_start[:-1] - computed)[owner]
    positions = np.zeros(len(tokens), dtype=np.int64)
    positions[:total] = place
    tables = running.blocks[:size, : running.num_blocks[:size].max()].copy()
    blocks, within = np.divmod(place, block_size)
    slots = np.multiply(tables[owner, blocks], block_size, dtype=np.int64) + within

    wanted = newest if schedule.all_sample else newest[schedule.samples]
    if schedule.drafts:
        wanted = np.concatenate([wanted, *(np.arange(newest[row] + 1, query_start[row + 1]) for row in schedule.drafts)])
    prompt_start, num_prompt = padded_rows(len(wanted)), sum(span.count for span in spans)
    logit_rows = np.zeros(padded_rows(prompt_start + num_prompt), dtype=np.int64)
    logit_rows[: len(wanted)] = wanted
    if spans:
        first = [int(query_start[span.row]) + span.start - int(computed[span.row]) for span in spans]
        rows = [np.arange(start, start + span.count) for start, span in zip(first, spans, strict=True)]
        logit_rows[prompt_start : prompt_start + num_prompt] = np.concatenate(rows)
    return Batch(
        tokens=tokens,
        positions=positions,
        query_start=query_start,
        kv_lens=(computed + counts).astype(np.int32),
        block_tables=tables,
        slots=slots,
        logit_rows=logit_rows,
        num_logits=len(wanted),
        prompt_start=prompt_start,
        num_prompt_logits=num_prompt,
        copies=_pairs(schedule.copies),
        swap_out=_pairs(schedule.swap_out),
        swap_in=_pairs(schedule.swap_in),
        state_slots=running.state[:size].copy(),
        state_copies=_pairs(schedule.state_copies),
        **_rare(schedule, running, query_start, positions, encoder),
    )


def _rare(
    schedule: Schedule, running: Running, query_start: NDArray[np.int32], positions: NDArray[np.int64], encoder: MediaEncoder | None
) -> dict[str, NDArray[Any]]:
    """Fields that only some batches need: adapters, lengths of encoder inputs, given embeddings, positions in a grid, spans."""
    found: dict[str, NDArray[Any]] = {}
    size, kinds = len(schedule.counts), running.kinds
    if kinds & ADAPTED and (adapters := running.slot[:size]).any():
        found["adapters"] = adapters.copy()
    if kinds & ENCODED and (encoder_lens := running.encoder_lens[:size]).any():
        found["encoder_lens"] = encoder_lens.copy()
    if kinds & GIVEN:
        found |= _given(schedule, running, query_start, encoder)
    if kinds & PLACED:
        found |= _grid(schedule, positions, query_start)
    if kinds & SPANNED:
        found |= _spans(schedule, running, positions, query_start)
    return found


def _given(schedule: Schedule, running: Running, query_start: NDArray[np.int32], encoder: MediaEncoder | None) -> dict[str, NDArray[Any]]:
    """`Batch.virtual_rows` and `Batch.embeds`."""
    size = len(schedule.counts)
    computed, given = running.computed[:size], running.given[:size]
    rows, embeds = [], []
    for row in np.flatnonzero(computed < given).tolist():
        request, start = schedule.sequences[row].request, int(computed[row])
        stop, first = start + int(schedule.counts[row]), int(query_start[row]) - start
        if request.embeds is not None and start < request.num_virtual:
            part = request.embeds.values[start:stop]
            rows.append(first + start + np.arange(len(part)))
            embeds.append(part)
        for placed in request.media:
            within = np.flatnonzero((placed.rows >= start) & (placed.rows < stop))
            if len(within):
                assert encoder is not None, "a request with media has come through an intake for them"
                rows.append(first + placed.rows[within])
                embeds.append(encoder.embeds(placed)[within])
    if not rows:
        return {}
    width = max(part.shape[1] for part in embeds)
    embeds = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) if part.shape[1] < width else part for part in embeds]
    return {"virtual_rows": np.concatenate(rows), "embeds": np.concatenate(embeds)}


def _grid(schedule: Schedule, positions: NDArray[np.int64], query_start: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    """`Batch.grid`, of the positions [N] of tokens in their sequences. Behind a prompt all three parts count on from its greatest."""
    grid: NDArray[np.int64] | None = None
    for row, sequence in enumerate(schedule.sequences):
        own = sequence.request.positions
        if own is None:
            continue
        if grid is None:
            grid = np.repeat(positions[None], 3, axis=0)
        first, last = int(query_start[row]), int(query_start[row + 1])
        start, length = int(positions[first]), own.shape[1]
        known = max(0, min(length - start, last - first))
        grid[:, first : first + known] = own[:, start : start + known]
        grid[:, first + known : last] += int(own.max()) + 1 - length
    return {} if grid is None else {"grid": grid}


def _spans(schedule: Schedule, running: Running, positions: NDArray[np.int64], query_start: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    """`Batch.spans`."""
    size = len(schedule.counts)
    found: NDArray[np.int32] | None = None
    for row in np.flatnonzero(running.computed[:size] < running.spanned[:size]).tolist():
        spans, first, last = schedule.sequences[row].request.spans, int(query_start[row]), int(query_start[row + 1])
        assert spans is not None
        if found is None:
            found = np.repeat(positions[: query_start[-1], None].astype(np.int32), 2, axis=1)
        start = int(positions[first])
        found[first:last] = spans.seen(start, start + last - first)
        assert int(found[last - 1, 1]) == start + last - first - 1, "a step ends within a span"
    return {} if found is None else {"spans": found}
