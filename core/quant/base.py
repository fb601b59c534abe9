"""A quantization scheme as a linear layer sees it: the checkpoint tensors it reads, what it keeps of them, and how it multiplies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows, ScaledRows
from infer.kernels.reference.experts import by_expert

from ..weights.cut import Cut
from ..weights.parameter import Parameter
from .packed import tensors_of, with_tensors

#: Takes the tensors of a weight, in their order, and gives those that stand for them from then on.
Place = Callable[[list[Tensor]], Sequence[Tensor]]


class LinearMethod(ABC):
    """The storage of one linear layer's weight, and the product with it. One instance a layer, made before the layer's parameters."""

    quantizes_input: bool = False
    """The layer works on quantized rows: what comes before it had best give them (`quantize=True`). Known once there is a weight."""

    def __init__(self, ops: Ops) -> None:
        self.ops = ops
        self.gated = False
        """What the layer gives is for `apply_gated`. Said before there is a weight."""
        self.place: Place | None = None
        """Says where a weight's tensors go as soon as it is packed; None leaves them where they are."""
        self._weight: Any = None

    @property
    def kind(self) -> object:
        """Equal for methods that multiply in the same way."""
        return type(self)

    @classmethod
    def refusal(cls, ops: Ops) -> str:
        """Why this backend cannot do it, or nothing."""
        return ""

    def declare(self, names: Sequence[str], outs: Sequence[int], in_features: int, cuts: Sequence[Cut] | None) -> list[Parameter]:
        """The checkpoint tensors of a weight: here one matrix [out, in] of each of the stacked layers, in any floating dtype.

        Args:
            names: checkpoint prefixes, stacked in this order.
            outs: output features of each.
            cuts: what this rank holds of each matrix; None is all.
        """
        matrices = [(f"{name}.weight", (out, in_features)) for name, out in zip(names, outs, strict=True)]
        return [Parameter(*matrices, cuts=cuts, store=self.store)]

    def store(self, weight: Tensor) -> None:
        """Takes the whole weight [out, in] and keeps only what `apply` needs of it."""
        self._keep(self._pack(weight))

    def _keep(self, packed: Any) -> None:
        self._weight = packed
        if self.place is not None:
            self.replace(self.place(self.tensors()))

    @property
    def plain_weight(self) -> Any:
        """The weight, if `apply` does no more than call `Ops.linear` with it and `apply_gated` no more than call `Ops.linear_gated`; or, of
        a layer that `quantizes_input`, quantize and call `Ops.linear_int8` and `Ops.linear_int8_gated`. Otherwise None."""
        return None

    @property
    def any_rows(self) -> bool:
        """True if `apply` takes any number of rows, see `Ops.any_rows`. Known once there is a weight."""
        return self.ops.any_rows(self._weight)

    def ways(self, dtype: torch.dtype) -> list[tuple[str, int]]:
        """How the weight is kept and multiplied, in words, and its bytes: of each part that is kept in its own way.

        Args:
            dtype: the model's.
        """
        return [(self._in_words(dtype), sum(tensor.nbytes for tensor in self.tensors()))]

    def _in_words(self, dtype: torch.dtype) -> str:
        return f"in {str(dtype).removeprefix('torch.')}"

    def tensors(self) -> list[Tensor]:
        """All that is kept of the weight, in an order that stays."""
        return list(tensors_of(self._weight))

    def replace(self, tensors: Sequence[Tensor]) -> None:
        """Works from now on with these, which hold what `tensors()` hold, on another device perhaps. `apply` needs them on its rows'."""
        self._weight = with_tensors(self._weight, tensors)

    @abstractmethod
    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        """Bytes that are kept of a weight [out, in] in `dtype`, before there is one. A backend may pad it."""

    @abstractmethod
    def apply(self, x: Rows, bias: Tensor | None) -> Rows:
        """x [N, in] @ weight^T + bias [out] -> [N, out]."""

    def apply_gated(self, x: Rows, bias: Tensor | None, kind: str, *, quantize: bool) -> Rows:
        """`Ops.gated_activation` of what `apply` gives, in the same bits; here one after the other."""
        return self.ops.gated_activation(self.apply(x, bias), kind, quantize=quantize)

    @classmethod
    def apply_experts(cls, methods: Sequence[LinearMethod], x: Rows, starts: Tensor, biases: Sequence[Tensor] | None) -> Rows:
        """Rows of x [P, in], sorted by expert, by the weights of their experts -> [P, out]; arguments as of `Ops.linear_experts`.

        Here expert by expert, of any methods. Schemes whose weights can be multiplied together do so; `methods` are then all of one `kind`.
        """
        return by_expert(x, starts, lambda expert, rows: methods[expert].apply(rows, None if biases is None else biases[expert]))

    @abstractmethod
    def _pack(self, weight: Tensor) -> Any:
        """The form that is kept of the weight: a tensor, or tuples and dataclasses of tensors and other things."""


def unscaled(rows: Rows) -> Tensor:
    """Rows with their factors multiplied in, in place."""
    return rows.values.mul_(rows.scale[:, None]) if isinstance(rows, ScaledRows) else rows


def scaled(rows: Rows, factor: float) -> Rows:
    """Rows times a number. May overwrite them."""
    if factor == 1:
        return rows
    return rows._replace(scale=rows.scale * factor) if isinstance(rows, ScaledRows) else rows.mul_(factor)
