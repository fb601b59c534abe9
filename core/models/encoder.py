"""The bidirectional stack that BERT and its descendants share; an architecture says only where it differs.

Two orders there are. Post-norm (BERT): x = norm(x + attention(x)), then x = norm(x + mlp(x)). Pre-norm (ModernBERT):
x + attention(norm(x)), then x + mlp(norm(x)), and a norm at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows, Segments

from ..errors import ModelError
from ..layers.attention import SegmentAttention
from ..layers.classifier import Classifier
from ..layers.embedding import Embedding
from ..layers.linear import Linear
from ..layers.mlp import MLP, GatedMLP
from ..layers.norm import LayerNorm
from ..layers.rope import Rope, RopeConfig
from ..weights.parameter import Parameter
from ..weights.renamed import Naming


@dataclass(frozen=True, kw_only=True)
class Names:
    """Checkpoint prefixes; those of a layer stand behind `layer` with its number in."""

    words: str
    positions: str = ""
    types: str = ""
    embedding_norm: str
    layer: str
    qkv: tuple[str, ...]
    attention_out: str
    attention_norm: str
    up: tuple[str, ...]
    """Of a gated block: gate and up, or one layer that is both, gate first."""
    down: str
    mlp_norm: str
    final_norm: str = ""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What an architecture file fills in, from config.json's names to ours."""

    names: Names
    naming: Naming
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    norm_eps: float
    activation: str
    gated: bool = False
    pre_norm: bool = False
    num_positions: int = 0
    """Rows of the learned position table; 0: there is none."""
    padding_token: int | None = None
    """RoBERTa's: its id is its own position too, text begins at the next one, and where it stands in a text it is not counted."""
    num_token_types: int = 0
    attention_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True
    rope: RopeConfig | None = None
    local_rope: RopeConfig | None = None
    """Of layers with a sliding window, where it is another."""
    sliding_windows: tuple[int | None, ...] = ()
    """One entry a layer, as in AttentionConfig; empty means that all layers see everything."""

    def __post_init__(self) -> None:
        """Raises ModelError for sizes that do not fit each other."""
        if self.hidden_size % self.num_heads:
            raise ModelError(f"config.json: {self.num_heads} attention heads cannot share {self.hidden_size} features")
        if self.max_length is not None and self.max_length < 1:
            raise ModelError(f"config.json: {self.num_positions} positions leave none for text, which starts at {self.first_position}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def first_position(self) -> int:
        """The row of the position table that a text's first token has."""
        return 0 if self.padding_token is None else self.padding_token + 1

    @property
    def max_length(self) -> int | None:
        """The longest text the learned positions are there for; None: any."""
        return self.num_positions - self.first_position if self.num_positions else None


class EncoderEmbedding:
    """norm(word + learned position + token type), of which the last two are not in every model."""

    def __init__(self, ops: Ops, c: EncoderConfig) -> None:
        self.words = Embedding(c.names.words, c.vocab_size, c.hidden_size)
        self.positions = Embedding(c.names.positions, c.num_positions, c.hidden_size) if c.num_positions else None
        self.types = Embedding(c.names.types, c.num_token_types, c.hidden_size) if c.num_token_types else None
        self.norm = LayerNorm(ops, c.names.embedding_norm, c.hidden_size, c.norm_eps, bias=c.norm_bias)
        self.padding_token = c.padding_token
        self.num_types = c.num_token_types

    def __call__(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """Of int64 [N] each -> [N, size]. `types` None is all 0."""
        words = self.words(tokens)
        more = None
        if self.positions is not None:
            more = self.positions(positions if self.padding_token is None else _counted(tokens, positions, self.padding_token))
        if self.types is not None:
            of_types = self.types.weight.tensor[:1].expand_as(words) if types is None or self.num_types == 1 else self.types(types)
            more = of_types.contiguous() if more is None else more.add_(of_types)
        normed = self.norm(words) if more is None else self.norm.add(words, more)[0]
        assert isinstance(normed, Tensor), "asked for without quantization"
        return normed

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.words, self.positions, self.types, self.norm):
            if part is not None:
                yield from part.parameters()


def _counted(tokens: Tensor, positions: Tensor, padding: int) -> Tensor:
    """Positions int64 [N] as transformers' RoBERTa counts: `padding` at each padding token, and from there on at the others."""
    is_padding = tokens == padding
    before = is_padding.cumsum(0) - is_padding.long()
    first = torch.arange(len(tokens), device=tokens.device) - positions  # the row a row's text begins at
    return torch.where(is_padding, padding, positions + (padding + 1) - (before - before[first]))


class EncoderLayer:
    """One layer, in either order. What it gives is two: what is still to be added (post-norm: None), and what to add it to.

    `rows` int64 [R]: the only rows that are wanted of this layer.
    """

    def __init__(self, ops: Ops, c: EncoderConfig, index: int, rope: Rope | None) -> None:
        names, name = c.names, c.names.layer.format(index)
        self.pre_norm = c.pre_norm
        self.attention = SegmentAttention(
            ops,
            [f"{name}.{part}" for part in names.qkv],
            f"{name}.{names.attention_out}",
            c.hidden_size,
            c.num_heads,
            c.head_dim,
            rope,
            bias=c.attention_bias,
            sliding_window=c.sliding_windows[index] if c.sliding_windows else None,
        )
        up, down, sizes = [f"{name}.{part}" for part in names.up], f"{name}.{names.down}", (c.hidden_size, c.intermediate_size)
        self.mlp: MLP | GatedMLP = (
            GatedMLP(ops, up, down, *sizes, c.activation, bias=c.mlp_bias)
            if c.gated
            else MLP(ops, up[0], down, *sizes, c.activation, bias=c.mlp_bias)
        )
        # The embeddings are normed: a pre-norm stack does not do it again.
        has_norm = index > 0 or not c.pre_norm
        norm = (c.hidden_size, c.norm_eps)
        self.attention_norm = LayerNorm(ops, f"{name}.{names.attention_norm}", *norm, bias=c.norm_bias) if has_norm else None
        self.mlp_norm = LayerNorm(ops, f"{name}.{names.mlp_norm}", *norm, bias=c.norm_bias)

    def __call__(
        self, x: Rows | None, residual: Tensor, positions: Tensor, segments: Segments, rows: Tensor | None
    ) -> tuple[Rows | None, Tensor]:
        if self.pre_norm:
            return self._pre_norm(x, residual, positions, segments, rows)
        assert self.attention_norm is not None, "only a pre-norm stack begins without"
        x = self.attention(residual, positions, segments, rows)
        if rows is not None:
            residual = residual.index_select(0, rows)
        normed, _ = self.attention_norm.add(x, residual)
        assert isinstance(normed, Tensor), "asked for without quantization"
        normed, _ = self.mlp_norm.add(self.mlp(normed), normed)
        assert isinstance(normed, Tensor), "asked for without quantization"
        return None, normed

    def _pre_norm(
        self, x: Rows | None, residual: Tensor, positions: Tensor, segments: Segments, rows: Tensor | None
    ) -> tuple[Rows, Tensor]:
        normed: Rows = residual
        if self.attention_norm is not None:
            quantize = self.attention.qkv.quantizes_input
            if x is None:
                normed = self.attention_norm(residual, quantize=quantize)
            else:
                normed, residual = self.attention_norm.add(x, residual, quantize=quantize)
        x = self.attention(normed, positions, segments, rows)
        if rows is not None:
            residual = residual.index_select(0, rows)
        normed, residual = self.mlp_norm.add(x, residual, quantize=self.mlp.quantizes_input)
        return self.mlp(normed), residual

    def linears(self) -> Iterator[Linear]:
        yield from (self.attention.qkv, self.attention.out)
        yield from self.mlp.linears()

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            if part is not None:
                yield from part.parameters()


class Encoder:
    """A PoolingModel of our own. Weights are filled by `weights.loader`, under the names without a prefix.

    Args:
        classifier: what makes scores of a pooled text, where the model is asked for them.
    """

    def __init__(self, config: EncoderConfig, ops: Ops, classifier: Classifier | None) -> None:
        self.config = config
        self.ops = ops
        self.hidden_size = config.hidden_size
        self.vocab_size = config.vocab_size
        self.num_token_types = config.num_token_types
        self.classifier: Callable[[Tensor], Tensor] | None = classifier
        self._head = classifier
        rope = Rope(config.rope) if config.rope is not None else None
        local = Rope(config.local_rope) if config.local_rope is not None else rope
        self._ropes = [one for one in dict.fromkeys((rope, local)) if one is not None]
        self.embedding = EncoderEmbedding(ops, config)
        windows = config.sliding_windows or (None,) * config.num_layers
        self.layers = [EncoderLayer(ops, config, i, rope if window is None else local) for i, window in enumerate(windows)]
        norm = (config.names.final_norm, config.hidden_size, config.norm_eps)
        self.final_norm = LayerNorm(ops, *norm, bias=config.norm_bias) if config.pre_norm else None

    def allocate(self, num_positions: int, device: torch.device) -> None:
        """Prepares for texts of so many tokens."""
        for rope in self._ropes:
            rope.allocate(num_positions, device)

    def linears(self) -> Iterator[Linear]:
        for layer in self.layers:
            yield from layer.linears()

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.embedding, *self.layers, self.final_norm, self._head):
            if part is not None:
                yield from part.parameters()

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None, segments: Segments, rows: Tensor | None = None) -> Tensor:
        """See `PoolingModel.forward`; the last layer computes no rows that are not wanted."""
        segments.plan = self.ops.plan_segments(segments, self.config.num_heads, self.config.num_heads)
        x: Rows | None = None
        residual = self.embedding(tokens, positions, types)
        for layer in self.layers:
            x, residual = layer(x, residual, positions, segments, rows if layer is self.layers[-1] else None)
        if self.final_norm is None:
            return residual
        hidden = self.final_norm(residual) if x is None else self.final_norm.add(x, residual)[0]
        assert isinstance(hidden, Tensor), "asked for without quantization"
        return hidden
