"""Tiles: products, the running softmax, and the pieces a long context is cut in.

Scores are held times log2(e), since the hardware's exponential is that of 2. A row's state is (best, total, acc): the largest
score so far, the sum of the weights 2^(score - best), and the sum of the values so weighted. Sums and products that could be
fused one way or another are fused here by hand, so that a row's bits do not hang on a compiler's choice.

Pieces: a context is cut at fixed positions, whatever its length: 16 pieces of PIECE keys, 8 of twice that, 8 of four times
that... A row's pieces are thus known by position alone; a context of 2^17 has 64, and none holds more than an eighth of it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .narrow import narrowed

#: Keys in each of the first 16 pieces; a multiple of every tile's width.
PIECE = 128
#: The interpreter multiplies bfloat16 by its bits, taken as integers: there operands become float32, whose products are exact.
_EMULATED = tl.constexpr(triton.knobs.runtime.interpret)
_PIECE = tl.constexpr(PIECE)
LOG2_E = 1.4426950408889634


def count_pieces(length: int) -> int:
    """Pieces of a context of `length` keys."""
    n = max(length - 1, 0) // PIECE
    octave = max(n.bit_length() - 4, 0)
    return 8 * octave + (n >> octave) + 1


@triton.jit
def piece_of(position):
    """The piece that holds `position`."""
    n = position // _PIECE
    # floor(log2(n)) is the float's exponent; exact up to 2^24 pieces' worth of keys.
    log2 = (tl.maximum(n, 1).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
    octave = tl.maximum(log2 - 3, 0)
    return 8 * octave + (n >> octave)


@triton.jit
def piece_start(piece):
    """The position of a piece's first key."""
    octave = tl.maximum(piece // 8 - 1, 0)
    return ((piece - 8 * octave) << octave) * _PIECE


@triton.jit
def dot(a, b):
    """a @ b in float32: on tensor cores for 16-bit operands, and never in tf32."""
    if _EMULATED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def dot_add(a, b, acc):
    """a @ b + acc, as `dot`."""
    if _EMULATED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def pivot_of(best):
    """Rows that have seen no key keep -inf: 0 stands in, so that no -inf - -inf arises."""
    return tl.where(best == float("-inf"), 0.0, best)


@triton.jit
def soften(best, total, acc, scores, value):
    """The state after a tile: scores [M, N], value [N, D]. A row whose scores are all -inf stays as it is, to the bit."""
    new_best = tl.maximum(best, tl.max(scores, 1))
    pivot = pivot_of(new_best)
    shrink = tl.exp2(best - pivot)
    weights = tl.exp2(scores - pivot[:, None])
    total = tl.fma(total, shrink, tl.sum(weights, 1))
    acc = dot_add(narrowed(weights, value.dtype), value, acc * shrink[:, None])
    return new_best, total, acc


@triton.jit
def merge(best, total, acc, other_best, other_total, other_acc):
    """The state of rows [M] that have seen the keys of two states, of which the second's come later."""
    new_best = tl.maximum(best, other_best)
    pivot = pivot_of(new_best)
    mine, other = tl.exp2(best - pivot), tl.exp2(other_best - pivot)
    total = tl.fma(total, mine, other_total * other)
    acc = tl.fma(acc, tl.broadcast_to(mine[:, None], acc.shape), other_acc * other[:, None])
    return new_best, total, acc


@triton.jit
def finish(best, total, acc, sinks, HAS_SINKS: tl.constexpr):
    """The rows' results [M, D]; zeros for rows that have seen no key. `sinks` [M] are times log2(e)."""
    if HAS_SINKS:
        total += tl.exp2(sinks - pivot_of(best))
    return acc / tl.where(total == 0.0, 1.0, total)[:, None]


@triton.jit
def tanh(x):
    """By the exponential; both ends saturate."""
    return 1.0 - 2.0 / (tl.exp2(x * 2.8853900817779268) + 1.0)
