"""Quick GELU, x * sigmoid(1.702 x), as CLIP has it: SiLU between two products, by the backend's own."""

from __future__ import annotations

from torch import Tensor

from infer.kernels.ops import Ops

from ..quant.base import unscaled

_SLOPE = 1.702


def quick_gelu(ops: Ops, x: Tensor) -> Tensor:
    """[N, I] -> [N, I], in float32; an element's bits depend on it alone."""
    return unscaled(ops.activation(x.float() * _SLOPE, "silu")).div_(_SLOPE).to(x.dtype)
