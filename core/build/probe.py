"""Finds out at load time whether this machine's matrix multiplications treat every row alike.

A row multiplied among 16, 64 or more others must give the same bits, or what a record gets would depend on its
neighbours. Where a library does not keep to that, multiplications run in chunks of a fixed number of rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, Ops, Rows

from ..layers.linear import Linear

log = logging.getLogger(__name__)

#: Rows of a fixed chunk where rows are not alike by themselves.
CHUNK = 64
#: Rows of the large batch, and where in it the compared ones stand.
ROWS = 512
PLACES = (0, 240, ROWS - CHUNK)
#: A layer as wide as a vocabulary costs as much as all others of its model, and sees no more than the sampled rows.
WIDE = 16384
ROWS_OF_WIDE = 128
PLACES_OF_WIDE = (ROWS_OF_WIDE - CHUNK,)


def make_rows_alike(ops: Ops, layers: Iterable[Linear], dtype: torch.dtype, device: torch.device) -> None:
    """Sets `ops.row_chunk` if any of these layers is not row-wise. Layers of one shape and method are tried once.

    Not on a GPU unless `ops.deterministic`: its library's rows do differ with the batch, which is allowed there, and chunks would be
    slow. Where it is asked for, kernels of one fixed tile see to it (kernels/cuda/linear.py), and this is the proof.
    """
    if device.type == "cuda" and not ops.deterministic:
        return
    seen = set()
    for layer in layers:
        kind = (layer.method.kind, layer.in_features, layer.out_features)
        if kind in seen:
            continue
        seen.add(kind)
        if not rows_are_alike(layer, dtype, device):
            ops.row_chunk = CHUNK
            log.warning(
                "multiplying rows by %s x %s (%s) depends on the batch here; running in chunks of %d rows to keep answers reproducible",
                layer.out_features,
                layer.in_features,
                str(dtype).removeprefix("torch."),
                CHUNK,
            )
            return


def rows_are_alike(layer: Linear, dtype: torch.dtype, device: torch.device) -> bool:
    """True if rows of a large batch give the same alone and in a chunk."""
    rows, places = (ROWS_OF_WIDE, PLACES_OF_WIDE) if layer.out_features > WIDE else (ROWS, PLACES)
    x = torch.randn(rows, layer.in_features, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    whole = layer.part(x)
    for start in places:
        if not _equal(layer.part(x[start : start + CHUNK]), whole, start, CHUNK):
            return False
        alone = torch.zeros(ROW_MULTIPLE, layer.in_features, dtype=dtype, device=device)
        alone[0] = x[start]
        if not _equal(layer.part(alone), whole, start, 1):
            return False
    return True


def _equal(part: Rows, whole: Rows, start: int, count: int) -> bool:
    """True if the first `count` rows of `part` are those of `whole` from `start`, scales and all."""

    def tensors(rows: Rows) -> tuple[Tensor, ...]:
        return (rows,) if isinstance(rows, Tensor) else tuple(rows)

    return all(torch.equal(p[:count], w[start : start + count]) for p, w in zip(tensors(part), tensors(whole), strict=True))
