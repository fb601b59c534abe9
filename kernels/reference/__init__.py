"""The reference backend: plain torch on any device, the oracle for all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..backend import Backend
from . import (
    activation,
    attention,
    convolution,
    delta,
    experts,
    fp8,
    gated_norm,
    grouped,
    int8,
    kv,
    linear,
    lora,
    mamba2,
    norm,
    quantize,
    rope,
    sampling,
    segments,
    selective_scan,
)

_MODULES = (activation, attention, experts, fp8, gated_norm, grouped, int8, kv, linear, lora, norm, quantize, rope, sampling, segments)
_STATES = (convolution, delta, mamba2, selective_scan)
_linear, _linear_experts = linear.linear, experts.linear_experts


class Ops(Backend, modules=_MODULES + _STATES):
    """See `infer.kernels.ops.Ops` for what each operation means."""

    name = "reference"

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _linear(x, weight, bias, self.row_chunk)

    def linear_experts(self, x: Tensor, weights: Sequence[Any], starts: Tensor, biases: Sequence[Tensor] | None) -> Tensor:
        return _linear_experts(x, weights, starts, biases, self.row_chunk)
