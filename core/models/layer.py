"""The parts of a layer beside its attention, as the spec names them. In which order they run, decoders and encoders say."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from infer.kernels.ops import Ops, Rows

from ..layers.attention import Attention, SegmentAttention
from ..layers.latent_attention import LatentAttention
from ..layers.linear import Linear
from ..layers.mlp import MLP
from ..layers.moe import Experts
from ..layers.norm import Norm
from ..spec.stack import ExpertsSpec, StackSpec
from ..weights.parameter import Parameter


class Layer:
    """Layer `index` of a stack: norms (where they have a name), attention and feed-forward part."""

    attention: Attention | LatentAttention | SegmentAttention

    def __init__(self, ops: Ops, stack: StackSpec, index: int) -> None:
        names, spec, prefix = stack.names, stack.layers[index].feed_forward, stack.names.layer.format(index)

        def norm(name: str) -> Norm | None:
            return Norm(ops, f"{prefix}.{name}", stack.hidden_size, stack.norm) if name else None

        self.ops = ops
        self.attention_norm = norm(names.attention_norm)
        self.attention_out_norm = norm(names.attention_out_norm)
        self.mlp_norm = norm(names.mlp_norm)
        self.mlp_out_norm = norm(names.mlp_out_norm)
        self.mlp: MLP | Experts
        if isinstance(spec, ExpertsSpec):
            self.mlp = Experts(ops, prefix, names, stack.hidden_size, spec)
        else:
            up, learned = [f"{prefix}.{up}" for up in names.up], f"{prefix}.{names.activation}"
            self.mlp = MLP(ops, up, f"{prefix}.{names.down}", stack.hidden_size, spec, learned=learned)

    def post_norm(self, attended: Rows, residual: Tensor) -> Tensor:
        """norm(y + mlp(y)) of y = norm(residual + attended)."""
        assert self.attention_norm is not None, "post-norm"
        normed, _ = self.attention_norm.add(attended, residual)
        assert isinstance(normed, Tensor), "asked for without quantization"
        read = self.ops.quantize(normed) if self.mlp.quantizes_input else normed
        assert self.mlp_norm is not None, "post-norm"
        normed, _ = self.mlp_norm.add(self.mlp(read), normed)
        assert isinstance(normed, Tensor), "asked for without quantization"
        return normed

    def linears(self) -> Iterator[Linear]:
        yield from self.attention.linears()
        yield from self.mlp.linears()

    def parameters(self) -> Iterator[Parameter]:
        parts = (self.attention_norm, self.attention, self.attention_out_norm, self.mlp_norm, self.mlp, self.mlp_out_norm)
        for part in parts:
            if part is not None:
                yield from part.parameters()
