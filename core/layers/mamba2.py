"""Mamba-2: a convolution and a scan of heads whose state decays as a whole, see `spec.mamba.Mamba2Spec`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows
from infer.kernels.state import Mamba2Scan, States

from ..parallel.group import current
from ..parallel.sizes import kv_share, share
from ..quant.base import scaled, unscaled
from ..spec.mamba import Mamba2Spec
from ..spec.mixers import StateSpec
from ..weights.cut import Cut
from ..weights.parameter import Parameter
from .linear import Linear, shared_in
from .short_conv import ShortConvolution


class Mamba2:
    """Ranks share the heads, and hold the groups of theirs."""

    def __init__(self, ops: Ops, prefix: str, hidden_size: int, spec: Mamba2Spec) -> None:
        self._ops, self._spec, self._group = ops, spec, current()
        group = self._group
        heads = share(spec.num_heads, group.size)
        first_group, groups = kv_share(spec.num_groups, group.rank, group.size)
        self._size, self._of_groups = heads * spec.head_dim, groups * spec.state_size
        of_heads = Cut(0, group.rank * heads, (group.rank + 1) * heads)
        features = Cut(0, group.rank * self._size, (group.rank + 1) * self._size)
        of_groups = Cut(0, first_group * spec.state_size, first_group * spec.state_size + self._of_groups)
        alone = group.size == 1
        self._made = Linear(
            ops,
            [f"{prefix}.{name}" for name in spec.pieces],
            hidden_size,
            list(spec.pieces.values()),
            bias=spec.bias,
            cuts=None if alone else [features, features, of_groups, of_groups, of_heads],
        )
        b, c = (Cut(0, start + of_groups.start, start + of_groups.stop) for start in (spec.size, spec.size + spec.of_groups))
        self._convolution = ShortConvolution(
            ops,
            f"{prefix}.conv1d",
            spec.size + 2 * spec.of_groups,
            spec.width,
            bias=spec.conv_bias,
            cuts=None if alone else [features, b, c],
            activation="silu",
        )
        self._heads, self._groups = heads, groups
        self._numbers: dict[str, Tensor] = {}
        self._learned = [
            Parameter(
                (f"{prefix}.{name}", (spec.num_heads,)),
                cuts=None if alone else [of_heads],
                dtype=torch.float32,
                store=partial(self._store, field),
            )
            for name, field in (("A_log", "rate"), ("D", "skip"), ("dt_bias", "bias"))
        ]
        self._norm = None
        if spec.norm_eps is not None:
            self._norm = Parameter((f"{prefix}.norm.weight", (spec.size,)), cuts=None if alone else [features])
        self._out = Linear(ops, [f"{prefix}.out_proj"], spec.size, [hidden_size], bias=spec.out_bias, cuts=shared_in(spec.size))
        self._factors = torch.empty(0)
        self.states: tuple[StateSpec, ...] = (
            self._convolution.state,
            StateSpec((heads, spec.state_size, spec.head_dim), is_wide=True),
        )

    def _store(self, field: str, learned: Tensor) -> None:
        self._numbers[field] = -torch.exp(learned) if field == "rate" else learned

    @property
    def _scan(self) -> Mamba2Scan:
        spec, numbers = self._spec, self._numbers
        shape = (self._heads, self._groups, spec.head_dim, spec.state_size)
        return Mamba2Scan(*shape, numbers["rate"], numbers["skip"], numbers["bias"], *spec.times)

    @property
    def quantizes_input(self) -> bool:
        """See `LinearMethod.quantizes_input`."""
        return self._made.method.quantizes_input

    def __call__(self, x: Rows, pools: Sequence[Tensor], states: States, rows: Tensor | None = None) -> Rows:
        """See `Mixer`."""
        made = self._multiplied(self._made.plain(x))
        gate, xbc, times = made.split([self._size, self._size + 2 * self._of_groups, self._heads], dim=1)
        xbc = self._convolution(xbc, pools[0], states)
        scanned = self._ops.mamba2_scan(xbc, times, self._scan, pools[1], states)
        if rows is not None:
            scanned, gate = scanned[rows], gate[rows]
        return scaled(self._out(self._gated(scanned, gate)), self._spec.out_scale)

    def _gated(self, x: Tensor, gate: Tensor) -> Rows:
        spec, quantize = self._spec, self._out.method.quantizes_input
        first, eps = spec.gate_first, spec.norm_eps or 0.0
        if self._norm is None:
            return self._ops.gated_rms_norm(x, gate, None, eps, self._size, gate_first=first, quantize=quantize)
        weight = self._norm.tensor
        if (of_group := spec.size // spec.num_groups) <= self._size:
            return self._ops.gated_rms_norm(x, gate, weight, eps, of_group, gate_first=first, quantize=quantize)
        # One group for all: every rank has the squares of its own features.
        if first:
            x = unscaled(self._ops.gated_rms_norm(x, gate, None, eps, self._size, gate_first=True))
        squares = self._group.all_reduce(x.float().square().sum(-1, keepdim=True)) / spec.size
        normed = (x.float() * torch.rsqrt(squares + eps) * weight.float()).to(x.dtype)
        if first:
            return normed
        return self._ops.gated_rms_norm(normed, gate, None, eps, self._size, gate_first=False, quantize=quantize)

    def _multiplied(self, made: Tensor) -> Tensor:
        if not self._spec.factors:
            return made
        if not len(self._factors):
            sizes = torch.tensor([self._size, self._size, self._of_groups, self._of_groups, self._heads])
            self._factors = torch.tensor(self._spec.factors).repeat_interleave(sizes).to(made)
        return made.mul_(self._factors)

    def linears(self) -> Iterator[Linear]:
        yield from (self._made, self._out)

    def parameters(self) -> Iterator[Parameter]:
        for linear in self.linears():
            yield from linear.parameters()
        yield from self._convolution.parameters()
        yield from self._learned
        if self._norm is not None:
            yield self._norm
