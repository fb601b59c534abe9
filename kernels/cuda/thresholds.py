"""Thresholds: the k-th largest value of a row without sorting, by bisection over the bits of floats.

A float32's bits, taken as a signed integer with the magnitude of negative numbers turned round, are in the order of the floats. The
largest key that at least k elements reach is the k-th largest element's own, found in at most 32 steps; where a step reads the row
from memory, bounds move to elements there are, which leaves about as many steps as the logarithm of the different ones in between.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: The key of -inf.
_LOWEST = tl.constexpr(-0x7F800001)


@triton.jit
def ordered(x):
    """float32 -> int32 keys in the same order (-0 just below 0; NaN at the ends)."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def from_ordered(key):
    """The float32 whose key this is."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def upper_middle(low, high):
    """Between two int32, rounded up, without overflow."""
    return (low | high) - ((low ^ high) >> 1)


@triton.jit
def kth_of_tile(x, k):
    """The k-th largest of a float32 tile [N], 1 <= k <= N."""
    keys = ordered(x)
    low, high = tl.min(keys, 0), tl.max(keys, 0)
    while low < high:
        middle = upper_middle(low, high)
        reached = tl.sum((keys >= middle).to(tl.int32), 0) >= k
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle - 1)
    return from_ordered(low)


@triton.jit
def heaviest_of_tile(x, weights, wanted):
    """The largest element that, with all larger ones, weighs at least `wanted`; the smallest where all together do not.

    x: float32 [N]; weights: float64 [N], none below 0.
    """
    keys = ordered(x)
    low, high = tl.min(keys, 0), tl.max(keys, 0)
    while low < high:
        middle = upper_middle(low, high)
        reached = tl.sum(tl.where(keys >= middle, weights, 0.0), 0) >= wanted
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle - 1)
    return from_ordered(low)


@triton.jit
def kth_of_row(row, size, k, floor, highest, BLOCK: tl.constexpr):
    """The k-th largest of a row in memory, 1 <= k <= size, known to lie between `floor` and `highest`, the row's largest. No NaN."""
    lane = tl.arange(0, BLOCK)
    low, high = ordered(floor), ordered(highest)
    while low < high:
        middle = upper_middle(low, high)
        count = tl.zeros([BLOCK], tl.int32)
        above = tl.full([BLOCK], 0x7FFFFFFF, tl.int32)
        below = tl.full([BLOCK], -0x80000000, tl.int32)
        for start in range(0, size, BLOCK):
            at = start + lane
            key = ordered(tl.load(row + at, mask=at < size, other=float("-inf")).to(tl.float32))
            over = (key >= middle) & (at < size)
            count += over.to(tl.int32)
            above = tl.where(over, tl.minimum(above, key), above)
            below = tl.where(over, below, tl.maximum(below, key))
        reached = tl.sum(count, 0) >= k
        low = tl.where(reached, tl.min(above, 0), low)
        high = tl.where(reached, high, tl.max(below, 0))
    return from_ordered(low)


@triton.jit
def weights_of(x, highest, inverse, min_p, kth):
    """Of a tile of logits: exp((x - highest) * inverse), the most likely token's being 1; 0 where min_p or top_k drops the token."""
    weights = tl.exp((x - highest) * inverse)
    return tl.where((weights >= min_p) & (x >= kth), weights, 0.0).to(tl.float64)


@triton.jit
def weight_of_row(row, size, highest, inverse, min_p, kth, BLOCK: tl.constexpr):
    """Sum of `weights_of` a row in memory, float64."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, size, BLOCK):
        at = start + lane
        x = tl.load(row + at, mask=at < size, other=float("-inf")).to(tl.float32)
        total += tl.where(at < size, weights_of(x, highest, inverse, min_p, kth), 0.0)
    return tl.sum(total, 0)


@triton.jit
def heaviest_of_row(row, size, wanted, highest, inverse, min_p, kth, BLOCK: tl.constexpr):
    """As `heaviest_of_tile`, of a row in memory and its `weights_of`."""
    lane = tl.arange(0, BLOCK)
    low, high = tl.full([], _LOWEST, tl.int32), ordered(highest)
    while low < high:
        middle = upper_middle(low, high)
        weight = tl.zeros([BLOCK], tl.float64)
        above = tl.full([BLOCK], 0x7FFFFFFF, tl.int32)
        below = tl.full([BLOCK], -0x80000000, tl.int32)
        for start in range(0, size, BLOCK):
            at = start + lane
            x = tl.load(row + at, mask=at < size, other=float("-inf")).to(tl.float32)
            key = ordered(x)
            over = (key >= middle) & (at < size)
            weight += tl.where(over, weights_of(x, highest, inverse, min_p, kth), 0.0)
            above = tl.where(over, tl.minimum(above, key), above)
            below = tl.where(over, below, tl.maximum(below, key))
        reached = tl.sum(weight, 0) >= wanted
        low = tl.where(reached, tl.min(above, 0), low)
        high = tl.where(reached, high, tl.max(below, 0))
    return from_ordered(low)
