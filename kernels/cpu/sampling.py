"""Sampling: draws one token a row, in one pass over the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import Penalties, SamplingRows, TokenMask, TopLogprobs
from . import library

__all__ = ["processed_logits", "sample", "top_logprobs"]

_sample = library.function("infer_sample", "piiii" + "ppppp" + "ppppp" + "ppi" + "pp")
_processed_logits = library.function("infer_processed_logits", "piiipi" + "pppp" + "ppppp" + "ppi" + "p")
_top_logprobs = library.function("infer_top_logprobs", "piiipipipppp")


def sample(logits: Tensor, rows: SamplingRows | None, penalties: Penalties | None, mask: TokenMask | None = None) -> tuple[Tensor, Tensor]:
    """See `infer.kernels.ops.Ops.sample`."""
    logits = _readable(logits)
    tokens = torch.empty(len(logits), dtype=torch.int64)
    finite = torch.empty(len(logits), dtype=torch.bool)
    _sample(
        logits.data_ptr(),
        library.DTYPES[logits.dtype],
        *logits.shape,
        logits.stride(0),
        *_settings(rows),
        library.pointer(rows.uniform if rows else None),
        *_changes(penalties, mask),
        tokens.data_ptr(),
        finite.data_ptr(),
    )
    return tokens, finite


def processed_logits(
    logits: Tensor, places: Tensor, rows: SamplingRows | None, penalties: Penalties | None, mask: TokenMask | None
) -> Tensor:
    """See `infer.kernels.ops.Ops.processed_logits`."""
    logits = _readable(logits)
    processed = torch.empty(len(places), logits.shape[1], dtype=torch.float32)
    _processed_logits(
        logits.data_ptr(),
        library.DTYPES[logits.dtype],
        logits.shape[1],
        logits.stride(0),
        places.data_ptr(),
        len(places),
        *_settings(rows),
        *_changes(penalties, mask),
        processed.data_ptr(),
    )
    return processed


def top_logprobs(logits: Tensor, rows: Tensor, tokens: Tensor, count: int) -> TopLogprobs:
    """See `infer.kernels.ops.Ops.top_logprobs`."""
    logits = _readable(logits)
    result = TopLogprobs(
        torch.empty(len(rows), count, dtype=torch.int64),
        torch.empty(len(rows), count, dtype=torch.float32),
        torch.empty(len(rows), dtype=torch.float32),
        torch.empty(len(rows), dtype=torch.int64),
    )
    _top_logprobs(
        logits.data_ptr(),
        library.DTYPES[logits.dtype],
        logits.shape[1],
        logits.stride(0),
        rows.data_ptr(),
        len(rows),
        tokens.data_ptr(),
        count,
        *map(library.pointer, result),
    )
    return result


def _readable(logits: Tensor) -> Tensor:
    """Rows may be strided, what is in them not."""
    return logits if logits.stride(1) == 1 else logits.contiguous()


def _settings(rows: SamplingRows | None) -> list[int | None]:
    return [library.pointer(t) for t in ([rows.temperature, rows.top_k, rows.top_p, rows.min_p] if rows else [None] * 4)]


def _changes(penalties: Penalties | None, mask: TokenMask | None) -> list[int | None]:
    changes: list[Tensor | None] = [None] * 5
    if penalties:
        changes = [penalties.row_start, penalties.token, penalties.bias, penalties.repetition, penalties.subtract]
    masks: list[int | None] = [mask.rows.data_ptr(), mask.bits.data_ptr(), mask.bits.shape[1]] if mask else [None, None, 0]
    return [*map(library.pointer, changes), *masks]
