"""Matrix multiplications with a weight, fused where several share their input."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from infer.kernels.ops import Ops, Rows, ScaledRows

from ..quant.base import LinearMethod
from ..quant.plain import Plain
from ..weights.parameter import Parameter


class Linear:
    """x [N, in] -> [N, sum of outs]; several checkpoint layers with the same input are one multiplication.

    Args:
        names: checkpoint prefixes ("model.layers.0.self_attn.q_proj"), stacked in this order.
        outs: output features of each.
        method: how the weight is stored and applied. It can be replaced until weights are loaded.
    """

    def __init__(
        self, ops: Ops, names: list[str], in_features: int, outs: list[int], *, bias: bool, method: LinearMethod | None = None
    ) -> None:
        self.in_features = in_features
        self.out_features = sum(outs)
        self.method = method or Plain(ops)
        self.weight = Parameter(
            *((f"{name}.weight", (out, in_features)) for name, out in zip(names, outs, strict=True)),
            store=self._store,
        )
        self.bias = Parameter(*((f"{name}.bias", (out,)) for name, out in zip(names, outs, strict=True))) if bias else None

    @property
    def quantizes_input(self) -> bool:
        """Whether rows had best come quantized; plain ones are taken too."""
        return self.method.quantizes_input

    def __call__(self, x: Rows) -> Rows:
        return self.method.apply(x, self.bias.tensor if self.bias is not None else None)

    def _store(self, weight: Tensor) -> None:
        self.method.store(weight)

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight
        if self.bias is not None:
            yield self.bias


def unscaled(rows: Rows) -> Tensor:
    """Rows with their factors multiplied in, in place."""
    return rows.values.mul_(rows.scale[:, None]) if isinstance(rows, ScaledRows) else rows
