"""The head of a classifier, in float32 whatever the model's dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, Ops

from ..quant.base import unscaled
from ..quant.plain import Plain
from ..spec.activations import activation_kind
from ..spec.model_spec import ClassifierSpec, NormSpec
from ..weights.parameter import Parameter
from .linear import Linear
from .norm import Norm


class Classifier:
    """out(norm(act(dense(x)))): float32 [S, hidden_size] of pooled texts -> float32 [S, labels], without what the spec does not name."""

    def __init__(self, ops: Ops, hidden_size: int, labels: int, spec: ClassifierSpec, norm: NormSpec) -> None:
        self.labels = labels
        self.one_by_one = False
        """A row at a time, where this machine's multiplications are not row-wise by themselves."""

        def linear(name: str, outs: int, *, bias: bool) -> Linear:
            return Linear(ops, [name], hidden_size, [outs], bias=bias, method=Plain(ops))

        self._dense = linear(spec.dense, hidden_size, bias=spec.dense_bias) if spec.dense is not None else None
        self._activate = _activation(ops, spec.activation)
        self._norm = Norm(ops, spec.norm, hidden_size, norm) if spec.norm is not None else None
        self._out = linear(spec.out, labels, bias=spec.out_bias)
        for parameter in self.parameters():
            parameter.dtype = torch.float32

    def __call__(self, pooled: Tensor) -> Tensor:
        assert pooled.dtype == torch.float32, "the head computes in float32"
        step = 1 if self.one_by_one else max(len(pooled), 1)
        parts = [self._padded(pooled[i : i + step]) for i in range(0, len(pooled), step)]
        return torch.cat(parts) if parts else pooled.new_empty(0, self.labels)

    def _padded(self, x: Tensor) -> Tensor:
        count = len(x)
        x = F.pad(x, (0, 0, 0, -count % ROW_MULTIPLE)).contiguous()
        if self._dense is not None:
            x = self._activate(unscaled(self._dense(x)))
        if self._norm is not None:
            x = unscaled(self._norm(x))
        return unscaled(self._out(x))[:count]

    def linears(self) -> Iterator[Linear]:
        if self._dense is not None:
            yield self._dense
        yield self._out

    def parameters(self) -> Iterator[Parameter]:
        for part in (self._dense, self._norm, self._out):
            if part is not None:
                yield from part.parameters()


def _activation(ops: Ops, name: str) -> Callable[[Tensor], Tensor]:
    """float32 rows -> the same."""
    if name == "tanh":
        return torch.tanh
    kind = activation_kind(name)
    return lambda x: unscaled(ops.activation(x, kind))
