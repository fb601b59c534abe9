"""Multiplication of rows, sorted by expert, by the weights of their experts: all experts' panels are shared out among threads at once.

Weights that are oneDNN's go expert by expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops import Rows, ScaledRows
from ..reference.experts import bias_of, by_expert, grouped_by_expert
from ..reference.int8 import passes_scale
from .gemm import Panels, rows_for
from .grouped import PackedGrouped, linear_grouped, readable, room_for
from .int8 import PackedInt8, linear_int8
from .library import DTYPES, function
from .linear import linear

_gemm = function("infer_gemm_experts", "ppppp" + "iiiiii")
_gemm_int8 = function("infer_gemm_int8_experts", "pppppppp" + "iiiii")
_grouped = function("infer_grouped_experts", "pppppp" + "iii")
_grouped_plain = function("infer_grouped_plain_experts", "ppppp" + "iii")


def linear_experts(x: Tensor, weights: Sequence[Any], starts: Tensor, biases: Sequence[Tensor] | None, row_chunk: int) -> Tensor:
    first = weights[0]
    if not isinstance(first, Panels) or any(weight.widened != first.widened for weight in weights):
        product = by_expert(x, starts, lambda expert, rows: linear(_plain(rows), weights[expert], bias_of(biases, expert), row_chunk))
        return _plain(product)
    x, outs = rows_for(x, first), first.out_features
    out = torch.empty((x.shape[0], outs), dtype=x.dtype)
    panels, bias = _addresses([weight.words for weight in weights]), _addresses(biases)
    words, bias_dtype = first.row_words, DTYPES[biases[0].dtype] if biases is not None else 0
    _gemm(out, x, panels, bias, starts, len(weights), outs, words, DTYPES[x.dtype], first.widened, bias_dtype)
    return out


def linear_experts_int8(
    x: ScaledRows, weights: Sequence[PackedInt8], starts: Tensor, biases: Sequence[Tensor] | None, dtype: torch.dtype
) -> Rows:
    first = weights[0].weight
    if not isinstance(first, Panels) or dtype == torch.float16:
        return by_expert(x, starts, lambda expert, rows: linear_int8(_scaled(rows), weights[expert], bias_of(biases, expert), dtype))
    values, scale, outs = rows_for(x.values, first), x.scale.contiguous(), first.out_features
    out = torch.empty((values.shape[0], outs), dtype=dtype)
    passes = passes_scale(biases[0] if biases is not None else None, dtype)
    panels = _addresses([weight.weight.words for weight in weights if isinstance(weight.weight, Panels)])
    scales, offsets = _addresses([weight.scale for weight in weights]), _addresses([weight.offset for weight in weights])
    bias_dtype = DTYPES[biases[0].dtype] if biases is not None else 0
    _gemm_int8(
        out, values, panels, scales, offsets, None if passes else scale, _addresses(biases), starts,
        len(weights), outs, first.row_words, DTYPES[dtype], bias_dtype,
    )  # fmt: skip
    return ScaledRows(out, x.scale) if passes else out


def linear_experts_grouped(x: Tensor, weights: Sequence[PackedGrouped], starts: Tensor, biases: Sequence[Tensor] | None) -> Tensor:
    first = weights[0]
    if any(weight.form != first.form for weight in weights):
        return grouped_by_expert(linear_grouped, x, weights, starts, biases)
    rows = readable(x, first)
    out = torch.empty((rows.shape[0], first.out_features), dtype=rows.dtype)
    addresses, bias = torch.tensor([weight.address for weight in weights]), _addresses(biases)
    ends = len(weights), DTYPES[rows.dtype], DTYPES[biases[0].dtype] if biases is not None else 0
    if first.dtype is None:
        _grouped(out, rows, addresses, bias, room_for(rows.shape[0], first), starts, *ends)
    else:
        _grouped_plain(out, rows, addresses, bias, starts, *ends)
    return out.to(x.dtype)


def _addresses(tensors: Sequence[Tensor] | None) -> Tensor | None:
    return None if tensors is None else torch.tensor([tensor.data_ptr() for tensor in tensors])


def _plain(rows: Rows) -> Tensor:
    assert isinstance(rows, Tensor)
    return rows


def _scaled(rows: Rows) -> ScaledRows:
    assert isinstance(rows, ScaledRows)
    return rows
