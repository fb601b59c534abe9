"""The reference backend: plain torch on any device, the oracle for all others."""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend
from . import activation, attention, grouped, int8, kv, linear, norm, quantize, rope, sampling, segments

_MODULES = (activation, attention, grouped, int8, kv, linear, norm, quantize, rope, sampling, segments)
_linear = linear.linear


class Ops(Backend, modules=_MODULES):
    """See `infer.kernels.ops.Ops` for what each operation means."""

    name = "reference"

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _linear(x, weight, bias, self.row_chunk)
