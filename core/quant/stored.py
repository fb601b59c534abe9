"""A quantized checkpoint's own scheme: each weight stays as it is stored where the backend multiplies by such, else it becomes plain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows

from ..weights.cut import Cut
from ..weights.formats.values import Floats, Grouped, Int8Rows, QuantizedWeight, as_tensor
from ..weights.parameter import Parameter, Value
from .base import LinearMethod, unscaled
from .floats import InFloats
from .grouped import InGroups
from .int8 import Int8
from .plain import Plain


class Stored(LinearMethod):
    """Stacked layers may be stored in several ways: each has then a method of its own, and its features come in its place.

    Args:
        dtype: the model's, for weights that become plain.
        rows: "int8", "model" for the model's dtype, or "auto": int8 where the checkpoint says so, and for packed weights unless the model
            computes in float32.
    """

    def __init__(self, ops: Ops, dtype: torch.dtype, *, rows: str) -> None:
        super().__init__(ops)
        self.dtype = dtype
        self.rows = rows
        self._methods: list[LinearMethod] = []
        self._words: list[str] = []
        self._widths: list[int] = []

    @property
    def kind(self) -> object:
        return tuple(method.kind for method in self._methods)

    def declare(self, names: Sequence[str], outs: Sequence[int], in_features: int, cuts: Sequence[Cut] | None) -> list[Parameter]:
        matrices = [(f"{name}.weight", (out, in_features)) for name, out in zip(names, outs, strict=True)]
        return [Parameter(*matrices, cuts=cuts, take=self._take)]

    def _take(self, values: list[Value], device: torch.device) -> None:
        for kind, run in groupby(values, self._kind_of):
            together = list(run)
            method, way = self._plainly(together, device) if kind is None else self._quantized(together, device)
            self._methods.append(method)
            self._words.append(way)
            self._widths.append(sum(value.shape[0] for value in together))
        self.quantizes_input = all(method.quantizes_input for method in self._methods)
        if self.place is not None:
            self.replace(self.place(self.tensors()))

    def _kind_of(self, value: Value) -> object:
        """Equal for weights that are kept as one; None: it is kept plainly."""
        return value.kind if isinstance(value, QuantizedWeight) and self._keeps(value) else None

    def _keeps(self, weight: QuantizedWeight) -> bool:
        """True if the backend multiplies by it as it is."""
        if isinstance(weight, Int8Rows):
            return self.rows != "model" and not Int8.refusal(self.ops)
        if isinstance(weight, Floats):
            return self._in_floats(weight) is not None
        return isinstance(weight, Grouped) and self._in_groups(weight) is not None

    def _in_groups(self, weight: Grouped) -> InGroups | None:
        """The way it is multiplied; None: the backend has none."""
        quantize = self.rows == "int8" or (self.rows == "auto" and self.dtype != torch.float32)
        ways = [InGroups(self.ops, self.dtype, quantize_input=True)] if quantize else []
        ways.append(InGroups(self.ops, self.dtype, quantize_input=False))
        return next((way for way in ways if not way.refuses(weight)), None)

    def _in_floats(self, weight: Floats) -> InFloats | None:
        """The same of floats of 8 bits: rows become such too, where the backend multiplies them, unless they are to be the model's."""
        ways = [
            InFloats(self.ops, self.dtype, quantize_input=quantize) for quantize in (True, False) if not quantize or self.rows != "model"
        ]
        return next((way for way in ways if not way.refuses(weight)), None)

    def _quantized(self, run: list[Value], device: torch.device) -> tuple[LinearMethod, str]:
        """The method that keeps weights of one kind, and its way in words."""
        weights = [value for value in run if isinstance(value, QuantizedWeight)]
        weight = weights[0].stacked(weights)
        if isinstance(weight, Int8Rows):
            rows = Int8(self.ops)
            rows.take(weight.values.to(device), weight.scale.to(device), self.dtype)
            return rows, "in 8 bits, by rows in int8"
        if isinstance(weight, Floats):
            floats = self._in_floats(weight)
            assert floats is not None, "or it would not be kept"
            floats.take(weight, device)
            return floats, f"in floats of 8 bits, by rows in {'fp8' if floats.quantize_input else self._name}"
        assert isinstance(weight, Grouped)
        groups = self._in_groups(weight)
        assert groups is not None, "or it would not be kept"
        groups.take(weight, device)
        by = "int8" if groups.quantize_input else self._name
        return groups, f"in {weight.weight.bits} bits, groups of {weight.weight.group_size}, by rows in {by}"

    def _plainly(self, run: list[Value], device: torch.device) -> tuple[LinearMethod, str]:
        method = Plain(self.ops)
        method.store(torch.cat([as_tensor(value, self.dtype).to(device) for value in run]))
        return method, f"in {self._name}" + (", from fewer bits" if isinstance(run[0], QuantizedWeight) else "")

    @property
    def _name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def any_rows(self) -> bool:
        return all(method.any_rows for method in self._methods)

    def ways(self, dtype: torch.dtype) -> list[tuple[str, int]]:
        return [
            (words, sum(tensor.nbytes for tensor in method.tensors())) for words, method in zip(self._words, self._methods, strict=True)
        ]

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

    @classmethod
    def apply_experts(cls, methods: Sequence[LinearMethod], x: Rows, starts: Tensor, biases: Sequence[Tensor] | None) -> Rows:
        kept = [method._methods for method in methods if isinstance(method, Stored)]
        if any(len(one) > 1 for one in kept):
            return LinearMethod.apply_experts(methods, x, starts, biases)
        return type(kept[0][0]).apply_experts([one[0] for one in kept], x, starts, biases)

    def _pack(self, weight: Tensor) -> Any:
        raise AssertionError("it takes what is stored")


class AsStored:
    """The choice of `Stored` for every layer. Arguments as there.

    Args:
        method: `Stored`, or what makes of plain weights such as are stored.
        plain: layers that stay as they are.
    """

    def __init__(
        self, ops: Ops, dtype: torch.dtype, *, rows: str, method: type[Stored] = Stored, plain: frozenset[str] = frozenset()
    ) -> None:
        self.ops, self.dtype, self.rows, self.method, self.plain = ops, dtype, rows, method, plain
        self.methods: list[LinearMethod] = []
        """What was chosen."""

    def __call__(self, name: str) -> LinearMethod | None:
        if name in self.plain:
            return None
        self.methods.append(self.method(self.ops, self.dtype, rows=self.rows))
        return self.methods[-1]
