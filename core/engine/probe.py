"""Finds out at load time whether this machine's matrix multiplications treat every row alike.

A row multiplied among 16, 64 or 512 others must give the same bits, or what a record gets would depend on its
neighbours. Where a library does not keep to that, multiplications run in chunks of a fixed number of rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, Ops

log = logging.getLogger(__name__)

#: Rows of a fixed chunk where rows are not alike by themselves.
CHUNK = 64
ROWS = 512
#: Where in the large batch the compared rows stand.
OFFSETS = (0, 240, ROWS - CHUNK)


def make_rows_alike(ops: Ops, weights: Iterable[Tensor]) -> None:
    """Sets `ops.row_chunk` if any multiplication by these weights [out, in] is not row-wise."""
    seen: set[tuple[int, ...]] = set()
    for weight in weights:
        if tuple(weight.shape) in seen:
            continue
        seen.add(tuple(weight.shape))
        if not rows_are_alike(ops, weight):
            ops.row_chunk = CHUNK
            log.warning(
                "multiplying %s rows by %s (%s) depends on the batch here; running in chunks of %d rows to keep answers reproducible",
                ROWS,
                "x".join(map(str, weight.shape)),
                weight.dtype,
                CHUNK,
            )
            return


def rows_are_alike(ops: Ops, weight: Tensor) -> bool:
    x = torch.randn(ROWS, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.dtype).to(weight.device)
    whole = ops.linear(x, weight, None)
    for start in OFFSETS:
        if not torch.equal(ops.linear(x[start : start + CHUNK], weight, None), whole[start : start + CHUNK]):
            return False
        alone = torch.zeros(ROW_MULTIPLE, weight.shape[1], dtype=weight.dtype, device=weight.device)
        alone[0] = x[start]
        if not torch.equal(ops.linear(alone, weight, None)[0], whole[start]):
            return False
    return True
