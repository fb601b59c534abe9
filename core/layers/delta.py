"""Gated delta networks: a convolution and a rule that corrects what a head's state recalls of a key, see `spec.delta.DeltaSpec`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows
from infer.kernels.state import DeltaRule, States

from ..parallel.group import current
from ..parallel.sizes import share
from ..quant.plain import Plain
from ..spec.delta import DeltaSpec
from ..spec.mixers import StateSpec
from ..weights.cut import Cut
from ..weights.parameter import Parameter
from .linear import Linear, shared_in, shared_out
from .short_conv import ShortConvolution


class GatedDelta:
    """Ranks share the key heads, and hold the value heads that have them. Gates are never quantized: decay is an exponential of theirs."""

    quantizes_input = False

    def __init__(self, ops: Ops, prefix: str, hidden_size: int, spec: DeltaSpec) -> None:
        self._ops, self._spec, group = ops, spec, current()
        heads, key_heads = share(spec.num_heads, group.size), share(spec.num_key_heads, group.size)
        sizes = list(spec.pieces.values())
        cuts = shared_out(*sizes)
        self._made = Linear(ops, [f"{prefix}.{name}" for name in spec.pieces], hidden_size, sizes, bias=False, cuts=cuts)
        of_heads = shared_out(spec.num_heads, spec.num_heads)
        gates = [f"{prefix}.in_proj_b", f"{prefix}.in_proj_a"]
        self._gates = Linear(ops, gates, hidden_size, [spec.num_heads] * 2, bias=False, cuts=of_heads, method=Plain(ops))
        starts = (0, spec.keys, 2 * spec.keys)
        self._convolution = ShortConvolution(
            ops,
            f"{prefix}.conv1d",
            2 * spec.keys + spec.values,
            spec.width,
            bias=False,
            cuts=None if cuts is None else [Cut(0, at + cut.start, at + cut.stop) for at, cut in zip(starts, cuts, strict=False)],
            activation="silu",
        )
        self._rule = DeltaRule(heads, key_heads, spec.key_dim, spec.value_dim, torch.empty(0), torch.empty(0))
        held = None if of_heads is None else of_heads[:1]
        self._learned = [
            Parameter((f"{prefix}.{name}", (spec.num_heads,)), cuts=held, dtype=torch.float32, store=store)
            for name, store in (("A_log", self._store_rate), ("dt_bias", self._store_bias))
        ]
        self._norm = Parameter((f"{prefix}.norm.weight", (spec.value_dim,)))
        self._out = Linear(ops, [f"{prefix}.out_proj"], spec.values, [hidden_size], bias=False, cuts=shared_in(spec.values))
        state = StateSpec((heads, spec.key_dim, spec.value_dim), is_wide=True)
        self.states: tuple[StateSpec, ...] = (self._convolution.state, state)

    def _store_rate(self, logarithms: Tensor) -> None:
        self._rule = self._rule._replace(rate=-torch.exp(logarithms))

    def _store_bias(self, bias: Tensor) -> None:
        self._rule = self._rule._replace(bias=bias)

    def __call__(self, x: Rows, pools: Sequence[Tensor], states: States, rows: Tensor | None = None) -> Rows:
        """See `Mixer`."""
        assert isinstance(x, Tensor), "asked for without quantization"
        gates, made = self._gates.plain(x), self._made.plain(x)
        qkv = self._convolution(made[:, : self._rule.width], pools[0], states)
        seen, z = self._ops.gated_delta_rule(qkv, gates, self._rule, pools[1], states), made[:, self._rule.width :]
        if rows is not None:
            seen, z = seen[rows], z[rows]
        spec, quantize = self._spec, self._out.method.quantizes_input
        normed = self._ops.gated_rms_norm(seen, z, self._norm.tensor, spec.norm_eps, spec.value_dim, gate_first=False, quantize=quantize)
        return self._out(normed)

    def linears(self) -> Iterator[Linear]:
        yield from (self._made, self._gates, self._out)

    def parameters(self) -> Iterator[Parameter]:
        for linear in self.linears():
            yield from linear.parameters()
        yield from self._convolution.parameters()
        yield from self._learned
        yield self._norm
