"""The bidirectional stack that BERT, its descendants and EmbeddingGemma share; an architecture says only where it differs.

Two orders there are. Post-norm (BERT): x = norm(x + attention(x)), then x = norm(x + mlp(x)). Pre-norm (ModernBERT):
x + attention(norm(x)), then x + mlp(norm(x)), and a norm at the end; where there are norms of what is added, they come before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import Ops, PairBias, Rows, Segments

from ..errors import ModelError
from ..layers.attention import SegmentAttention
from ..layers.classifier import Classifier
from ..layers.embedding import Embedding
from ..layers.linear import Linear
from ..layers.mlp import MLP
from ..layers.moe import Experts
from ..layers.norm import Norm
from ..layers.relative import Relative, relative_of
from ..layers.rope import Ropes
from ..layers.sinusoids import Sinusoids
from ..quant.base import unscaled
from ..spec.stack import StackSpec
from ..weights.parameter import Parameter
from .layer import Layer


class EncoderEmbedding:
    """norm(word + learned position + token type), of which the last two are not in every model, projected to the layers' features."""

    def __init__(self, ops: Ops, stack: StackSpec) -> None:
        names, size = stack.names, stack.embedding_size or stack.hidden_size
        self.words = Embedding(names.words, stack.vocab_size, size)
        self.positions: Embedding | Sinusoids | None = None
        if stack.sinusoids:
            self.positions = Sinusoids(stack.num_positions, size, stack.sinusoids)
        elif stack.num_positions:
            self.positions = Embedding(names.positions, stack.num_positions, size)
        self.types = Embedding(names.types, stack.num_token_types, size) if stack.num_token_types else None
        self.norm = Norm(ops, names.embedding_norm, size, stack.norm) if names.embedding_norm else None
        self.scale = stack.embedding_scale
        self.projection = None
        if stack.embedding_size is not None:
            self.projection = Linear(ops, [names.embedding_projection], size, [stack.hidden_size], bias=True)
        self.padding_token, self.offset = stack.padding_token, stack.position_offset
        self.num_types = stack.num_token_types

    def __call__(self, tokens: Tensor, positions: Tensor, types: Tensor | None, adapters: AdapterRows | None = None) -> Tensor:
        """Of int64 [N] each -> [N, size]. `types` None is all 0."""
        words = self.words(tokens, adapters)
        if self.scale != 1:  # rounded to the model's dtype first, as the model was trained
            words *= torch.tensor(self.scale, dtype=words.dtype)
        more = None
        if self.positions is not None:
            counted = positions + self.offset if self.padding_token is None else _counted(tokens, positions, self.padding_token)
            more = self.positions(counted)
        if self.types is not None:
            of_types = self.types.weight.tensor[:1].expand_as(words) if types is None or self.num_types == 1 else self.types(types)
            more = of_types.contiguous() if more is None else more.add_(of_types)
        if self.norm is None:
            normed: Rows = words if more is None else words.add_(more)
        else:
            normed = self.norm(words) if more is None else self.norm.add(words, more)[0]
        return unscaled(normed if self.projection is None else self.projection(normed, adapters))

    def linears(self) -> Iterator[Linear]:
        if self.projection is not None:
            yield self.projection

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.words, self.positions, self.types, self.norm, self.projection):
            if part is not None:
                yield from part.parameters()


def _counted(tokens: Tensor, positions: Tensor, padding: int) -> Tensor:
    """Positions int64 [N] as transformers' RoBERTa counts: `padding` at each padding token, and from there on at the others."""
    is_padding = tokens == padding
    before = is_padding.cumsum(0) - is_padding.long()
    first = torch.arange(len(tokens), device=tokens.device) - positions  # the row a row's text begins at
    return torch.where(is_padding, padding, positions + (padding + 1) - (before - before[first]))


