"""A linear layer's weight that may be changed while its inputs are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.ops import Ops, Rows

from ..quant.base import LinearMethod, unscaled
from ..weights.cut import Cut
from ..weights.formats.values import as_tensor
from ..weights.parameter import Parameter, Value

#: Rows of its inputs that are kept of a layer, at most.
SAMPLES = 1024


class Watched(LinearMethod):
    """
    Args:
        dtype: of the weight until it is widened.
    """

    def __init__(self, ops: Ops, dtype: torch.dtype) -> None:
        super().__init__(ops)
        self.dtype = dtype
        self.names: list[str] = []
        """Checkpoint prefixes of what is stacked."""
        self.weights: list[Tensor] = []
        """[out, in] of each."""
        self.listener: Callable[[Tensor], None] | None = None
        """Gets the rows of every multiplication."""

    def declare(self, names: Sequence[str], outs: Sequence[int], in_features: int, cuts: Sequence[Cut] | None) -> list[Parameter]:
        assert cuts is None, "one rank has all of it"
        self.names = [*names]
        matrices = [(f"{name}.weight", (out, in_features)) for name, out in zip(names, outs, strict=True)]
        return [Parameter(*matrices, dtype=self.dtype, take=self._take)]

    def _take(self, values: list[Value], device: torch.device) -> None:
        self.weights = [as_tensor(value, self.dtype).to(device, self.dtype) for value in values]

    def widen(self) -> None:
        """The weight becomes float32, in memory of its own."""
        self.weights = [weight.float() if weight.dtype != torch.float32 else weight.clone() for weight in self.weights]

    def stacked(self) -> Tensor:
        """float32 [sum of outs, in]"""
        return torch.cat([weight.float() for weight in self.weights])

    def replace_stacked(self, weight: Tensor) -> None:
        self.weights = [*weight.split([len(one) for one in self.weights])]

    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        return out_features * in_features * self.dtype.itemsize

    def apply(self, x: Rows, bias: Tensor | None) -> Tensor:
        rows = unscaled(x)
        if self.listener is not None:
            self.listener(rows)
        product = torch.cat([F.linear(rows, weight.float()) for weight in self.weights], dim=1)
        return product if bias is None else product.add_(bias)

    def _pack(self, weight: Tensor) -> Any:
        raise AssertionError("it takes what is stored")


class Inputs:
    """The inputs of one linear layer, summed up.

    Args:
        total: rows there will be.
    """

    def __init__(self, in_features: int, total: int) -> None:
        self.largest = torch.zeros(in_features)
        """Magnitude of each feature."""
        self.hessian = torch.zeros(in_features, in_features)
        """Sum of x x^T."""
        self._stride = -(-total // SAMPLES)
        self._seen = 0
        self._samples: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        self.largest = torch.maximum(self.largest, rows.abs().amax(0))
        self.hessian.addmm_(rows.T, rows)
        self._samples.append(rows[-self._seen % self._stride :: self._stride].clone())
        self._seen += len(rows)

    @property
    def samples(self) -> Tensor:
        """Rows from all over, [at most SAMPLES, in]."""
        return torch.cat(self._samples)

    def divide(self, factors: Tensor) -> None:
        """From now on inputs are divided by these [in]."""
        self.largest = self.largest / factors
        self.hessian = self.hessian / factors / factors[:, None]
        self._samples = [rows / factors for rows in self._samples]
