"""The interface of a model to the pooling engine, whoever wrote its code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor

from infer.kernels.ops import Ops, Segments

from ..layers.linear import Linear
from ..weights.parameter import Parameter


class PoolingModel(Protocol):
    """Hidden states of whole texts; `encoder.Encoder` is ours for bidirectional models, a decoder is wrapped."""

    ops: Ops
    hidden_size: int
    vocab_size: int
    num_token_types: int
    """0 or 1: `types` are ignored."""
    classifier: Callable[[Tensor], Tensor] | None
    """float32 [S, hidden_size] of pooled texts -> float32 [S, labels], before any activation. None: it has none."""

    def linears(self) -> Iterator[Linear]:
        """Every linear layer of the stack."""

    def parameters(self) -> Iterator[Parameter]:
        """All that is loaded from the checkpoint, the classifier's too."""

    def beside(self) -> PoolingModel | None:
        """The same weights for steps that are computed at the same time; None where that cannot be."""

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None, segments: Segments, rows: Tensor | None = None) -> Tensor:
        """Hidden states [N, hidden_size] after the last layer and the final norm; of `rows` alone where given, [R, hidden_size].

        Args:
            tokens, positions: int64 [N], N a multiple of ROW_MULTIPLE; positions count from 0 in each text.
            types: int64 [N], token types; None is all 0.
            rows: int64 [R], the rows that are wanted, R a multiple of ROW_MULTIPLE; None is all.
        """
