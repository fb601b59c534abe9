"""Short causal convolutions: the one that layers of several kinds begin with, and LFM2's, which is gated by the token on either side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows
from infer.kernels.state import States

from ..parallel.group import current
from ..parallel.sizes import share
from ..spec.mixers import ShortConvSpec, StateSpec, window
from ..weights.cut import Cut
from ..weights.parameter import Parameter
from .linear import Linear, shared_in, shared_out


class ShortConvolution:
    """A convolution of each channel by itself over its last inputs, see `StateOps.short_convolution`.

    Args:
        name: checkpoint prefix of its weight [size, 1, width] and bias.
        cuts: what this rank holds of it, piece after piece; None is all.
        activation: of what it gives.
    """

    def __init__(
        self, ops: Ops, name: str, size: int, width: int, *, bias: bool, cuts: Sequence[Cut] | None = None, activation: str | None = None
    ) -> None:
        self._ops, self._activation = ops, activation
        pieces = 1 if cuts is None else len(cuts)
        self._weight = Parameter(*[(f"{name}.weight", (size, 1, width))] * pieces, cuts=cuts, dtype=torch.float32, store=self._store)
        self._bias = None
        if bias:
            self._bias = Parameter(*[(f"{name}.bias", (size,))] * pieces, cuts=cuts, dtype=torch.float32)
        self._taps = torch.empty(0)
        self.state: StateSpec = window(self._weight.shape[0], width)
        """What this rank keeps of a sequence."""

    def _store(self, weight: Tensor) -> None:
        self._taps = weight[:, 0].T.contiguous()

    def __call__(self, x: Tensor, state: Tensor, states: States) -> Tensor:
        """[N, size] of the same; rows may be strided."""
        bias = None if self._bias is None else self._bias.tensor
        return self._ops.short_convolution(x, self._taps, bias, state, states, self._activation)

    def parameters(self) -> Iterator[Parameter]:
        yield self._weight
        if self._bias is not None:
            yield self._bias


class ShortConv:
    """LFM2's: see `ShortConvSpec`. Ranks share the channels."""

    def __init__(self, ops: Ops, prefix: str, hidden_size: int, spec: ShortConvSpec) -> None:
        size, group = spec.size, current()
        held = share(size, group.size)
        self._made = Linear(
            ops,
            [f"{prefix}.{one}_proj" for one in "bcx"],
            hidden_size,
            [size] * 3,
            bias=spec.bias,
            cuts=shared_out(*[size] * 3),
        )
        cuts = None if group.size == 1 else [Cut(0, group.rank * held, (group.rank + 1) * held)]
        self._convolution = ShortConvolution(ops, f"{prefix}.conv", size, spec.width, bias=spec.bias, cuts=cuts)
        self._out = Linear(ops, [f"{prefix}.out_proj"], size, [hidden_size], bias=spec.bias, cuts=shared_in(size))
        self.states: tuple[StateSpec, ...] = (self._convolution.state,)

    @property
    def quantizes_input(self) -> bool:
        """See `LinearMethod.quantizes_input`."""
        return self._made.method.quantizes_input

    def __call__(self, x: Rows, pools: Sequence[Tensor], states: States, rows: Tensor | None = None) -> Rows:
        """See `Mixer`."""
        b, c, x = self._made.plain(x).chunk(3, dim=1)
        mixed = c * self._convolution(b * x, pools[0], states)
        return self._out(mixed if rows is None else mixed[rows])

    def linears(self) -> Iterator[Linear]:
        yield from (self._made, self._out)

    def parameters(self) -> Iterator[Parameter]:
        yield from self._made.parameters()
        yield from self._convolution.parameters()
        yield from self._out.parameters()
