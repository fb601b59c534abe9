"""The CPU backend: C++ for the machine at hand (OpenMP, AVX-512 or AVX2 as the compiler finds them), compiled on first use.

Matrix multiplication is ours too, but for dtypes and CPUs (AMX) that oneDNN serves better: see linear.py and int8.py.
"""

from __future__ import annotations

from torch import Tensor

from . import library
from .activation import activation, gated_activation
from .attention import attention, plan_attention
from .int8 import linear_int8, pack_int8, supports_int8
from .kv import copy_blocks, new_host_cache, new_kv_cache, swap_in, swap_out
from .linear import linear, pack_weight
from .norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from .quantize import quantize
from .rope import rope_and_store
from .sampling import processed_logits, sample, top_logprobs
from .segments import plan_segments, segment_attention


class Ops:
    """See `infer.kernels.ops.Ops` for what each operation means."""

    name = "cpu"

    def __init__(self) -> None:
        """Raises BuildError where the kernels cannot be compiled."""
        self.row_chunk = 0
        self.deterministic = False
        library.load()

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(x, weight, bias, self.row_chunk)

    new_kv_cache = staticmethod(new_kv_cache)
    rope_and_store = staticmethod(rope_and_store)
    copy_blocks = staticmethod(copy_blocks)
    new_host_cache = staticmethod(new_host_cache)
    swap_out = staticmethod(swap_out)
    swap_in = staticmethod(swap_in)
    plan_attention = staticmethod(plan_attention)
    attention = staticmethod(attention)
    plan_segments = staticmethod(plan_segments)
    segment_attention = staticmethod(segment_attention)
    pack_weight = staticmethod(pack_weight)
    rms_norm = staticmethod(rms_norm)
    add_rms_norm = staticmethod(add_rms_norm)
    layer_norm = staticmethod(layer_norm)
    add_layer_norm = staticmethod(add_layer_norm)
    gated_activation = staticmethod(gated_activation)
    activation = staticmethod(activation)
    quantize = staticmethod(quantize)
    supports_int8 = staticmethod(supports_int8)
    pack_int8 = staticmethod(pack_int8)
    linear_int8 = staticmethod(linear_int8)
    sample = staticmethod(sample)
    processed_logits = staticmethod(processed_logits)
    top_logprobs = staticmethod(top_logprobs)
