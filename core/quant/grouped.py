"""Small integers with scales by groups: kept as small as the checkpoint has them, and multiplied so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows

from ..weights.formats.values import Grouped
from .base import LinearMethod
from .packed import tensors_of, with_tensors


class InGroups(LinearMethod):
    """
    Args:
        dtype: the model's.
        quantize_input: rows become int8 as they come; else weights become `dtype` a few at a time as they are used.
    """

    def __init__(self, ops: Ops, dtype: torch.dtype, *, quantize_input: bool) -> None:
        super().__init__(ops)
        self.dtype = dtype
        self.quantize_input = quantize_input
        self._columns: Tensor | None = None

    @property
    def kind(self) -> object:
        return InGroups, self.quantize_input, self._columns is None

    def refuses(self, weight: Grouped) -> str:
        """Why the backend cannot multiply by it, or nothing."""
        return self.ops.grouped_refusal(weight.shape[1], weight.weight.group_size, quantize_input=self.quantize_input)

    def take(self, weight: Grouped, device: torch.device) -> None:
        """In place of `store`: the weight is to be on `device`."""
        self._columns = None if weight.columns is None else weight.columns.to(device)
        there = with_tensors(weight.weight, [tensor.to(device) for tensor in tensors_of(weight.weight)])
        self._keep(self.ops.pack_grouped(there, self.dtype, quantize_input=self.quantize_input))

    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        """At most: as if it were plain."""
        return out_features * in_features * dtype.itemsize

    def apply(self, x: Rows, bias: Tensor | None) -> Rows:
        assert isinstance(x, Tensor), "only layers that quantize their input get rows with factors"
        return self.ops.linear_grouped(x if self._columns is None else x[:, self._columns], self._weight, bias)

    @classmethod
    def apply_experts(cls, methods: Sequence[LinearMethod], x: Rows, starts: Tensor, biases: Sequence[Tensor] | None) -> Rows:
        assert isinstance(x, Tensor), "only layers that quantize their input get rows with factors"
        columns = [method._columns for method in methods if isinstance(method, InGroups) and method._columns is not None]
        if columns:  # each expert has its input features in an order of its own
            expert = torch.searchsorted(starts, torch.arange(len(x), device=x.device), right=True) - 1
            x = x.gather(1, torch.stack(columns)[expert])
        return methods[0].ops.linear_experts_grouped(x, [method._weight for method in methods], starts, biases)

    def _pack(self, weight: Tensor) -> Any:
        raise AssertionError("it takes what is stored")
