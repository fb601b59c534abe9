"""Matrix multiplications with a weight, fused where several share their input."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from infer.kernels.ops import Ops

from ..weights.parameter import Parameter


class Linear:
    """x [N, in] -> [N, sum of outs]; several checkpoint layers with the same input are one multiplication.

    Args:
        names: checkpoint prefixes ("model.layers.0.self_attn.q_proj"), stacked in this order.
        outs: output features of each.
    """

    def __init__(self, ops: Ops, names: list[str], in_features: int, outs: list[int], *, bias: bool) -> None:
        self.ops = ops
        self.weight = Parameter(*((f"{name}.weight", (out, in_features)) for name, out in zip(names, outs, strict=True)))
        self.bias = Parameter(*((f"{name}.bias", (out,)) for name, out in zip(names, outs, strict=True))) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        return self.ops.linear(x, self.weight.tensor, self.bias.tensor if self.bias is not None else None)

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight
        if self.bias is not None:
            yield self.bias
