"""The head of a classifier, in float32 whatever the model's dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, Ops

from ..weights.parameter import Parameter
from .linear import Linear, unscaled
from .mlp import PLAIN_ACTIVATIONS, activation_kind
from .norm import LayerNorm


class Classifier:
    """out(norm(act(dense(x)))): float32 [S, hidden_size] of pooled texts -> float32 [S, labels].

    Args:
        out: checkpoint prefix of the last layer.
        dense: checkpoint prefix of a layer before it, with its activation ("tanh" or a name of config.json's); None: there is none.
        norm: between activation and `out`.
    """

    def __init__(
        self,
        ops: Ops,
        hidden_size: int,
        labels: int,
        *,
        out: str,
        out_bias: bool = True,
        dense: str | None = None,
        dense_bias: bool = True,
        activation: str = "tanh",
        norm: LayerNorm | None = None,
    ) -> None:
        self.labels = labels
        self.one_by_one = False
        """A row at a time, where this machine's multiplications are not row-wise by themselves."""
        self._dense = Linear(ops, [dense], hidden_size, [hidden_size], bias=dense_bias) if dense is not None else None
        self._activate = _activation(ops, activation)
        self._norm = norm
        self._out = Linear(ops, [out], hidden_size, [labels], bias=out_bias)
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
    """float32 rows -> the same. Raises ModelError for a name we do not know."""
    if name == "tanh":
        return torch.tanh
    kind = activation_kind(name, PLAIN_ACTIVATIONS)
    return lambda x: unscaled(ops.activation(x, kind))
