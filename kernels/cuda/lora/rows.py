"""LoRA on GPUs: one launch for x A^T of all rows with an adapter, and one that adds the product with B.

A tile of rows is one adapter's; a program finds it from where their rows start, as in experts.py, and reads and writes rows where they are.
B is one matrix over all output features of a layer, zero where a part has no columns: a little more arithmetic, and one launch. Tiles are
fixed, and so a row's bits are its own in any company.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...lora import AdapterRows, LoRAPart
from ..configs import cdiv, next_power_of_2
from ..experts import addresses_of, distances, most_tiles
from .kernels import DEPTH, OUTPUTS, ROWS, add_kernel, inner_kernel

#: Columns of x A^T come in whole tiles.
COLUMNS = 16


class LoRAWeight(NamedTuple):
    a: Tensor
    """[columns, in], zeros from the last column of its parts on."""
    b: Tensor
    """[features, columns]"""


def pack_lora(a: Tensor, parts: Sequence[LoRAPart]) -> LoRAWeight:
    """See `infer.kernels.lora.LoRAOps.pack_lora`."""
    columns = -(-len(a) // COLUMNS) * COLUMNS
    features = max(part.start + len(part.b) for part in parts)
    whole_a, whole_b = a.new_zeros(columns, a.shape[1]), a.new_zeros(features, columns)
    whole_a[: len(a)] = a
    for part in parts:
        rows, rank = part.b.shape
        whole_b[part.start : part.start + rows, part.column : part.column + rank] = part.b
    return LoRAWeight(whole_a, whole_b)


def add_lora(out: Tensor, x: Tensor, rows: AdapterRows, weights: Sequence[LoRAWeight | None], factor: Tensor | None) -> None:
    """See `infer.kernels.lora.LoRAOps.add_lora`."""
    there = [weight for weight in weights if weight is not None]
    if not there:
        return
    assert out.is_contiguous(), "rows lie one after the other"
    x, first = x.contiguous(), there[0]
    count, adapters, size = len(rows.order), len(weights), out.element_size()
    columns = max(weight.a.shape[0] for weight in there)
    each = [first if weight is None else weight for weight in weights]
    of_a, _ = distances(addresses_of([weight.a for weight in each]), size, out.device)
    of_b, _ = distances(addresses_of([weight.b for weight in each]), size, out.device)
    shapes = tuple((0, 0) if weight is None else tuple(weight.b.shape) for weight in weights)
    sizes = _sizes(shapes, out.device)
    inner = torch.empty(count, columns, dtype=out.dtype, device=out.device)
    tiles = most_tiles(count, adapters, ROWS)
    fixed = {"EXPERTS": next_power_of_2(adapters), "num_warps": 4, "num_stages": 2}
    inner_kernel[(tiles * (columns // COLUMNS),)](
        x, first.a, of_a, sizes, rows.starts_there, rows.order, factor, inner, count, x.shape[1], columns, adapters,
        QUANTIZED=x.dtype == torch.uint8, FACTOR=factor is not None, ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH, **fixed,
    )  # fmt: skip
    add_kernel[(tiles * cdiv(out.shape[1], OUTPUTS),)](
        inner, first.b, of_b, sizes, rows.starts_there, rows.order, out, count, out.shape[1], columns, adapters,
        ROWS=ROWS, OUTPUTS=OUTPUTS, COLUMNS=COLUMNS, **fixed,
    )  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _sizes(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """int32 [adapters, 2]: features and columns of each B. Kept, as `distances` are."""
    return torch.tensor(shapes, dtype=torch.int32, device=device)
