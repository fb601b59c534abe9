"""LoRA in float64, so that sums are the same in any order but for the last bit of float32, hardly ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..lora import AdapterRows, LoRAPart
from ..ops import INT8_ZERO


class LoRAWeight(NamedTuple):
    """The matrices as they were given, on their device."""

    a: Tensor
    """[columns, in]"""
    parts: tuple[LoRAPart, ...]


def pack_lora(a: Tensor, parts: Sequence[LoRAPart]) -> LoRAWeight:
    return LoRAWeight(a.clone(), tuple(part._replace(b=part.b.clone()) for part in parts))


def add_lora(out: Tensor, x: Tensor, rows: AdapterRows, weights: Sequence[LoRAWeight | None], factor: Tensor | None) -> None:
    starts = rows.starts.tolist()
    for number, weight in enumerate(weights):
        if weight is None:
            continue
        own = rows.order[starts[number] : starts[number + 1]].long()
        read = x.index_select(0, own).double()
        if x.dtype == torch.uint8:
            read -= INT8_ZERO
        inner = (read @ weight.a.double().T).float()
        if factor is not None:
            inner *= factor.index_select(0, own)[:, None]
        inner = inner.to(out.dtype).double()
        for part in weight.parts:
            features, rank = part.b.shape
            made = inner[:, part.column : part.column + rank] @ part.b.double().T
            to = out[:, part.start : part.start + features]
            to[own] = (to[own].float() + made.float()).to(out.dtype)