class EncoderLayer(Layer):
    """One layer, in either order. What it gives is two: what is still to be added (post-norm: None), and what to add it to.

    `rows` int64 [R]: the only rows that are wanted of this layer.
    """

    attention: SegmentAttention
    mlp: MLP | Experts

    def __init__(self, ops: Ops, stack: StackSpec, index: int, ropes: Ropes, relative: Relative | None = None) -> None:
        super().__init__(ops, stack, index)
        spec, self.pre_norm = stack.layers[index].need_attention(), stack.pre_norm
        prefix = stack.names.layer.format(index)
        self.attention = SegmentAttention(ops, prefix, stack.names, stack.hidden_size, spec, ropes.of(spec.rope), relative)
        if stack.first_is_normed and not index:
            self.attention_norm = None

    def __call__(
        self, x: Rows | None, residual: Tensor, positions: Tensor, segments: Segments, rows: Tensor | None
    ) -> tuple[Rows | None, Tensor]:
        if self.pre_norm:
            return self._pre_norm(x, residual, positions, segments, rows)
        x = self.attention(residual, positions, segments, rows)
        if rows is not None:
            residual = residual.index_select(0, rows)
        return None, self.post_norm(x, residual, _of(segments.adapters, rows))

    def _pre_norm(
        self, x: Rows | None, residual: Tensor, positions: Tensor, segments: Segments, rows: Tensor | None
    ) -> tuple[Rows, Tensor]:
        normed: Rows = residual
        if self.attention_norm is not None:
            normed, residual = self.attention_norm.add(x, residual, quantize=self.attention.qkv.method.quantizes_input)
        x = self.attention(normed, positions, segments, rows)
        if self.attention_out_norm is not None:
            x = self.attention_out_norm(x)
        if rows is not None:
            residual = residual.index_select(0, rows)
        assert self.mlp_norm is not None, "every encoder has one"
        normed, residual = self.mlp_norm.add(x, residual, quantize=self.mlp.quantizes_input)
        x = self.mlp(normed, _of(segments.adapters, rows))
        return x if self.mlp_out_norm is None else self.mlp_out_norm(x), residual


def _of(adapters: AdapterRows | None, rows: Tensor | None) -> AdapterRows | None:
    """Those of the rows that are wanted, where not all are."""
    return adapters if adapters is None or rows is None else adapters.chosen


def causal_table(num_positions: int, device: torch.device) -> PairBias:
    """By distance: 0 to a token itself and those before it, and what makes those behind it unseen. Of one text, whose place all have."""
    values = torch.zeros(2 * num_positions - 1, device=device)
    values[num_positions:] = torch.finfo(torch.float32).min
    return PairBias(values, torch.tensor([[num_positions - 1, 0, -1]], device=device))


class Encoder:
    """A PoolingModel of our own. Weights are filled by `weights.loader`, under the names without a prefix.

    Args:
        labels: of the classifier that scores a pooled text; 0: without.
    """

    def __init__(self, stack: StackSpec, ops: Ops, *, labels: int = 0) -> None:
        self.stack = stack
        self.ops = ops
        self.hidden_size, self.vocab_size = stack.hidden_size, stack.vocab_size
        self.num_token_types = stack.num_token_types
        self._head = None
        if labels:
            if stack.classifier is None:
                raise ModelError("a classifier with this model's layers is not supported where tokens see each other in both directions")
            self._head = Classifier(ops, stack.hidden_size, labels, stack.classifier, stack.norm)
        self.classifier: Callable[[Tensor], Tensor] | None = self._head
        self.ropes = Ropes()
        self.embedding = EncoderEmbedding(ops, stack)
        self.relative = shared = relative_of(ops, stack)
        self._causal: PairBias | None = None
        self.layers = [
            EncoderLayer(ops, stack, index, self.ropes, None if shared is None else shared.of_layer(index))
            for index in range(len(stack.layers))
        ]
        self.final_norm = Norm(ops, stack.names.final_norm, stack.hidden_size, stack.norm) if stack.names.final_norm else None

    @torch.inference_mode()
    def allocate(self, num_positions: int, device: torch.device) -> None:
        """Prepares for texts of so many tokens, once weights are there."""
        self.ropes.allocate(num_positions, device)
        if self.stack.causal:
            self._causal = causal_table(num_positions, device)
        if self.relative is not None:
            self.relative.allocate(num_positions, device)
        for layer in self.layers:
            layer.attention.allocate(device)

    def linears(self) -> Iterator[Linear]:
        yield from self.embedding.linears()
        for layer in self.layers:
            yield from layer.linears()

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.embedding, self.relative, *self.layers, self.final_norm, self._head):
            if part is not None:
                yield from part.parameters()

    def beside(self) -> Encoder | None:
        """Itself: nothing of a batch is kept."""
        return self

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None, segments: Segments, rows: Tensor | None = None) -> Tensor:
        """See `PoolingModel.forward`; the last layer computes no rows that are not wanted."""
        attention = self.layers[0].attention.config
        segments.plan = self.ops.plan_segments(segments, attention.num_heads, attention.num_kv_heads)
        if self._causal is not None:
            segments.unseen = PairBias(self._causal.values, self._causal.places.expand(len(segments.starts) - 1, 3).contiguous())
        x: Rows | None = None
        residual = self.embedding(tokens, positions, types, segments.adapters)
        passes = self.stack.passes or range(len(self.layers))
        for number, index in enumerate(passes, 1):
            x, residual = self.layers[index](x, residual, positions, segments, rows if number == len(passes) else None)
        if self.final_norm is None:
            return residual
        hidden, _ = self.final_norm.add(x, residual)
        assert isinstance(hidden, Tensor), "asked for without quantization"
        return hidden
