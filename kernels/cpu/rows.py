"""Rows: checks and buffers that the wrappers of the row-wise kernels share."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import Rows, ScaledRows


def split(x: Rows) -> tuple[Tensor, Tensor | None]:
    """The rows' values, contiguous, and their scales if they have any."""
    values, scale = x if isinstance(x, ScaledRows) else (x, None)
    return values.contiguous(), scale


def quantized(shape: torch.Size | tuple[int, ...]) -> ScaledRows:
    """Uninitialized quantized rows."""
    return ScaledRows(torch.empty(shape, dtype=torch.uint8), torch.empty(shape[:-1], dtype=torch.float32))
