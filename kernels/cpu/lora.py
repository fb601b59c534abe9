"""LoRA: matrices in panels of 16 features, and one call for all rows of a step. See src/lora.cpp."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..lora import AdapterRows, LoRAPart
from .library import DTYPES, function

#: Features of a panel.
PANEL = 16
_UINT8 = 4

_bytes = function("infer_lora_bytes", "pi")
_add = function("infer_lora", "pppppp" + "iiiiii")


@dataclass(frozen=True, slots=True)
class LoRAPanels:
    """A layer's matrices as the kernel reads them."""

    layout: Tensor
    """int64: `Weight` and its `Part`s of the source file, with the addresses of the others here."""
    panels: tuple[Tensor, ...]
    stride: int
    """Bytes of a row of x A^T."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.nbytes for tensor in (self.layout, *self.panels))


@functools.cache
def _element(dtype: torch.dtype) -> torch.dtype:
    """What the kernel multiplies for a model of this dtype."""
    size = torch.zeros(1, dtype=torch.int64)
    _bytes(size, DTYPES[dtype])
    return torch.bfloat16 if int(size) == 2 else torch.float32


def pack_lora(a: Tensor, parts: Sequence[LoRAPart]) -> LoRAPanels:
    element = _element(a.dtype)
    per = 4 // element.itemsize
    # Columns start at whole words: where ranks are odd, each part's are moved.
    moved: dict[int, int] = {}
    pieces: list[Tensor] = []
    columns = 0
    for part in parts:
        if part.column not in moved:
            rank = max(one.b.shape[1] for one in parts if one.column == part.column)
            moved[part.column] = columns
            own = a[part.column : part.column + rank]
            pieces.append(F.pad(own, (0, 0, 0, -rank % per)))
            columns += rank + -rank % per
    packed_a = _panels(torch.cat(pieces), element)
    count = -(-columns // PANEL)
    layout, tensors, tasks = [], [packed_a], 0
    for part in parts:
        packed = _panels(part.b, element)
        tensors.append(packed)
        width, rank = part.b.shape
        layout += [part.start, width, moved[part.column] // per, -(-rank // per), packed.data_ptr()]
        tasks += -(-width // (2 * PANEL))
    head = [packed_a.data_ptr(), count, len(parts), tasks]
    return LoRAPanels(torch.tensor([*head, *layout]), tuple(tensors), count * PANEL * element.itemsize)


def _panels(matrix: Tensor, element: torch.dtype) -> Tensor:
    """A matrix [features, in] as int32 [panels, words of a row, PANEL], zeros beyond its ends."""
    features, size = matrix.shape
    per = 4 // element.itemsize
    whole = F.pad(matrix.to(element), (0, -size % per, 0, -features % PANEL)).contiguous()
    return whole.view(torch.int32).view(-1, PANEL, (size + per - 1) // per).transpose(1, 2).contiguous()


def add_lora(out: Tensor, x: Tensor, rows: AdapterRows, weights: Sequence[LoRAPanels | None], factor: Tensor | None) -> None:
    assert out.is_contiguous(), "rows lie one after the other"
    stride = max((weight.stride for weight in weights if weight is not None), default=0)
    addresses = torch.tensor([0 if weight is None else weight.layout.data_ptr() for weight in weights])
    x_dtype = _UINT8 if x.dtype == torch.uint8 else DTYPES[x.dtype]
    assert x_dtype in (_UINT8, DTYPES[out.dtype]), "rows are of one dtype"
    ends = out.shape[1], x.shape[1], stride, DTYPES[out.dtype], x_dtype
    _add(out, x.contiguous(), factor, rows.order, rows.starts, addresses, len(weights), *ends)
