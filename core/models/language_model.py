"""What the engine uses of a model, whoever wrote its code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from infer.kernels.ops import AttentionMeta, KVCache, Ops

from ..layers.linear import Linear


class Shape(Protocol):
    """Sizes."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int:
        """How many KV caches the model needs."""

    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


class LanguageModel(Protocol):
    """A causal language model with its weights; `Decoder` is ours, `hf.model.HFModel` runs transformers' code."""

    ops: Ops
    head: Linear

    @property
    def config(self) -> Shape: ...

    def linears(self) -> Iterator[Linear]:
        """Every linear layer but the head."""

    def forward(self, tokens: Tensor, positions: Tensor, caches: list[KVCache], meta: AttentionMeta, rows: Tensor | None = None) -> Tensor:
        """See `Decoder.forward`."""

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Decoder.logits`."""
