"""Per-layer embeddings: each token's vectors, one for each layer, and what a layer adds by its own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from infer.kernels.ops import Ops

from ..quant.base import unscaled
from ..spec.activations import activation_kind
from ..spec.names import Names
from ..spec.stack import NormSpec, PerLayerSpec, StackSpec
from ..weights.parameter import Parameter
from .embedding import Embedding
from .linear import Linear
from .norm import Norm


class PerLayerVectors:
    """Of tokens int64 [N] and their embeddings [N, hidden_size] -> [N, layers, size]: (norm(projection(x) / sqrt(hidden_size)) +
    words * sqrt(size)) / sqrt(2). Ranks share the table of words; each has the rest whole."""

    def __init__(self, ops: Ops, stack: StackSpec, spec: PerLayerSpec) -> None:
        names, self.count = stack.names, len(stack.layers)
        self.ops, self.size, self.hidden_size = ops, spec.size, stack.hidden_size
        width = self.count * spec.size
        self.words = Embedding(names.per_layer_words, spec.vocab_size, width)
        self.projection = Linear(ops, [names.per_layer_projection], stack.hidden_size, [width], bias=False)
        self.norm = Norm(ops, names.per_layer_norm, spec.size, stack.norm)

    def __call__(self, tokens: Tensor, embedded: Tensor) -> Tensor:
        words = self.words(tokens)
        words *= torch.tensor(self.size**0.5, dtype=words.dtype)  # rounded to the model's dtype first, as of other embeddings
        x = self.ops.quantize(embedded) if self.projection.method.quantizes_input else embedded
        projected = unscaled(self.projection(x)).mul_(self.hidden_size**-0.5)
        normed = unscaled(self.norm(projected.reshape(-1, self.size))).view_as(words)
        return normed.add_(words).mul_(2**-0.5).unflatten(1, (self.count, self.size))

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.words, self.projection, self.norm):
            yield from part.parameters()


class PerLayerGate:
    """What a layer adds in the end, of hidden states x [N, hidden_size] and the layer's vectors [N, size]: see `PerLayerSpec`."""

    def __init__(self, ops: Ops, layer: str, names: Names, hidden_size: int, spec: PerLayerSpec, norm: NormSpec) -> None:
        self.ops, self.kind = ops, activation_kind(spec.activation, gated=True)
        self.gate = Linear(ops, [f"{layer}.{names.per_layer_gate}"], hidden_size, [spec.size], bias=False)
        self.out = Linear(ops, [f"{layer}.{names.per_layer_out}"], spec.size, [hidden_size], bias=False)
        self.norm = Norm(ops, f"{layer}.{names.per_layer_out_norm}", hidden_size, norm)

    def __call__(self, x: Tensor, vectors: Tensor) -> Tensor:
        gate = unscaled(self.gate(self.ops.quantize(x) if self.gate.method.quantizes_input else x))
        gated = self.ops.gated_activation(torch.cat([gate, vectors], dim=1), self.kind, quantize=self.out.method.quantizes_input)
        return unscaled(self.norm(self.out(gated)))

    def linears(self) -> Iterator[Linear]:
        yield from (self.gate, self.out)

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.gate, self.out, self.norm):
            yield from part.parameters()
