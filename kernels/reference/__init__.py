"""Plain torch on any device: the oracle for every other backend, and what runs where none of them does."""

from __future__ import annotations

from torch import Tensor

from .activation import silu_and_mul
from .attention import attention, plan_attention
from .kv import copy_blocks, new_kv_cache, store_kv
from .linear import linear
from .norm import add_rms_norm, rms_norm
from .rope import rope
from .sampling import apply_penalties, sample


class Ops:
    """See `infer.kernels.ops.Ops` for what each operation means."""

    name = "reference"

    def __init__(self) -> None:
        self.row_chunk = 0

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(x, weight, bias, self.row_chunk)

    new_kv_cache = staticmethod(new_kv_cache)
    store_kv = staticmethod(store_kv)
    copy_blocks = staticmethod(copy_blocks)
    plan_attention = staticmethod(plan_attention)
    attention = staticmethod(attention)
    rms_norm = staticmethod(rms_norm)
    add_rms_norm = staticmethod(add_rms_norm)
    rope = staticmethod(rope)
    silu_and_mul = staticmethod(silu_and_mul)
    apply_penalties = staticmethod(apply_penalties)
    sample = staticmethod(sample)
