"""Sampling: draws one token a row, in one pass over the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import Penalties, SamplingRows, TokenMask, TopLogprobs
from ..reference.sampling import complete_tokens
from . import library

__all__ = ["complete_tokens", "processed_logits", "sample", "top_logprobs"]

_sample = library.function("infer_sample", "piiii" + "ppppp" + "ppppp" + "ppi" + "pp")
_processed_logits = library.function("infer_processed_logits", "piiipi" + "pppp" + "ppppp" + "ppi" + "p")
_top_logprobs = library.function("infer_top_logprobs", "piiipipipppp")


def sample(logits: Tensor, rows: SamplingRows | None, penalties: Penalties | None, mask: TokenMask | None = None) -> tuple[Tensor, Tensor]:
    """See `infer.kernels.ops.Ops.sample`."""
    logits = _readable(logits)
    tokens = torch.empty(len(logits), dtype=torch.int64)
    finite = torch.empty(len(logits), dtype=torch.bool)
    _sample(
        logits,
        library.DTYPES[logits.dtype],
        *logits.shape,
        logits.stride(0),
        *_settings(rows),
        rows.uniform if rows else None,
        *_changes(penalties, mask),
        tokens,
        finite,
    )
    return tokens, finite


def processed_logits(
    logits: Tensor, places: Tensor, rows: SamplingRows | None, penalties: Penalties | None, mask: TokenMask | None
) -> Tensor:
    """See `infer.kernels.ops.Ops.processed_logits`."""
    logits = _readable(logits)
    processed = torch.empty(len(places), logits.shape[1], dtype=torch.float32)
    _processed_logits(
        logits,
        library.DTYPES[logits.dtype],
        logits.shape[1],
        logits.stride(0),
        places,
        len(places),
        *_settings(rows),
        *_changes(penalties, mask),
        processed,
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
        logits,
        library.DTYPES[logits.dtype],
        logits.shape[1],
        logits.stride(0),
        rows,
        len(rows),
        tokens,
        count,
        *result,
    )
    return result


def _readable(logits: Tensor) -> Tensor:
    """Rows may be strided, what is in them not."""
    return logits if logits.stride(1) == 1 else logits.contiguous()


def _settings(rows: SamplingRows | None) -> list[Tensor | None]:
    return [rows.temperature, rows.top_k, rows.top_p, rows.min_p] if rows else [None] * 4


def _changes(penalties: Penalties | None, mask: TokenMask | None) -> list[Tensor | int | None]:
    changes: list[Tensor | None] = [None] * 5
    if penalties:
        changes = [penalties.row_start, penalties.token, penalties.bias, penalties.repetition, penalties.subtract]
    return [*changes, *((mask.rows, mask.bits, mask.bits.shape[1]) if mask else (None, None, 0))]
