"""Mamba: a convolution and a scan of channels that choose what they keep, see `spec.mamba.MambaSpec`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows
from infer.kernels.state import SelectiveScan, States

from ..parallel.group import current
from ..parallel.sizes import share
from ..quant.base import unscaled
from ..spec.mamba import MambaSpec
from ..spec.mixers import StateSpec
from ..weights.cut import Cut
from ..weights.parameter import Parameter
from .linear import Linear, shared_in, shared_out
from .short_conv import ShortConvolution


class Mamba:
    """Ranks share the channels."""

    def __init__(self, ops: Ops, prefix: str, hidden_size: int, spec: MambaSpec) -> None:
        self._ops, self._spec, group = ops, spec, current()
        size, held = spec.size, share(spec.size, group.size)
        cuts = None if group.size == 1 else [Cut(0, group.rank * held, (group.rank + 1) * held)]
        both = [f"{prefix}.value_proj", f"{prefix}.gate_proj"]
        self._made = Linear(ops, both, hidden_size, [size, size], bias=spec.bias, cuts=shared_out(size, size))
        self._convolution = ShortConvolution(ops, f"{prefix}.conv1d", size, spec.width, bias=spec.conv_bias, cuts=cuts, activation="silu")
        numbers = spec.rank + 2 * spec.state_size
        self._chosen = Linear(ops, [f"{prefix}.x_proj"], size, [numbers], bias=False, cuts=shared_in(size))
        self._times = Linear(ops, [f"{prefix}.dt_proj"], spec.rank, [size], bias=False, cuts=shared_out(size))
        self._out = Linear(ops, [f"{prefix}.out_proj"], size, [hidden_size], bias=spec.bias, cuts=shared_in(size))
        self._scan = SelectiveScan(*[torch.empty(0)] * 3)
        learned = {"A_log": ("rate", (size, spec.state_size)), "D": ("skip", (size,)), "dt_proj.bias": ("bias", (size,))}
        self._learned = [
            Parameter((f"{prefix}.{name}", shape), cuts=cuts, dtype=torch.float32, store=partial(self._store, field))
            for name, (field, shape) in learned.items()
        ]
        self._norms = [Parameter((f"{prefix}.{name}.weight", (count,))) for name, count in spec.norms.items()]
        self.states: tuple[StateSpec, ...] = (self._convolution.state, StateSpec((spec.state_size, held), is_wide=True))

    def _store(self, field: str, learned: Tensor) -> None:
        self._scan = self._scan._replace(**{field: -torch.exp(learned).T.contiguous() if field == "rate" else learned})

    @property
    def quantizes_input(self) -> bool:
        """See `LinearMethod.quantizes_input`."""
        return self._made.method.quantizes_input

    def __call__(self, x: Rows, pools: Sequence[Tensor], states: States, rows: Tensor | None = None) -> Rows:
        """See `Mixer`."""
        value, gate = self._made.plain(x).chunk(2, dim=1)
        value = self._convolution(value, pools[0], states)
        times, bc = self._normed(unscaled(self._chosen(value)))
        scanned = self._ops.selective_scan(value, self._times.plain(times), bc, gate, self._scan, pools[1], states)
        return self._out(scanned if rows is None else scanned[rows])

    def _normed(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers that times are made of [N, rank]; and B and C [N, 2 * state_size]."""
        spec = self._spec
        parts = chosen.split([spec.rank, spec.state_size, spec.state_size], dim=1)
        if spec.norm_eps is None:
            return parts[0].contiguous(), chosen[:, spec.rank :]
        weights = [norm.tensor for norm in self._norms] or [torch.ones_like(part[0]) for part in parts]
        times, b, c = (unscaled(self._ops.rms_norm(part, weight, spec.norm_eps)) for part, weight in zip(parts, weights, strict=True))
        return times, torch.cat([b, c], dim=1)

    def linears(self) -> Iterator[Linear]:
        yield from (self._made, self._chosen, self._times, self._out)

    def parameters(self) -> Iterator[Parameter]:
        for linear in self.linears():
            yield from linear.parameters()
        yield from self._convolution.parameters()
        yield from self._learned
        yield from self._norms
