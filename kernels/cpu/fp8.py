"""Weights of 8-bit floats, which have no CPU kernels: refused, and done by the reference where somebody asks all the same."""

from __future__ import annotations

import torch

from ..reference.fp8 import linear_fp8, pack_fp8

__all__ = ["fp8_refusal", "linear_fp8", "pack_fp8"]


def fp8_refusal(shape: tuple[int, int], block: tuple[int, int], dtype: torch.dtype, *, quantize_input: bool) -> str:
    return "there are no CPU kernels for floats of 8 bits, which GPUs multiply; int8 is for CPUs"
