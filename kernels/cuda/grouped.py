"""Weights in groups, which have no GPU kernels yet: refused, and done by the reference where somebody asks all the same."""

from __future__ import annotations

from ..reference.grouped import dequantize_grouped, linear_grouped, pack_grouped

__all__ = ["dequantize_grouped", "grouped_refusal", "linear_grouped", "pack_grouped"]


def grouped_refusal(in_features: int, group_size: int, *, quantize_input: bool) -> str:
    return "there are no GPU kernels for weights in groups yet"
