"""Rotary position embedding: which frequencies, how scaled, as tables of cos and sin. See spec/rope.py for sources."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ModelError
from ..spec.rope import RopeConfig

#: Tables of cos and sin that are larger come of a damaged config.json.
MOST_BYTES = 8 << 30


class Rope:
    """cos and sin tables float32 [positions, rotary_dim / 2], made once for all layers."""

    def __init__(self, config: RopeConfig) -> None:
        self.config = config
        self.cos = self.sin = torch.empty(0)

    @property
    def frequencies(self) -> Tensor:
        """float32 [rotary_dim / 2], radians a position."""
        return _INVERSE_FREQUENCIES[self.config.kind](self.config)[0]

    def allocate(self, num_positions: int, device: torch.device) -> None:
        """Makes the tables. Raises ModelError where they would be larger than any model's."""
        size = num_positions * self.config.rotary_dim * 4
        if size > MOST_BYTES:
            raise ModelError(
                f"config.json: max_position_embeddings: tables of rotation for {num_positions:,} positions would take "
                f"{size / 2**30:,.0f} GiB; set --max-model-len to what is needed"
            )
        frequencies, factor = _INVERSE_FREQUENCIES[self.config.kind](self.config)
        angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
        self.cos = angles.cos().mul_(factor).to(device)
        self.sin = angles.sin_().mul_(factor).to(device)  # in place: tables of long contexts are gigabytes


def _plain(config: RopeConfig) -> Tensor:
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    return 1.0 / (config.theta**exponents)


def _default(config: RopeConfig) -> tuple[Tensor, float]:
    return _plain(config), 1.0


def _linear(config: RopeConfig) -> tuple[Tensor, float]:
    return _plain(config) / config.scaling["factor"], 1.0


def _llama3(config: RopeConfig) -> tuple[Tensor, float]:
    """Long wavelengths are stretched by `factor`, short ones kept, those between interpolated."""
    s = config.scaling
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    frequencies = _plain(config)
    wavelengths = 2 * math.pi / frequencies
    keep = ((config.original / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 - keep) * frequencies / s["factor"] + keep * frequencies, 1.0


def _yarn(config: RopeConfig) -> tuple[Tensor, float]:
    low, high = config.ramp
    ramp = (torch.arange(config.rotary_dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    stretch = ramp.clamp(0, 1)
    frequencies = _plain(config)
    return frequencies / config.factor * stretch + frequencies * (1 - stretch), config.sharpening


_INVERSE_FREQUENCIES: dict[str, Callable[[RopeConfig], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}


class Ropes:
    """One table for each rotation that a model's layers have."""

    def __init__(self) -> None:
        self.all: list[Rope] = []

    def of(self, config: RopeConfig | None) -> Rope | None:
        """The table of a layer; None where it has no rotation."""
        if config is None:
            return None
        for rope in self.all:
            if rope.config == config:
                return rope
        self.all.append(Rope(config))
        return self.all[-1]

    def allocate(self, num_positions: int, device: torch.device) -> None:
        for rope in self.all:
            rope.allocate(num_positions, device)
