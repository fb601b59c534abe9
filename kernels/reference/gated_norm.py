"""RMSNorm with a gate. Statistics in float32 whatever the dtype."""

from __future__ import annotations

from torch import Tensor

from ..ops import Rows
from .norm import rms_normalized
from .quantize import from_float
from .state import silu


def gated_rms_norm(
    x: Tensor, gate: Tensor, weight: Tensor | None, eps: float, group_size: int, *, gate_first: bool, quantize: bool = False
) -> Rows:
    x32, factor = x.float(), silu(gate)
    if weight is not None:
        grouped = (x32 * factor if gate_first else x32).unflatten(-1, (-1, group_size))
        x32 = rms_normalized(grouped, weight.view(-1, group_size), eps).flatten(-2)
    return from_float(x32 if weight is not None and gate_first else x32 * factor, x.dtype, quantize)
