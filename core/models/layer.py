"""The parts of a layer but its attention, as the spec names them. In which order they run, decoders and encoders say."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import Ops, Rows

from ..layers.attention import Attention, SegmentAttention
from ..layers.latent_attention import LatentAttention
from ..layers.linear import Linear
from ..layers.mixers import mixer_of
from ..layers.mlp import MLP
from ..layers.moe import Experts
from ..layers.norm import Norm
from ..spec.stack import ExpertsSpec, StackSpec
from ..weights.parameter import Parameter


class Layer:
    """Layer `index` of a stack: norms (where they have a name), attention, what keeps states, and feed-forward part."""

    attention: Attention | LatentAttention | SegmentAttention | None

    def __init__(self, ops: Ops, stack: StackSpec, index: int) -> None:
        names, layer, prefix = stack.names, stack.layers[index], stack.names.layer.format(index)
        spec = layer.feed_forward
        self.mixes = layer.attention is not None or layer.mixer is not None
        """It has a part that looks at other tokens."""

        def norm(name: str, is_there: bool) -> Norm | None:
            return Norm(ops, f"{prefix}.{name}", stack.hidden_size, stack.norm) if name and is_there else None

        self.ops = ops
        self.attention_norm = norm(names.attention_norm, self.mixes)
        self.attention_out_norm = norm(names.attention_out_norm, self.mixes)
        self.mlp_norm = norm(names.mlp_norm, spec is not None)
        self.mlp_out_norm = norm(names.mlp_out_norm, spec is not None)
        self.mixer = None
        if layer.mixer is not None:
            self.mixer = mixer_of(ops, f"{prefix}.{names.mixer}", stack.hidden_size, layer.mixer)
        self.mlp: MLP | Experts | None = None
        if isinstance(spec, ExpertsSpec):
            self.mlp = Experts(ops, prefix, names, stack.hidden_size, spec)
        elif spec is not None:
            up, learned = [f"{prefix}.{up}" for up in names.up], f"{prefix}.{names.activation}"
            self.mlp = MLP(ops, up, f"{prefix}.{names.down}", stack.hidden_size, spec, learned=learned)

    def post_norm(self, attended: Rows, residual: Tensor, adapters: AdapterRows | None, norm: Norm | None = None) -> Tensor:
        """norm(y + mlp(y)) of y = norm(residual + attended). `norm`: the first one, where it is not the one behind attention."""
        norm = norm or self.attention_norm
        assert norm is not None, "post-norm"
        normed, _ = norm.add(attended, residual)
        assert isinstance(normed, Tensor), "asked for without quantization"
        assert self.mlp is not None, "post-norm"
        read = self.ops.quantize(normed) if self.mlp.quantizes_input else normed
        assert self.mlp_norm is not None, "post-norm"
        normed, _ = self.mlp_norm.add(self.mlp(read, adapters), normed)
        assert isinstance(normed, Tensor), "asked for without quantization"
        return normed

    def linears(self) -> Iterator[Linear]:
        for part in (self.attention, self.mixer, self.mlp):
            if part is not None:
                yield from part.linears()

    def parameters(self) -> Iterator[Parameter]:
        mixing = (self.attention_norm, self.attention, self.mixer, self.attention_out_norm)
        for part in (*mixing, self.mlp_norm, self.mlp, self.mlp_out_norm):
            if part is not None:
                yield from part.parameters()
