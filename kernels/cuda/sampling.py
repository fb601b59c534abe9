"""Sampling: draws one token a row without sorting the vocabulary.

A row is read once for its largest logit (and for whether all are finite), and once more, where it draws, to set aside the few tokens
that top_k, top_p or min_p can leave; these fit in registers, where thresholds are found by bisection (thresholds.py) and the token by
running sums. Where they do not fit (a hot temperature, a nearly uniform row), or nothing narrows the row, a further kernel reads the
row from memory as often as it needs to. Every row is one program's work from end to end: no other row has a part in its token.

The draw is an inverse CDF of the row's one uniform number, in token order, as on CPUs, and not the maximum of Gumbel noise: that would
need a random number for each token, and would give other tokens than the CPU's. It costs one running sum over what is left.

Where a mask or penalties change logits, they are first written out in float32, some rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import Penalties, SamplingRows, TokenMask
from . import configs
from .configs import cdiv, next_power_of_2
from .sampling_kernels import (
    change_kernel,
    complete_kernel,
    draw_few_kernel,
    draw_whole_kernel,
    penalize_kernel,
    processed_kernel,
    scan_kernel,
)
from .signature import Signature

#: Most float32 logits written out at a time.
WORKSPACE = 1 << 24
#: So many rows of anything begin where a vector of 16 bytes may, as kernels are compiled for: parts are of a multiple of it.
ALIGNED_ROWS = 16
#: Entries of penalties, or tokens to be completed, that a program sees to.
ENTRIES = 256


class Drawn(NamedTuple):
    tokens: Tensor
    """int64 [R]"""
    finite: Tensor
    """bool [R]"""
    lowest: Tensor
    """float32 [R]: the smallest logit that may be drawn; written in rows that draw alone."""


def complete_tokens(tokens: Tensor, drawn: Tensor) -> Tensor:
    """See `infer.kernels.ops.Ops.complete_tokens`."""
    complete_kernel[(cdiv(len(tokens), ENTRIES),)](tokens, drawn, len(tokens), BLOCK=ENTRIES, num_warps=4)
    return tokens


def sample(logits: Tensor, rows: SamplingRows | None, penalties: Penalties | None, mask: TokenMask | None = None) -> tuple[Tensor, Tensor]:
    """See `infer.kernels.ops.Ops.sample`."""
    logits = readable(logits)
    drawn = _new_drawn(logits)
    if penalties is None and mask is None:
        _draw(logits, rows, drawn, check=True)
        return drawn.tokens, drawn.finite
    step = max(1, WORKSPACE // max(logits.shape[1], 1) // ALIGNED_ROWS) * ALIGNED_ROWS
    for part in _parts(logits.shape[0], step):
        scores, finite = _changed(logits, part, penalties, mask)
        own = Drawn(drawn.tokens[part], drawn.finite[part], drawn.lowest[part])
        own.finite.copy_(finite)
        _draw(scores, _of_part(rows, part), own, check=False)
    return drawn.tokens, drawn.finite


def processed_logits(
    logits: Tensor, places: Tensor, rows: SamplingRows | None, penalties: Penalties | None, mask: TokenMask | None
) -> Tensor:
    """See `infer.kernels.ops.Ops.processed_logits`."""
    logits = readable(logits)
    count, size = logits.shape
    out = torch.empty(len(places), size, dtype=torch.float32, device=logits.device)
    if not out.numel():
        return out
    scores, finite = _changed(logits, slice(0, count), penalties, mask)
    drawn = _new_drawn(logits)
    if rows is not None:
        drawn.finite.copy_(finite)
        _draw(scores, rows, drawn, check=False)
    block, num_warps = launch(size, logits.device)
    temperature = None if rows is None else rows.temperature
    grid = (len(places), cdiv(size, block))
    processed_kernel[grid](
        scores, size, temperature, drawn.lowest, places, out, HAS_ROWS=rows is not None, BLOCK=block, num_warps=num_warps
    )  # fmt: skip
    return out


def readable(logits: Tensor) -> Tensor:
    """Rows may be strided, what is in them not; and they begin where a vector may, or a kernel would be compiled for those that do not."""
    if logits.stride(1) != 1:
        return logits.contiguous()
    return logits if logits.data_ptr() % 16 == 0 else logits.clone(memory_format=torch.contiguous_format)


def launch(size: int, device: torch.device) -> tuple[int, int]:
    """(elements at a time, warps) of a pass over a row of `size` logits."""
    block, num_warps = configs.LOGITS[configs.architecture(device)]
    return min(block, next_power_of_2(max(size, 128))), num_warps


def _parts(count: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _of_part(rows: SamplingRows | None, part: slice) -> SamplingRows | None:
    if rows is None:
        return None
    return SamplingRows(*(getattr(rows, field.name)[part] for field in fields(SamplingRows)))


def _new_drawn(logits: Tensor) -> Drawn:
    count, device = logits.shape[0], logits.device
    return Drawn(
        torch.empty(count, dtype=torch.int64, device=device),
        torch.empty(count, dtype=torch.bool, device=device),
        torch.empty(count, dtype=torch.float32, device=device),
    )


def _changed(logits: Tensor, part: slice, penalties: Penalties | None, mask: TokenMask | None) -> tuple[Tensor, Tensor]:
    """(float32 logits of rows `part` as mask and penalties leave them, which rows were finite before)."""
    rows = logits[part]
    count, size = rows.shape
    block, num_warps = launch(size, logits.device)
    parts = cdiv(size, block)
    scores = torch.empty(count, size, dtype=torch.float32, device=logits.device)
    bad = torch.empty(count, parts, dtype=torch.int8, device=logits.device)
    if not scores.numel():
        return scores, torch.ones(count, dtype=torch.bool, device=logits.device)
    if mask is not None and not len(mask.bits):
        mask = None
    mask_rows, mask_bits, words = (None, None, 0) if mask is None else (mask.rows[part], mask.bits, mask.bits.shape[1])
    change_kernel[(count, parts)](
        rows, rows.stride(0), bad, mask_rows, mask_bits, words, scores, size, HAS_MASK=mask is not None, BLOCK=block, num_warps=num_warps
    )  # fmt: skip
    if penalties is not None and len(penalties.token):
        entries, all_rows = len(penalties.token), logits.shape[0]
        penalize_kernel[(cdiv(entries, ENTRIES),)](
            scores, size, part.start, count, penalties.row_start, all_rows, penalties.token, penalties.bias, penalties.repetition,
            penalties.subtract, entries, all_rows.bit_length(), BLOCK=ENTRIES, num_warps=4,
        )  # fmt: skip
    return scores, ~bad.any(-1)


def _draw(x: Tensor, rows: SamplingRows | None, drawn: Drawn, *, check: bool) -> None:
    """Fills `drawn` for all rows of x [R, V]; `check`: `finite` too, else it is there already."""
    count, size = x.shape
    if not count:
        return
    block, num_warps = launch(size, x.device)
    finite = drawn.finite.view(torch.int8)
    if rows is None:
        unused = (None,) * 4
        scan_kernel[(count,)](
            x, x.stride(0), size, *unused, drawn.tokens, finite, *unused, None,
            CHECK=check, DRAWS=False, BLOCK=block, FEW=block, num_warps=num_warps,
        )  # fmt: skip
        return
    highest = torch.empty(count, dtype=torch.float32, device=x.device)
    total = torch.empty(count, dtype=torch.float64, device=x.device)
    few_x = torch.empty(count, block, dtype=torch.float32, device=x.device)
    few_id = torch.empty(count, block, dtype=torch.int32, device=x.device)
    few_count = torch.empty(count, dtype=torch.int32, device=x.device)
    settings = (rows.temperature, rows.top_k, rows.top_p, rows.min_p)
    scan_kernel[(count,)](
        x, x.stride(0), size, *settings, drawn.tokens, finite, highest, total, few_x, few_id, few_count,
        CHECK=check, DRAWS=True, BLOCK=block, FEW=block, num_warps=num_warps,
    )  # fmt: skip
    draw_few_kernel[(count,)](
        few_x, few_id, few_count, size, *settings, rows.uniform, highest, total, drawn.tokens, drawn.lowest, FEW=block, num_warps=num_warps
    )  # fmt: skip
    draw_whole_kernel[(count,)](
        x, x.stride(0), size, few_count, *settings, rows.uniform, highest, drawn.tokens, drawn.lowest,
        BLOCK=block // 2, num_warps=num_warps // 2,
    )  # fmt: skip


def signatures() -> list[Signature]:
    """Greedy and drawing from 16-bit logits, and all that masks and penalties add."""
    block, warps = configs.LOGITS["sm_90"]
    few = {"few_x": "*fp32", "few_id": "*i32", "count_ptr": "*i32", "highest_ptr": "*fp32", "total_ptr": "*fp64"}
    settings = {"temperature": "*fp32", "top_k": "*i64", "top_p": "*fp32", "min_p": "*fp32"}
    draw = {**settings, "size": "i32", "uniform": "*fp64", "count_ptr": "*i32", "highest_ptr": "*fp32", "tokens": "*i64", "lowest": "*fp32"}
    made = [Signature(draw_few_kernel, "draw_few", {**few, **draw}, {"FEW": block}, warps)]
    for dtype in ("fp32", "bf16", "fp16"):
        row = {"x_ptr": f"*{dtype}", "stride": "i32:16", "size": "i32"}
        scan = {**row, "tokens": "*i64", "finite": "*i8"}
        drawing = {**few, **settings}
        sizes = {"BLOCK": block, "FEW": block}
        greedy = {"CHECK": True, "DRAWS": False, **sizes, **dict.fromkeys(drawing)}
        made += [
            Signature(scan_kernel, f"scan greedy {dtype}", scan, greedy, warps),
            Signature(scan_kernel, f"scan {dtype}", {**scan, **drawing}, {"CHECK": dtype != "fp32", "DRAWS": True, **sizes}, warps),
            Signature(draw_whole_kernel, f"draw_whole {dtype}", {**row, **draw}, {"BLOCK": block // 2}, warps // 2),
        ]
    change = {"logits": "*bf16", "stride": "i32:16", "bad": "*i8", "mask_words": "i32", "scores": "*fp32", "size": "i32"}
    mask = {"mask_rows": "*i64", "mask_bits": "*i32"}
    entry = {"token": "*i64", "bias": "*fp32", "repetition": "*fp32", "subtract": "*fp32", "entries": "i32", "steps": "i32"}
    where = {"scores": "*fp32", "size": "i32", "first_row": "i32", "rows": "i32", "row_start": "*i64", "num_rows": "i32"}
    settings = {"temperature": "*fp32", "lowest": "*fp32"}
    processed = {"scores": "*fp32", "size": "i32", "places": "*i64", "out": "*fp32", **settings}
    greedy = {"HAS_ROWS": False, "BLOCK": block, "temperature": None}
    kept = {name: kind for name, kind in processed.items() if name not in greedy}
    return [
        *made,
        Signature(complete_kernel, "complete", {"tokens": "*i64", "drawn": "*i64", "count": "i32"}, {"BLOCK": ENTRIES}),
        Signature(change_kernel, "change bf16", change, {"HAS_MASK": False, "BLOCK": block, **dict.fromkeys(mask)}, warps),
        Signature(change_kernel, "change bf16 by mask", {**change, **mask}, {"HAS_MASK": True, "BLOCK": block}, warps),
        Signature(penalize_kernel, "penalize", {**where, **entry}, {"BLOCK": ENTRIES}),
        Signature(processed_kernel, "processed", processed, {"HAS_ROWS": True, "BLOCK": block}, warps),
        Signature(processed_kernel, "processed greedy", kept, greedy, warps),
    ]
