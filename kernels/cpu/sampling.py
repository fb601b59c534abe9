"""Drawing one token a row, in one pass over the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import Penalties, SamplingRows, TopLogprobs
from . import library

__all__ = ["sample", "top_logprobs"]

_sample = library.function("infer_sample", "piiiippppppppppp")
_top_logprobs = library.function("infer_top_logprobs", "piiipipipppp")


def sample(logits: Tensor, rows: SamplingRows | None, penalties: Penalties | None) -> tuple[Tensor, Tensor]:
    """See `infer.kernels.ops.Ops.sample`."""
    logits = _readable(logits)
    tokens = torch.empty(len(logits), dtype=torch.int64)
    finite = torch.empty(len(logits), dtype=torch.bool)
    settings = [rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.uniform] if rows else [None] * 5
    changes = [penalties.row_start, penalties.token, penalties.repetition, penalties.subtract] if penalties else [None] * 4
    _sample(
        logits.data_ptr(),
        library.DTYPES[logits.dtype],
        *logits.shape,
        logits.stride(0),
        *map(library.pointer, (*settings, *changes, tokens, finite)),
    )
    return tokens, finite


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
