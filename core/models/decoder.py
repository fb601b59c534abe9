"""The decoder stack that most language models share, of the parts that an architecture's file names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import AttentionMeta, KVCache, Ops, Rows

from ..layers.attention import Attention
from ..layers.embedding import Embedding, GivenEmbeds
from ..layers.linear import Linear, shared_out
from ..layers.norm import Norm
from ..layers.per_layer import PerLayerVectors
from ..layers.relative import distances_of
from ..layers.rope import Ropes
from ..layers.sinusoids import Sinusoids
from ..parallel.group import current
from ..parallel.stages import current_stage, layers_of
from ..quant.base import unscaled
from ..quant.choice import HEAD, chosen
from ..spec.mixers import StateSpec
from ..spec.stack import KVSpec, StackSpec
from ..weights.parameter import Parameter
from .chunks import chunked, narrowed
from .decoder_layer import DecoderLayer, Hidden, LayerMemory, Pools, adapter_rows, chosen_rows, norm_of_sum

#: Layers that keep nothing of a token compute only the rows that are wanted, if they are so many times fewer than all.
FEW = 4


class Decoder:
    """A causal language model: tokens in, hidden states and logits out. Weights are filled by `weights.loader`.

    As a stage of a pipeline (`as_stage`) it has the layers `first` to `first + len(layers)`. The first stage has the embedding and what
    belongs to it, the last one the final norm and the head; a tied weight is on both. What it does not have is known by name and shape.
    """

    def __init__(self, stack: StackSpec, ops: Ops) -> None:
        names, hidden = stack.names, stack.hidden_size
        self.stack = stack
        self.ops = ops
        self.vocab_size, self.hidden_size = stack.vocab_size, stack.output_size
        self.ropes = Ropes()
        self.embedding = Embedding(names.words, stack.vocab_size, stack.embedding_size or hidden)
        self.projection = self.output_projection = None
        if stack.embedding_size is not None:
            size = stack.embedding_size
            self.projection = Linear(ops, [names.embedding_projection], size, [hidden], bias=not stack.projects_back)
            if stack.projects_back:
                self.output_projection = Linear(ops, [names.output_projection], hidden, [size], bias=False)
        self.positions: Embedding | Sinusoids | None = None
        if stack.sinusoids:
            self.positions = Sinusoids(stack.num_positions, hidden, stack.sinusoids)
        elif stack.num_positions:
            self.positions = Embedding(names.positions, stack.num_positions, hidden)
        self.distances = distances_of(stack)
        self.embedding_norm = Norm(ops, names.embedding_norm, hidden, stack.norm) if names.embedding_norm else None
        self.per_layer = PerLayerVectors(ops, stack, stack.per_layer) if stack.per_layer is not None else None
        layers = [DecoderLayer(ops, stack, index, self.ropes) for index in range(len(stack.layers))]
        self.visit: Callable[[Sequence[DecoderLayer]], Iterable[DecoderLayer]] = iter
        """Gives the layers one by one: each may be used until the next is asked for."""
        self.norm = Norm(ops, names.final_norm, hidden, stack.norm) if names.final_norm else None
        # A tied weight is held twice, plain to look up and packed to multiply by.
        head = names.words if stack.tie_embeddings else names.head
        self.group = current()
        cuts, method = shared_out(stack.vocab_size), chosen(ops, HEAD)
        self.head = Linear(ops, [head], stack.output_size, [stack.vocab_size], bias=False, cuts=cuts, method=method)
        self.head_bias = Parameter((f"{names.head}.bias", (stack.vocab_size,)), dtype=torch.float32) if stack.head_bias else None
        if stack.logits_bias:
            self.head_bias = Parameter((names.logits_bias, (1, stack.vocab_size)), dtype=torch.float32)
        self.stage = current_stage()
        span = layers_of(self.stage, stack, [_elements(layer) for layer in layers], _elements(self.head))
        self.layers, self.first = layers[span.start : span.stop], span.start
        self._all_layers = layers if self.stage.count > 1 else self.layers
        self._tell_held()
        self._prepared = False

    def _tell_held(self) -> None:
        """Tells parameters of other stages that they are not held here."""
        entry = (self.embedding, self.positions, self.embedding_norm, self.per_layer, self.projection)
        others = [*(entry if not self.stage.is_first else ()), *(layer for layer in self._all_layers if layer not in self.layers)]
        if not self.stage.is_last:
            others += [self.output_projection, self.norm, self.head]
            if self.head_bias is not None:
                self.head_bias.held = False
        for part in others:
            for parameter in part.parameters() if part is not None else ():
                parameter.held = False

    @property
    def caches(self) -> tuple[KVSpec, ...]:
        """The KV cache entries that this rank keeps of a token: one for each layer that does not read another's."""
        shared = self.stack.shared_layers
        attending = [(index, layer.attention) for index, layer in enumerate(self.layers, self.first) if layer.attention is not None]
        own = [(index, one.cache) for index, one in attending if one.spec.reads is None]
        return tuple(replace(cache, layer=index if index in shared else None) for index, cache in own)

    @property
    def states(self) -> tuple[tuple[StateSpec, ...], ...]:
        """What this rank keeps of a sequence, for each layer that keeps states."""
        return tuple(layer.mixer.states for layer in self.layers if layer.mixer is not None)

    def allocate(self, num_positions: int, device: torch.device) -> None:
        """Prepares for sequences of so many tokens."""
        self._prepared = False
        self.ropes.allocate(num_positions, device)
        for layer in self.layers:
            if layer.attention is not None:
                layer.attention.move(device)
        if self.distances is not None:
            made = self.distances.causal(num_positions, device)
            for index, layer in enumerate(self.layers, self.first):
                assert isinstance(layer.attention, Attention), "distances are of plain attention"
                layer.attention.config = replace(layer.attention.config, distances=made[index] if isinstance(made, list) else made)

    def parameters(self) -> Iterator[Parameter]:
        """Those of all stages; see `Parameter.held`."""
        yield from self.body_parameters()
        yield from self.head.parameters()
        if self.head_bias is not None:
            yield self.head_bias

    def body_parameters(self) -> Iterator[Parameter]:
        """All but the head's: what hidden states need."""
        ends = (self.projection, self.output_projection, self.norm)
        for part in (self.embedding, self.positions, self.distances, self.embedding_norm, self.per_layer, *self._all_layers, *ends):
            if part is not None:
                yield from part.parameters()

    def linears(self) -> Iterator[Linear]:
        """Every linear layer but the head. Each may be used until the next is asked for."""
        entry = (self.projection, None if self.per_layer is None else self.per_layer.projection) if self.stage.is_first else ()
        for linear in (*entry, self.output_projection if self.stage.is_last else None):
            if linear is not None:
                yield linear
        for layer in self.visit(self.layers):
            yield from layer.linears()

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        caches: list[KVCache],
        meta: AttentionMeta,
        rows: Tensor | None = None,
        pools: Sequence[Pools] = (),
        given: GivenEmbeds | None = None,
    ) -> Tensor:
        """Hidden states [R, hidden_size] after the last layer and the final norm, of a model that is all stages in one.

        Args:
            tokens, positions: int64 [N], N a multiple of ROW_MULTIPLE unless the model `takes_any_rows`; positions may be [3, N], in time,
                height and width.
            caches: one for each of `self.caches`; the step's keys and values are stored in them.
            rows: int64 [R], the rows that are wanted, R like N; None is all. The last layer
                computes no others.
            pools: one for each of `self.states`.
            given: embeddings of some tokens, whose ids say nothing.
        """
        hidden = self.through(None, tokens, positions, caches, meta, rows, pools, given)
        return self.normed(hidden, meta, rows)

    def normed(self, hidden: Hidden, meta: AttentionMeta, rows: Tensor | None = None) -> Tensor:
        """What `forward` gives, of what the last stage makes of the same step."""
        found, _ = norm_of_sum(self.norm, *hidden, quantize=False)
        return unscaled(
            found if self.output_projection is None else self._projected(self.output_projection, found, adapter_rows(meta, rows))
        )

    def through(
        self,
        hidden: Hidden | None,
        tokens: Tensor,
        positions: Tensor,
        caches: list[KVCache],
        meta: AttentionMeta,
        rows: Tensor | None = None,
        pools: Sequence[Pools] = (),
        given: GivenEmbeds | None = None,
    ) -> Hidden:
        """A step through this stage's layers: hidden states of all rows, or after the last stage of `rows`.

        Args:
            hidden: what the stage before gives; None: there is none. May be overwritten.

        For the others see `forward`.
        """
        plans: dict[tuple[int, int, int | None], Any] = {}
        metas: dict[int | None, AttentionMeta] = {None: meta}
        x, residual = (None, self.embedded(tokens, positions, given, meta.adapters)) if hidden is None else hidden
        if not self._prepared:
            self._prepare(residual.dtype)
        vectors = None if self.per_layer is None else self.per_layer(tokens, residual)
        of_layers, last = self._memory(caches, pools), len(self.stack.layers) - 1
        few = rows is not None and len(rows) * FEW <= len(tokens)
        for index, (layer, memory) in enumerate(zip(self.visit(self.layers), of_layers, strict=True), self.first):
            if few and index == self.stack.first_reader and rows is not None:  # nothing of other rows is read any more
                meta, (plans, metas) = narrowed(meta, positions, rows), ({}, {})
                residual, positions = residual[rows], positions[rows]
                x, vectors = None if x is None else chosen_rows(x, rows), None if vectors is None else vectors[rows]
                rows = None
            if not len(residual):
                continue
            seen = meta
            if layer.attention is not None:
                config, chunk = layer.attention.config, layer.attention.spec.chunk
                if chunk not in metas:
                    metas[chunk] = meta if chunk is None else chunked(meta, chunk)
                seen, kind = metas[chunk], (config.num_heads, config.num_kv_heads, chunk)
                if kind not in plans:
                    plans[kind] = self.ops.plan_attention(seen, config.num_heads, config.num_kv_heads)
                seen.plan = plans[kind]
            own = None if vectors is None else vectors[:, index]
            x, residual = layer(x, residual, positions, memory, seen, rows if index == last else None, own)
            if given is not None and index < last:
                given.add_after(index, residual)
        return Hidden(x, residual)

    def _prepare(self, dtype: torch.dtype) -> None:
        if self.visit is iter:  # else weights come and go
            for layer in self.layers:
                layer.prepare(dtype)
        self._prepared = True

    def _memory(self, caches: list[KVCache], pools: Sequence[Pools]) -> list[LayerMemory]:
        """What each layer reads and writes of earlier tokens."""
        left, places = iter(pools), self.stack.cache_places[self.first : self.first + len(self.layers)]
        before = min((place for place in places if place is not None), default=0)  # of earlier stages
        return [
            LayerMemory(None if place is None else caches[place - before], () if layer.mixer is None else next(left))
            for layer, place in zip(self.layers, places, strict=True)
        ]

    def _projected(self, linear: Linear, x: Rows, adapters: AdapterRows | None) -> Tensor:
        assert isinstance(x, Tensor), "asked for without quantization"
        return unscaled(linear(self.ops.quantize(x) if linear.method.quantizes_input else x, adapters))

    def embedded(self, tokens: Tensor, positions: Tensor, given: GivenEmbeds | None = None, adapters: AdapterRows | None = None) -> Tensor:
        words = self.embedding(tokens, adapters)
        if given is not None and self.stack.scales_given:
            given.put(words)
        if self.stack.embedding_scale != 1:  # rounded to the model's dtype first, as the model was trained
            words *= torch.tensor(self.stack.embedding_scale, dtype=words.dtype)
        if given is not None and not self.stack.scales_given:
            given.put(words)
        if self.projection is not None:
            words = self._projected(self.projection, words, adapters)
        if self.positions is not None:
            words.add_(self.positions(positions + self.stack.first_position))
        return words if self.embedding_norm is None else unscaled(self.embedding_norm(words))

    def logits(self, hidden: Tensor, adapters: AdapterRows | None = None) -> Tensor:
        """Logits [R, vocab_size], in the model's dtype, of hidden states [R, hidden_size]; R like N of `forward`.

        Where ranks share the model, rank 0 gets them; what the others get means nothing.
        """
        logits = self.group.gather(unscaled(self.head(hidden, adapters)))[:, : self.vocab_size]
        if self.head_bias is not None and self.group.rank == 0:
            logits = (logits.float() + self.head_bias.tensor).to(logits.dtype)
        if self.stack.logits_scale != 1:
            logits = logits * self.stack.logits_scale
        cap = self.stack.logits_soft_cap
        return logits if cap is None else logits.float().div_(cap).tanh_().mul_(cap).to(logits.dtype)


def _elements(part: DecoderLayer | Linear) -> int:
    """Numbers in its weights, on all ranks together."""
    return sum(math.prod(one.shape) for parameter in part.parameters() for one in parameter.parts)
