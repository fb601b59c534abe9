"""A causal language model of transformers with the face of `Decoder`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import AttentionMeta, KVCache, Ops

from ...errors import ModelError
from ...layers.embedding import GivenEmbeds
from ...layers.linear import Linear
from ...spec.mixers import StateSpec
from ...spec.stack import KVSpec
from .attention import PagedAttention


class HFModel:
    """Runs transformers' module code on the flat tokens of a step, with our attention and linear layers inside.

    Linear layers, attention and mixtures of experts (`experts.py`) are ours, and give a record the same bits whatever runs beside
    it. Norms, activations and embeddings are torch's operations on rows. They give a row the same bits in any batch with one or two
    threads; with more, torch may cut an elementwise operation where its vectors do not fit, and the last bit of an exponential or
    tanh differs there. Layers that multiply otherwise than by `nn.Linear` are torch's too.
    `trial.warn_if_rows_differ` tries it at load time and says so; it is a sample, not a proof.

    Args:
        whole: a `...ForCausalLM` whose linear layers are swapped. Its base model is taken out and replaced by one that hands
            hidden states through, so that what stands behind it (head, scaling, caps) gives logits of given hidden states.
        attention: what `whole` attends with, already looked at.
        linears, head: what `swap_linears` gave.
        tokens_to_try: int64 [T], what the model is tried with.
    """

    def __init__(self, whole: Any, ops: Ops, attention: PagedAttention, linears: list[Linear], head: Linear, tokens_to_try: Tensor) -> None:
        self.ops = ops
        self.tokens_to_try = tokens_to_try
        self.attention = attention
        self.head = head
        self._linears = linears
        prefix = whole.base_model_prefix
        body = getattr(whole, prefix, None) if prefix else None
        if not isinstance(body, nn.Module):
            raise ModelError(f"{type(whole).__name__} has no base model apart from its head")
        self.body: Any = body
        self._given = _Given(body)
        setattr(whole, prefix, self._given)
        self._tail = whole
        self.vocab_size, self.hidden_size = head.out_features, head.in_features
        self.states: tuple[tuple[StateSpec, ...], ...] = ()
        self.caches = (KVSpec(attention.num_kv_heads, attention.head_dim),) * len(attention.calls)

    def linears(self) -> Iterator[Linear]:
        """Every linear layer but the head."""
        yield from self._linears

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
        """See `Decoder.forward`; all rows are computed, whichever are wanted, and no embeddings can be given."""
        assert given is None, "refused where settings are resolved"
        with self.attention.step(caches, meta):
            output = self.body(input_ids=tokens[None], position_ids=positions[None], use_cache=False)
        hidden: Tensor = output[0][0]
        return hidden if rows is None else hidden[rows]

    def logits(self, hidden: Tensor, adapters: AdapterRows | None = None) -> Tensor:
        """See `Decoder.logits`; the dtype is the one transformers' code gives them."""
        assert adapters is None, "refused as the model is loaded"
        self._given.hidden = hidden[None]
        try:
            logits: Tensor = self._tail(inputs_embeds=hidden[None], use_cache=False).logits[0]
        finally:
            self._given.hidden = None
        return logits


class _Given(nn.Module):
    """Stands for the base model and gives hidden states that were computed before."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.hidden: Tensor | None = None
        object.__setattr__(self, "_body", body)  # not a part of this module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _Output(self.hidden)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("decoder", "model"):  # some heads go past the base model to what is inside
                return self
            return getattr(object.__getattribute__(self, "_body"), name)


class _Output:
    """A base model's output with hidden states and nothing else."""

    def __init__(self, hidden: Tensor | None) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, index: int) -> Tensor | None:
        return (self.last_hidden_state,)[index]
