"""log(1 + e^x): the time that a token takes."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def softplus(x):
    """Of float32 x. log(1 + u) is 2 artanh z: a minimax polynomial in z^2 up to 1/9, which keeps the digits of a small u."""
    u = tl.exp(-tl.abs(x))
    z = u / (2.0 + u)
    w = z * z
    p = 2.81746573e-01 * w + 2.79614188e-01
    p = p * w + 4.00248537e-01
    p = p * w + 6.66663159e-01
    p = p * w + 2.0
    return p * z + tl.where(x < 0.0, 0.0, x)  # NaN stays
