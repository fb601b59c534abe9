"""The interface of a model to the engine, whoever wrote its code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import AttentionMeta, KVCache, Ops

from ..layers.embedding import GivenEmbeds
from ..layers.linear import Linear
from ..spec.mixers import StateSpec
from ..spec.stack import KVSpec


class LanguageModel(Protocol):
    """A causal language model with its weights; `Decoder` is ours, `hf.model.HFModel` runs transformers' code."""

    ops: Ops
    head: Linear
    vocab_size: int
    hidden_size: int

    @property
    def caches(self) -> tuple[KVSpec, ...]:
        """The KV caches it needs: one for each time it attends in a forward pass."""

    @property
    def states(self) -> tuple[tuple[StateSpec, ...], ...]:
        """The states that it keeps of a sequence, for each layer that keeps some."""

    def linears(self) -> Iterator[Linear]:
        """Every linear layer but the head."""

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        caches: list[KVCache],
        meta: AttentionMeta,
        rows: Tensor | None = None,
        pools: Sequence[Sequence[Tensor]] = (),
        given: GivenEmbeds | None = None,
    ) -> Tensor:
        """See `Decoder.forward`."""

    def logits(self, hidden: Tensor, adapters: AdapterRows | None = None) -> Tensor:
        """See `Decoder.logits`."""
