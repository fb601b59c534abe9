"""Mixers: the parts of a layer that mix a token with those before it by a state of fixed size, beside attention or in its place. No torch.

Each kind says what one sequence keeps of it, what ranks may share, and which tensors the checkpoint has; the code that computes it is in
layers/, and layers/mixers.py says which is whose.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

#: The name of a tensor, and its shape.
Named = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class StateSpec:
    """A tensor that a layer keeps of one sequence, however long it is."""

    shape: tuple[int, ...]
    is_wide: bool = False
    """In float32 whatever the model's dtype is."""

    def num_bytes(self, item_bytes: int) -> int:
        """Its size, with so many for a number in the model's dtype."""
        return math.prod(self.shape) * (4 if self.is_wide else item_bytes)


def window(channels: int, width: int) -> StateSpec:
    """What a convolution of so many taps keeps: its last inputs, see `StateOps.short_convolution`."""
    return StateSpec((width - 1, channels))


class MixerSpec(Protocol):
    @property
    def states(self) -> tuple[StateSpec, ...]:
        """What one sequence keeps, over all ranks."""

    @property
    def shared(self) -> int:
        """Things that ranks divide evenly: channels, or heads, or groups of them; 1: ranks cannot share it."""

    def tensors(self, prefix: str, hidden_size: int) -> Iterator[Named]:
        """As of `tensors.tensors`; `prefix` is `Names.mixer` of its layer."""

    def shared_inputs(self, prefix: str) -> Iterator[tuple[str, int]]:
        """As of `tensors.shared_inputs`."""


@dataclass(frozen=True, kw_only=True)
class ShortConvSpec:
    """LFM2's: out(c * convolution(b * x)) of b, c and x that are all made of the token."""

    size: int
    """Channels, which are the model's features."""
    width: int
    """Taps."""
    bias: bool = False

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return (window(self.size, self.width),)

    @property
    def shared(self) -> int:
        return self.size

    def tensors(self, prefix: str, hidden_size: int) -> Iterator[Named]:
        layers = {"b_proj": self.size, "c_proj": self.size, "x_proj": self.size, "out_proj": hidden_size}
        for name, size in layers.items():
            yield f"{prefix}.{name}.weight", (size, self.size if name == "out_proj" else hidden_size)
            if self.bias:
                yield f"{prefix}.{name}.bias", (size,)
        yield f"{prefix}.conv.weight", (self.size, 1, self.width)
        if self.bias:
            yield f"{prefix}.conv.bias", (self.size,)

    def shared_inputs(self, prefix: str) -> Iterator[tuple[str, int]]:
        yield f"{prefix}.out_proj.weight", self.size
