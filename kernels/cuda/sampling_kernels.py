"""The sampler's kernels: logits changed, a row scanned, a token drawn.

See sampling.py for how they follow each other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .thresholds import heaviest_of_row, heaviest_of_tile, kth_of_row, kth_of_tile, weight_of_row, weights_of

_LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit(do_not_specialize=["count"])
def complete_kernel(tokens, drawn, count, BLOCK: tl.constexpr):
    """tokens[i] = drawn[-1 - tokens[i]], or 0 if that is below 0, where it is below 0 itself. Programs: parts of BLOCK tokens."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(tokens + at, mask=at < count, other=0)
    asked = token < 0
    found = tl.load(drawn + (-1 - token), mask=asked, other=0)
    tl.store(tokens + at, tl.maximum(found, 0), mask=asked)


@triton.jit
def change_kernel(logits, stride, bad, mask_rows, mask_bits, mask_words, scores, size, HAS_MASK: tl.constexpr, BLOCK: tl.constexpr):
    """scores[r] = logits[r] in float32, -inf where the mask forbids, 0 where not finite; bad[r, c]: whether part c had such.

    Programs: (rows, parts of BLOCK).
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    at = part * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row * stride + at, mask=at < size, other=0.0).to(tl.float32)
    finite = tl.abs(x) < float("inf")
    tl.store(bad + row * tl.num_programs(1) + part, tl.max((~finite).to(tl.int8), 0))
    x = tl.where(finite, x, 0.0)
    if HAS_MASK:
        which = tl.load(mask_rows + row)
        word = tl.load(mask_bits + tl.maximum(which, 0) * mask_words + at // 32, mask=at < size, other=0)
        word = tl.where(which < 0, -1, word)
        x = tl.where(((word >> (at % 32)) & 1) != 0, x, float("-inf"))
    tl.store(scores + row * size + at, x, mask=at < size)


@triton.jit(
    do_not_specialize=["first_row", "rows", "num_rows", "entries", "steps"],
    do_not_specialize_on_alignment=["row_start", "token", "bias", "repetition", "subtract"],
)
def penalize_kernel(
    scores, size, first_row, rows, row_start, num_rows, token, bias, repetition, subtract, entries, steps, BLOCK: tl.constexpr
):
    """Entries of rows [first_row, first_row + rows), whose scores these are. Programs: parts of BLOCK entries.

    steps: halvings that find an entry's row among `num_rows`.
    """
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = entry < entries
    # The last row that starts at or before the entry: rows without entries start where the next one does.
    low = tl.zeros([BLOCK], tl.int64)
    high = tl.zeros([BLOCK], tl.int64) + (num_rows - 1)
    for _ in range(steps):
        middle = (low + high + 1) // 2
        before = tl.load(row_start + middle) <= entry
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle - 1)
    own = there & (low >= first_row) & (low < first_row + rows)
    place = scores + (low - first_row) * size + tl.load(token + entry, mask=own, other=0)
    x = tl.load(place, mask=own, other=0.0)
    factor = tl.load(repetition + entry, mask=own, other=1.0)
    less = tl.load(subtract + entry, mask=own, other=0.0)
    changed = x + tl.load(bias + entry, mask=own, other=0.0)
    changed = tl.where(changed > 0, tl.div_rn(changed, factor), changed * factor) - less
    # A tiny repetition penalty can overflow; an infinite best logit would make the others' weights NaN.
    changed = tl.where(changed > _LARGEST, _LARGEST, changed)
    changed = tl.where((x == float("-inf")) | (less == float("inf")), float("-inf"), changed)
    tl.store(place, changed, mask=own)


@triton.jit
def inverse_of(temperature):
    """The factor that logits are multiplied by: rounded as every backend does it, which a quick division would not. Of a row that draws."""
    return tl.div_rn(1.0, tl.load(temperature))


@triton.jit
def scan_kernel(
    x_ptr, stride, size, temperature, top_k, top_p, min_p, tokens, finite, highest_ptr, total_ptr, few_x, few_id, count_ptr,
    CHECK: tl.constexpr, DRAWS: tl.constexpr, BLOCK: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """One program a row: the greedy token, and of rows that draw, the few tokens that may be drawn, in token order.

    count: how many; 0 where the token is settled; -1 where they are more than FEW, or nothing narrows the row.
    CHECK: whether these are the model's logits, of which `finite` tells. Of others it holds what was told already.
    """
    row = tl.program_id(0).to(tl.int64)
    x_row = x_ptr + row * stride
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    best_at = tl.zeros([BLOCK], tl.int32)
    bad = tl.zeros([BLOCK], tl.int32)
    for start in range(0, size, BLOCK):
        at = start + lane
        x = tl.load(x_row + at, mask=at < size, other=float("-inf")).to(tl.float32)
        if CHECK:
            bad |= ((at < size) & ~(tl.abs(x) < float("inf"))).to(tl.int32)
        better = x > best
        best = tl.where(better, x, best)
        best_at = tl.where(better, at, best_at)
    highest = tl.max(best, 0)
    if CHECK:
        fine = tl.max(bad, 0) == 0
        tl.store(finite + row, fine.to(tl.int8))
    else:
        fine = tl.load(finite + row) != 0
    token = tl.min(tl.where(best == highest, best_at, size), 0)
    token = tl.where(highest == float("-inf"), -1, token)
    tl.store(tokens + row, tl.where(fine, token, 0).to(tl.int64))

    if DRAWS:
        count = 0
        if fine & (highest > float("-inf")) & (tl.load(temperature + row) > 0):
            tl.store(highest_ptr + row, highest)
            k = tl.load(top_k + row)
            p = tl.load(top_p + row)
            least = tl.load(min_p + row)
            scale = inverse_of(temperature + row)
            limited = (k > 0) & (k < size)
            count = -1
            if (limited & (k <= BLOCK)) | ((k <= 0) | (k >= size)) & ((p < 1) | (least > 0)):
                floor = float("-inf")
                # Below this a token cannot be among the first p of the weight, which is 1 at least: all such together weigh too little.
                bound = 0.0
                if limited:
                    # k lanes hold such an element, so the k-th largest of all is no smaller.
                    floor = kth_of_tile(best, k)
                elif p < 1:
                    bound = (1.0 - p) * 0.5 / size
                count = 0
                total = tl.zeros([BLOCK], tl.float64)
                for start in range(0, size, BLOCK):
                    at = start + lane
                    x = tl.load(x_row + at, mask=at < size, other=float("-inf")).to(tl.float32)
                    weight = tl.exp((x - highest) * scale)
                    kept = (x >= floor) & (x > float("-inf")) & (weight >= least)
                    total += tl.where(kept, weight, 0.0).to(tl.float64)
                    kept = kept & (weight >= bound)
                    place = count + tl.cumsum(kept.to(tl.int32), 0) - 1
                    kept_few = kept & (place < FEW)
                    tl.store(few_x + row * FEW + place, x, mask=kept_few)
                    tl.store(few_id + row * FEW + place, at, mask=kept_few)
                    count += tl.sum(kept.to(tl.int32), 0)
                tl.store(total_ptr + row, tl.sum(total, 0))
                if count > FEW:
                    count = -1
        tl.store(count_ptr + row, count)


@triton.jit
def draw_few_kernel(
    few_x, few_id, count_ptr, size, temperature, top_k, top_p, min_p, uniform, highest_ptr, total_ptr, tokens, lowest, FEW: tl.constexpr
):
    """One program a row: draws among the few. lowest: the smallest logit that may be drawn."""
    row = tl.program_id(0).to(tl.int64)
    count = tl.load(count_ptr + row)
    if count > 0:
        lane = tl.arange(0, FEW)
        there = lane < count
        x = tl.load(few_x + row * FEW + lane, mask=there, other=float("-inf"))
        k = tl.load(top_k + row)
        p = tl.load(top_p + row)
        kth = float("-inf")
        if (k > 0) & (k < count):
            kth = kth_of_tile(x, k)
        weights = weights_of(x, tl.load(highest_ptr + row), inverse_of(temperature + row), tl.load(min_p + row), kth)
        kept = there & (x >= kth)
        if p < 1:
            total = tl.load(total_ptr + row)  # of a row without top_k, less likely tokens count too
            if (k > 0) & (k < size):
                total = tl.sum(weights, 0)
            nucleus = heaviest_of_tile(x, weights, p.to(tl.float64) * total)
            kept = kept & (x >= nucleus)
            weights = tl.where(kept, weights, 0.0)
        running = tl.cumsum(weights, 0)
        target = tl.load(uniform + row) * tl.max(running, 0)
        # Dropped tokens weigh nothing: none is the first above the target, whatever rounding does to the sums.
        drawn = tl.min(tl.where((running > target) & (weights > 0), lane, FEW), 0)
        tl.store(tokens + row, tl.load(few_id + row * FEW + tl.minimum(drawn, count - 1)).to(tl.int64))
        tl.store(lowest + row, tl.min(tl.where(kept, x, float("inf")), 0))


@triton.jit
def draw_whole_kernel(
    x_ptr, stride, size, count_ptr, temperature, top_k, top_p, min_p, uniform, highest_ptr, tokens, lowest, BLOCK: tl.constexpr
):
    """One program a row: draws from a whole row, read several times. lowest: as above."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(count_ptr + row) < 0:
        x_row = x_ptr + row * stride
        lane = tl.arange(0, BLOCK)
        highest = tl.load(highest_ptr + row)
        scale = inverse_of(temperature + row)
        k = tl.load(top_k + row)
        p = tl.load(top_p + row)
        least = tl.load(min_p + row)
        floor = tl.full([], float("-inf"), tl.float32)
        if (k > 0) & (k < size):
            floor = kth_of_row(x_row, size, k, floor, highest, BLOCK)
        if p < 1:
            wanted = p.to(tl.float64) * weight_of_row(x_row, size, highest, scale, least, floor, BLOCK)
            floor = tl.maximum(floor, heaviest_of_row(x_row, size, wanted, highest, scale, least, floor, BLOCK))

        # The sum of a block, and of the blocks before it, in the order in which they are looked through below.
        total = tl.zeros([], tl.float64)
        smallest = tl.full([BLOCK], float("inf"), tl.float32)
        for start in range(0, size, BLOCK):
            at = start + lane
            x = tl.load(x_row + at, mask=at < size, other=float("-inf")).to(tl.float32)
            weights = weights_of(x, highest, scale, least, floor)
            total += tl.sum(weights, 0)
            kept = (x >= floor) & (at < size) & (tl.exp((x - highest) * scale) >= least)
            smallest = tl.where(kept, tl.minimum(smallest, x), smallest)
        tl.store(lowest + row, tl.min(smallest, 0))

        target = tl.load(uniform + row) * total
        before = tl.zeros([], tl.float64)
        token = size
        last = 0  # the last token of any weight, should rounding leave the target to nobody
        start = 0
        while (start < size) & (token == size):
            at = start + lane
            x = tl.load(x_row + at, mask=at < size, other=float("-inf")).to(tl.float32)
            weights = weights_of(x, highest, scale, least, floor)
            here = tl.sum(weights, 0)
            last = tl.maximum(last, tl.max(tl.where(weights > 0, at, 0), 0))
            if before + here > target:
                running = before + tl.cumsum(weights, 0)
                token = tl.min(tl.where((running > target) & (weights > 0), at, size), 0)
                token = tl.where(token == size, last, token)
            before += here
            start += BLOCK
        tl.store(tokens + row, tl.where(token == size, last, token).to(tl.int64))


@triton.jit
def processed_kernel(scores, size, temperature, lowest, places, out, HAS_ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out[a] = scores[places[a]], divided by temperature; -inf below the row's `lowest`. Programs: (places, parts of BLOCK)."""
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(places + place)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(scores + row * size + at, mask=at < size, other=0.0)
    if HAS_ROWS:
        draws = tl.load(temperature + row) > 0
        if draws:
            x = tl.where(x >= tl.load(lowest + row), x * inverse_of(temperature + row), float("-inf"))
    x = tl.where(x > _LARGEST, _LARGEST, x)
    tl.store(out + place * size + at, x, mask=at < size)
