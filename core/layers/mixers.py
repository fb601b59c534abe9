"""Mixers: the code of each kind of layer part that keeps states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows
from infer.kernels.state import States

from ..spec.delta import DeltaSpec
from ..spec.mamba import Mamba2Spec, MambaSpec
from ..spec.mixers import MixerSpec, ShortConvSpec, StateSpec
from ..weights.parameter import Parameter
from .delta import GatedDelta
from .linear import Linear
from .mamba import Mamba
from .mamba2 import Mamba2
from .short_conv import ShortConv


class Mixer(Protocol):
    """A layer part that keeps states: hidden [N, size] -> [N, size]."""

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """What this rank keeps of a sequence."""

    @property
    def quantizes_input(self) -> bool:
        """See `LinearMethod.quantizes_input`."""

    def __call__(self, x: Rows, pools: Sequence[Tensor], states: States, rows: Tensor | None = None) -> Rows:
        """Goes on with the sequences of a step.

        Args:
            pools: [slots, ...] for each of its states.
            rows: int64 [R]: the token rows whose result is wanted, [R, size]; None is all.
        """

    def linears(self) -> Iterator[Linear]: ...

    def parameters(self) -> Iterator[Parameter]: ...


_KINDS: dict[type[Any], Callable[[Ops, str, int, Any], Mixer]] = {
    ShortConvSpec: ShortConv,
    Mamba2Spec: Mamba2,
    MambaSpec: Mamba,
    DeltaSpec: GatedDelta,
}


def new_pools(layers: Sequence[Sequence[StateSpec]], num_slots: int, dtype: torch.dtype, device: torch.device) -> list[tuple[Tensor, ...]]:
    """[num_slots, ...] for each state of each layer, of any content: sequences begin from zeros by themselves."""
    return [
        tuple(torch.empty((num_slots, *one.shape), dtype=torch.float32 if one.is_wide else dtype, device=device) for one in states)
        for states in layers
    ]


def mixer_of(ops: Ops, prefix: str, hidden_size: int, spec: MixerSpec) -> Mixer:
    """The part that a spec describes, without weights; `prefix` is its checkpoint prefix."""
    return _KINDS[type(spec)](ops, prefix, hidden_size, spec)
