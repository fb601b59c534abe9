"""The CPU backend: C++ for the machine at hand, compiled on first use.

Matrix multiplication is ours too, but for dtypes and CPUs (AMX) that oneDNN serves better: see linear.py and int8.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..backend import Backend
from ..layer import LayerParts, WholeLayer
from . import (
    activation,
    attention,
    experts,
    fp8,
    gemm,
    grouped,
    int8,
    kv,
    layer,
    library,
    linear,
    lora,
    norm,
    quantize,
    rope,
    sampling,
    segments,
)
from .state import convolution, delta, gated_norm, mamba2, selective_scan

_MODULES = (activation, attention, experts, fp8, grouped, int8, kv, linear, lora, norm, quantize, rope, sampling, segments)
_STATES = (convolution, delta, gated_norm, mamba2, selective_scan)
_linear, _linear_experts, _linear_gated = linear.linear, experts.linear_experts, linear.linear_gated
_packed = linear.packed
_whole_layer = layer.whole_layer


class Ops(Backend, modules=_MODULES + _STATES):
    """See `infer.kernels.ops.Ops` for what each operation means."""

    name = "cpu"

    def __init__(self) -> None:
        """Raises BuildError where the kernels cannot be compiled."""
        super().__init__()
        library.load()

    def any_rows(self, weight: Any) -> bool:
        """Kernels of our own do; oneDNN's products do not."""
        kept = weight.weight if isinstance(weight, int8.PackedInt8) else weight
        return isinstance(kept, (gemm.Panels, grouped.PackedGrouped))

    def most_products(self, kind: str) -> tuple[float, float] | None:
        return gemm.most_products(kind)

    def whole_layer(self, parts: LayerParts) -> WholeLayer | None:
        return _whole_layer(parts)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _linear(x, weight, bias, self.row_chunk)

    def pack_halves(self, weight: Tensor) -> Any:
        return _packed(weight, halves=True)

    def linear_gated(self, x: Tensor, weight: Any, bias: Tensor | None, kind: str) -> Tensor:
        if isinstance(weight, gemm.Panels):
            return _linear_gated(x, weight, bias, kind)
        return super().linear_gated(x, weight, bias, kind)

    def linear_experts(self, x: Tensor, weights: Sequence[Any], starts: Tensor, biases: Sequence[Tensor] | None) -> Tensor:
        return _linear_experts(x, weights, starts, biases, self.row_chunk)
