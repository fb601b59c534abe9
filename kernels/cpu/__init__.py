"""The CPU backend: C++ for the machine at hand, compiled on first use.

Matrix multiplication is ours too, but for dtypes and CPUs (AMX) that oneDNN serves better: see linear.py and int8.py.
"""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend
from . import activation, attention, grouped, int8, kv, library, linear, norm, quantize, rope, sampling, segments

_MODULES = (activation, attention, grouped, int8, kv, linear, norm, quantize, rope, sampling, segments)
_linear = linear.linear


class Ops(Backend, modules=_MODULES):
    """See `infer.kernels.ops.Ops` for what each operation means."""

    name = "cpu"

    def __init__(self) -> None:
        """Raises BuildError where the kernels cannot be compiled."""
        super().__init__()
        library.load()

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _linear(x, weight, bias, self.row_chunk)
