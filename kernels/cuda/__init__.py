"""The CUDA backend: Triton for CUDA GPUs, and for AMD's through ROCm (which torch calls "cuda" too).

Compiled by Triton on first use and kept in its cache. How each kernel is launched is data: see configs.py. Importing this needs no GPU:
the same code runs in Triton's interpreter (TRITON_INTERPRET=1) on CPU tensors, and is compiled ahead of time by aot.py.
"""

from __future__ import annotations

import os

# Triton 3.9 warns where this is left to it. A product is fused with a sum where a kernel says so and nowhere else.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "0")

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backend import Backend
from ..fp8 import Fp8Weight
from ..ops import AttentionConfig, AttentionMeta, DecodeLaunch, Segments
from . import activation, attention, experts, fp8, grouped, int8, kv, linear, logprobs, norm, quantize, rope, sampling, segments
from .build import on_its_device
from .groups.weight import PackedGroups
from .lora import rows as lora
from .state import convolution, delta, gated_norm, mamba2, selective_scan

_MODULES = (activation, attention, experts, fp8, grouped, int8, kv, linear, logprobs, lora, norm, quantize, rope, sampling, segments)
_STATES = (convolution, delta, gated_norm, mamba2, selective_scan)
_linear, _linear_grouped = on_its_device(linear.linear), on_its_device(grouped.linear_grouped)
_linear_experts_grouped = on_its_device(grouped.linear_experts_grouped)
_linear_fp8 = on_its_device(fp8.linear_fp8)
_plan_segments = segments.plan_segments


class Ops(Backend, modules=_MODULES + _STATES, wrap=on_its_device):
    """See `infer.kernels.ops.Ops` for what each operation means.

    With `deterministic` a row's results are the same to the bit in any company. The GEMM library's matrix products are faster and do
    not see to it, nor does attention that splits the contexts of few sequences among more programs; everything else does either way.
    """

    name = "cuda"

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _linear(x, weight, bias, self.row_chunk, deterministic=self.deterministic)

    def linear_grouped(self, x: Tensor, weight: PackedGroups, bias: Tensor | None) -> Tensor:
        return _linear_grouped(x, weight, bias, deterministic=self.deterministic)

    def linear_experts_grouped(self, x: Tensor, weights: Sequence[PackedGroups], starts: Tensor, biases: Sequence[Tensor] | None) -> Tensor:
        return _linear_experts_grouped(x, weights, starts, biases, deterministic=self.deterministic)

    def fp8_refusal(self, shape: tuple[int, int], block: tuple[int, int], dtype: torch.dtype, *, quantize_input: bool) -> str:
        return fp8.fp8_refusal(shape, block, dtype, quantize_input=quantize_input, deterministic=self.deterministic)

    def pack_fp8(self, weight: Fp8Weight, dtype: torch.dtype, *, quantize_input: bool) -> Any:
        return fp8.pack_fp8(weight, dtype, quantize_input=quantize_input, deterministic=self.deterministic)

    def linear_fp8(self, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        return _linear_fp8(x, weight, bias, deterministic=self.deterministic)

    def plan_attention(self, meta: AttentionMeta, num_heads: int, num_kv_heads: int) -> Any:
        return attention.plan_attention(meta, num_heads, num_kv_heads, deterministic=self.deterministic)

    def decode_launch(self, config: AttentionConfig) -> DecodeLaunch:
        return attention.decode_launch(config, deterministic=self.deterministic)

    def plan_segments(self, segments: Segments, num_heads: int, num_kv_heads: int) -> Any:
        return _plan_segments(segments, num_heads, num_kv_heads, deterministic=self.deterministic)
