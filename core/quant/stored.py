"""A quantized checkpoint's own scheme: each weight stays as it is stored where the backend multiplies by such, else it becomes plain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows

from ..weights.cut import Cut
from ..weights.formats.values import Int8Rows, QuantizedWeight
from ..weights.parameter import Parameter, Value
from .base import LinearMethod, unscaled
from .int8 import Int8
from .plain import Plain


class Stored(LinearMethod):
    """Stacked layers may be stored in several ways: each has then a method of its own, and its features come in its place.

    Args:
        dtype: the model's, for weights that become plain.
    """

    def __init__(self, ops: Ops, dtype: torch.dtype) -> None:
        super().__init__(ops)
        self.dtype = dtype
        self._methods: list[LinearMethod] = []
        self._widths: list[int] = []

    @property
    def kind(self) -> object:
        return tuple(method.kind for method in self._methods)

    def declare(self, names: Sequence[str], outs: Sequence[int], in_features: int, cuts: Sequence[Cut] | None) -> list[Parameter]:
        matrices = [(f"{name}.weight", (out, in_features)) for name, out in zip(names, outs, strict=True)]
        return [Parameter(*matrices, cuts=cuts, take=self._take)]

    def _take(self, values: list[Value]) -> None:
        for _, run in groupby(values, lambda value: value.kind if isinstance(value, QuantizedWeight) else None):
            self._add(list(run))
        self.quantizes_input = all(method.quantizes_input for method in self._methods)

    def _add(self, run: list[Value]) -> None:
        quantized = [value for value in run if isinstance(value, QuantizedWeight)]
        method: LinearMethod
        if len(quantized) == len(run) and isinstance(quantized[0], Int8Rows) and not Int8.refusal(self.ops):
            weight = Int8Rows.stacked(quantized)
            method = Int8(self.ops)
            method.take(weight.values, weight.scale, self.dtype)
        else:
            method = Plain(self.ops)
            method.store(torch.cat([self._plain(value) for value in run]))
        self._methods.append(method)
        self._widths.append(sum(value.shape[0] for value in run))

    def _plain(self, value: Value) -> Tensor:
        return value.dense().to(self.dtype) if isinstance(value, QuantizedWeight) else value

    def tensors(self) -> list[Tensor]:
        return [tensor for method in self._methods for tensor in method.tensors()]

    def replace(self, tensors: Sequence[Tensor]) -> None:
        start = 0
        for method in self._methods:
            count = len(method.tensors())
            method.replace(tensors[start : start + count])
            start += count

    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        """At most: as if it were plain."""
        return out_features * in_features * dtype.itemsize

    def apply(self, x: Rows, bias: Tensor | None) -> Rows:
        if len(self._methods) == 1:
            return self._methods[0].apply(x, bias)
        biases = [None] * len(self._methods) if bias is None else bias.split(self._widths)
        parts = [method.apply(x, part) for method, part in zip(self._methods, biases, strict=True)]
        return torch.cat([unscaled(part) for part in parts], dim=1)

    def _pack(self, weight: Tensor) -> Any:
        raise AssertionError("it takes what is stored")
