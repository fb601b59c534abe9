"""Heads that score texts, in float32 whatever the model's dtype."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, Ops

from ..quant.base import unscaled
from ..quant.plain import Plain
from ..spec.activations import activation_kind
from ..spec.stack import ClassifierSpec, NormSpec, StackSpec
from ..weights.cut import Cut
from ..weights.parameter import Parameter
from .linear import Linear
from .norm import Norm


class ScoringHead(ABC):
    """float32 [S, hidden_size] of pooled texts -> float32 [S, labels]."""

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self.one_by_one = False
        """A row at a time, where this machine's multiplications are not row-wise by themselves."""

    def __call__(self, pooled: Tensor) -> Tensor:
        assert pooled.dtype == torch.float32, "the head computes in float32"
        step = 1 if self.one_by_one else max(len(pooled), 1)
        parts = [self._padded(pooled[i : i + step]) for i in range(0, len(pooled), step)]
        return torch.cat(parts) if parts else pooled.new_empty(0, self.labels)

    def _padded(self, x: Tensor) -> Tensor:
        return self._scores(F.pad(x, (0, 0, 0, -len(x) % ROW_MULTIPLE)).contiguous())[: len(x)]

    @abstractmethod
    def _scores(self, x: Tensor) -> Tensor:
        """Of rows whose number is a multiple of ROW_MULTIPLE."""

    @abstractmethod
    def linears(self) -> Iterator[Linear]:
        """Its layers."""

    @abstractmethod
    def parameters(self) -> Iterator[Parameter]:
        """All that is loaded from the checkpoint."""


class Classifier(ScoringHead):
    """out(norm(act(dense(x)))), without what the spec does not name."""

    def __init__(self, ops: Ops, hidden_size: int, labels: int, spec: ClassifierSpec, norm: NormSpec) -> None:
        super().__init__(labels)

        def linear(name: str, outs: int, *, bias: bool) -> Linear:
            return Linear(ops, [name], hidden_size, [outs], bias=bias, method=Plain(ops))

        self._dense = linear(spec.dense, hidden_size, bias=spec.dense_bias) if spec.dense is not None else None
        self._activate = _activation(ops, spec.activation)
        self._norm = Norm(ops, spec.norm, hidden_size, norm) if spec.norm is not None else None
        self._out = linear(spec.out, labels, bias=spec.out_bias)
        for parameter in self.parameters():
            parameter.dtype = torch.float32

    def _scores(self, x: Tensor) -> Tensor:
        if self._dense is not None:
            x = self._activate(unscaled(self._dense(x)))
        if self._norm is not None:
            x = unscaled(self._norm(x))
        return unscaled(self._out(x))

    def linears(self) -> Iterator[Linear]:
        if self._dense is not None:
            yield self._dense
        yield self._out

    def parameters(self) -> Iterator[Parameter]:
        for part in (self._dense, self._norm, self._out):
            if part is not None:
                yield from part.parameters()


class TokenScores(ScoringHead):
    """A language model's logits of some tokens as the scores of a text, one a token; or of the second one less that of the first.

    Args:
        stack: of the model, with a head of its own or the embedding's.
        tokens: their ids.
        difference: there are two, and the score is the difference of their logits, whose sigmoid is the softmax of both.
    """

    def __init__(self, ops: Ops, stack: StackSpec, tokens: Sequence[int], *, difference: bool) -> None:
        super().__init__(1 if difference else len(tokens))
        self._difference, self._scale, self._soft_cap = difference, stack.logits_scale, stack.logits_soft_cap
        head = stack.names.words if stack.tie_embeddings else stack.names.head
        names, outs = [head] * len(tokens), [stack.vocab_size] * len(tokens)
        rows = [Cut(0, token, token + 1) for token in tokens]
        self._out = Linear(ops, names, stack.output_size, outs, bias=stack.head_bias, cuts=rows, method=Plain(ops))
        for parameter in self.parameters():
            parameter.dtype = torch.float32

    def _scores(self, x: Tensor) -> Tensor:
        logits = unscaled(self._out(x)) * self._scale
        if self._soft_cap is not None:
            logits = (logits / self._soft_cap).tanh() * self._soft_cap
        return logits[:, 1:] - logits[:, :1] if self._difference else logits

    def linears(self) -> Iterator[Linear]:
        yield self._out

    def parameters(self) -> Iterator[Parameter]:
        yield from self._out.parameters()


def _activation(ops: Ops, name: str) -> Callable[[Tensor], Tensor]:
    """float32 rows -> the same."""
    if name == "tanh":
        return torch.tanh
    kind = activation_kind(name)
    return lambda x: unscaled(ops.activation(x, kind))
