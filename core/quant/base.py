"""What a quantization scheme is to a linear layer."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from infer.kernels.ops import Ops, Rows


class LinearMethod(ABC):
    """How one linear layer stores its weight and multiplies by it. One instance a layer."""

    quantizes_input: bool = False
    """The layer works on quantized rows: what comes before it had best give them (`quantize=True`)."""

    def __init__(self, ops: Ops) -> None:
        self.ops = ops

    @classmethod
    def refusal(cls, ops: Ops) -> str:
        """Why this backend cannot do it, or nothing."""
        return ""

    @abstractmethod
    def store(self, weight: Tensor) -> None:
        """Takes the whole weight [out, in] and keeps only what `apply` needs of it."""

    @abstractmethod
    def apply(self, x: Rows, bias: Tensor | None) -> Rows:
        """x [N, in] @ weight^T + bias [out] -> [N, out]."""
