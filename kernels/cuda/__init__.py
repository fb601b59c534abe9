"""The CUDA backend: Triton for CUDA GPUs, and for AMD's through ROCm (which torch calls "cuda" too).

Compiled by Triton on first use and kept in its cache. How each kernel is launched is data: see configs.py. Importing this needs no GPU:
the same code runs in Triton's interpreter (TRITON_INTERPRET=1) on CPU tensors, and is compiled ahead of time by aot.py.
"""

from __future__ import annotations

import os

# Triton 3.9 warns where this is left to it. A product is fused with a sum where a kernel says so and nowhere else.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "0")

from typing import Any

from torch import Tensor

from ..ops import AttentionMeta, Segments
from .activation import activation, gated_activation
from .attention import attention, plan_attention
from .devices import on_its_device
from .int8 import linear_int8, pack_int8, supports_int8
from .kv import copy_blocks, new_host_cache, new_kv_cache, swap_in, swap_out
from .linear import linear, pack_weight
from .logprobs import top_logprobs
from .norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from .quantize import quantize
from .rope import rope_and_store
from .sampling import processed_logits, sample
from .segments import plan_segments, segment_attention

_linear = on_its_device(linear)


class Ops:
    """See `infer.kernels.ops.Ops` for what each operation means."""

    name = "cuda"

    def __init__(self) -> None:
        self.row_chunk = 0
        self.deterministic = False
        """Whether a row's results are the same to the bit in any company. The GEMM library's matrix products are faster and do not see
        to it, nor does attention that splits the contexts of few sequences among more programs; everything else does either way."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _linear(x, weight, bias, self.row_chunk, deterministic=self.deterministic)

    def plan_attention(self, meta: AttentionMeta, num_heads: int, num_kv_heads: int) -> Any:
        return plan_attention(meta, num_heads, num_kv_heads, deterministic=self.deterministic)

    def plan_segments(self, segments: Segments, num_heads: int, num_kv_heads: int) -> Any:
        return plan_segments(segments, num_heads, num_kv_heads, deterministic=self.deterministic)

    new_kv_cache = staticmethod(new_kv_cache)
    rope_and_store = staticmethod(on_its_device(rope_and_store))
    copy_blocks = staticmethod(on_its_device(copy_blocks))
    new_host_cache = staticmethod(new_host_cache)
    swap_out = staticmethod(on_its_device(swap_out))
    swap_in = staticmethod(on_its_device(swap_in))
    attention = staticmethod(on_its_device(attention))
    segment_attention = staticmethod(on_its_device(segment_attention))
    pack_weight = staticmethod(on_its_device(pack_weight))
    rms_norm = staticmethod(on_its_device(rms_norm))
    add_rms_norm = staticmethod(on_its_device(add_rms_norm))
    layer_norm = staticmethod(on_its_device(layer_norm))
    add_layer_norm = staticmethod(on_its_device(add_layer_norm))
    gated_activation = staticmethod(on_its_device(gated_activation))
    activation = staticmethod(on_its_device(activation))
    quantize = staticmethod(on_its_device(quantize))
    supports_int8 = staticmethod(supports_int8)
    pack_int8 = staticmethod(on_its_device(pack_int8))
    linear_int8 = staticmethod(on_its_device(linear_int8))
    sample = staticmethod(on_its_device(sample))
    processed_logits = staticmethod(on_its_device(processed_logits))
    top_logprobs = staticmethod(on_its_device(top_logprobs))
