"""Log-probabilities of the most likely tokens, without sorting the vocabulary.

The count-th largest logit is found first, like a row's top_k (thresholds.py); what exceeds it, and as many of its equals, lowest ids
first, as are still missing, are exactly the tokens asked for. Only these are ordered: by 64-bit keys of which no two are equal, so that
a sort need not be stable.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops import TopLogprobs
from . import configs
from .sampling import launch, readable
from .signature import Signature
from .thresholds import kth_of_row, kth_of_tile, ordered


def top_logprobs(logits: Tensor, rows: Tensor, tokens: Tensor, count: int) -> TopLogprobs:
    """See `infer.kernels.ops.Ops.top_logprobs`."""
    logits = readable(logits)
    asked, size, device = len(rows), logits.shape[1], logits.device
    keys = torch.empty(asked, count, dtype=torch.int64, device=device)
    highest, log_total, token_values = (torch.empty(asked, dtype=torch.float32, device=device) for _ in range(3))
    ranks = torch.empty(asked, dtype=torch.int64, device=device)
    if asked:
        block, num_warps = launch(size, device)
        logprobs_kernel[(asked,)](
            logits, logits.stride(0), size, rows, tokens, count, keys, highest, log_total, token_values, ranks,
            BLOCK=block, num_warps=num_warps,
        )  # fmt: skip
    keys = torch.sort(keys, dim=-1, descending=True).values
    upper = (keys >> 32).int()
    scores = (upper ^ ((upper >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return TopLogprobs(0xFFFFFFFF - (keys & 0xFFFFFFFF), (scores - highest[:, None]) - log_total[:, None], token_values, ranks)


@triton.jit(do_not_specialize=["count"])
def logprobs_kernel(logits, stride, size, rows, tokens, count, keys, highest_ptr, log_total_ptr, token_values, ranks, BLOCK: tl.constexpr):
    """One program a row asked about. keys [A, count]: in no order; the upper half orders by logit, the lower by falling id."""
    asked = tl.program_id(0).to(tl.int64)
    row = logits + tl.load(rows + asked) * stride
    lane = tl.arange(0, BLOCK)
    token_x = tl.load(row + tl.load(tokens + asked)).to(tl.float32)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    above = tl.zeros([BLOCK], tl.int32)
    for start in range(0, size, BLOCK):
        at = start + lane
        x = tl.load(row + at, mask=at < size, other=float("-inf")).to(tl.float32)
        best = tl.maximum(best, x)
        above += (x > token_x).to(tl.int32)
    highest = tl.max(best, 0)
    tl.store(ranks + asked, tl.sum(above, 0).to(tl.int64) + 1)

    kth = tl.full([], float("-inf"), tl.float32)
    if count > 0:
        if count <= BLOCK:
            # `count` lanes hold an element this large: the threshold is no smaller, and few elements lie between.
            kth = kth_of_tile(best, count)
        kth = kth_of_row(row, size, count, kth, highest, BLOCK)

    total = tl.zeros([BLOCK], tl.float64)
    greater = tl.zeros([BLOCK], tl.int32)
    for start in range(0, size, BLOCK):
        at = start + lane
        x = tl.load(row + at, mask=at < size, other=float("-inf")).to(tl.float32)
        total += tl.exp(x - highest).to(tl.float64)
        greater += (x > kth).to(tl.int32)
    log_total = tl.log(tl.sum(total, 0).to(tl.float32))
    tl.store(highest_ptr + asked, highest)
    tl.store(log_total_ptr + asked, log_total)
    tl.store(token_values + asked, (token_x - highest) - log_total)

    if count > 0:
        written = 0
        equals = count - tl.sum(greater, 0)  # of those that equal the threshold, how many are still missing
        for start in range(0, size, BLOCK):
            at = start + lane
            x = tl.load(row + at, mask=at < size, other=float("-inf")).to(tl.float32)
            equal = (x == kth) & (at < size)
            taken = (x > kth) | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= equals))
            number = taken.to(tl.int32)
            place = written + tl.cumsum(number, 0) - 1
            key = (ordered(x + 0.0).to(tl.int64) << 32) | (0xFFFFFFFF - at.to(tl.int64))
            tl.store(keys + asked * count + place, key, mask=taken)
            written += tl.sum(number, 0)
            equals -= tl.sum(equal.to(tl.int32), 0)


def signatures() -> list[Signature]:
    """Of each dtype."""
    block, num_warps = configs.LOGITS["sm_90"]
    types = {
        "stride": "i32:16", "size": "i32", "rows": "*i64", "tokens": "*i64", "count": "i32", "keys": "*i64", "highest_ptr": "*fp32",
        "log_total_ptr": "*fp32", "token_values": "*fp32", "ranks": "*i64",
    }  # fmt: skip
    return [
        Signature(logprobs_kernel, f"top_logprobs {dtype}", {"logits": f"*{dtype}", **types}, {"BLOCK": block}, num_warps)
        for dtype in ("fp32", "bf16", "fp16")
    ]
