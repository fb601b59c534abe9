"""Rotary position embedding: which frequencies, how scaled, as tables of cos and sin. See spec/rope.py for sources."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import ModelError
from ..spec.rope import RopeConfig

log = logging.getLogger(__name__)

#: Tables of cos and sin that are larger come of a damaged config.json.
MOST_BYTES = 8 << 30


class Rope:
    """cos and sin tables float32 [positions, rotary_dim / 2], made once for all layers."""

    def __init__(self, config: RopeConfig) -> None:
        self.config = config
        self.cos = self.sin = torch.empty(0)
        self.query_scale: Tensor | None = None
        """float32 [positions]: what rotated queries are multiplied by, where a model was trained so."""

    @property
    def frequencies(self) -> Tensor:
        """float32 [rotary_dim / 2], radians a position, in short contexts."""
        return _INVERSE_FREQUENCIES[self.config.kind](self.config, 0)[0]

    def of_grid(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [N, rotary_dim / 2] of tokens whose positions int64 [3, N] have three parts, each of which turns some of a head's
        features: the first `mrope_section` ones in time, height and width, or, interleaved, every third."""
        sections = self.config.scaling.get("mrope_section")
        if not sections:
            raise ModelError("config.json: positions of images in three parts need rope_parameters.mrope_section")
        part = torch.zeros(self.config.rotary_dim // 2, dtype=torch.int64, device=grid.device)
        if self.config.scaling.get("mrope_interleaved"):
            for which in (1, 2):
                part[which : sections[which] * 3 : 3] = which
        else:
            part = torch.tensor([i % 3 for i, size in enumerate(sections) for _ in range(size)], device=grid.device)
        places = grid.t()[:, part]  # [N, rotary_dim / 2]
        return self.cos.gather(0, places), self.sin.gather(0, places)

    def allocate(self, num_positions: int, device: torch.device) -> None:
        """Makes the tables. Raises ModelError where they would be larger than any model's.

        Where longer contexts turn by other frequencies than short ones ("dynamic", "longrope"), `num_positions` decides for all texts,
        as in vLLM: what is cached was turned before it was known how long its text would get.
        """
        size = num_positions * self.config.rotary_dim * 4
        if size > MOST_BYTES:
            raise ModelError(
                f"config.json: max_position_embeddings: tables of rotation for {num_positions:,} positions would take "
                f"{size / 2**30:,.0f} GiB; set --max-model-len to what is needed"
            )
        frequencies, factor = _INVERSE_FREQUENCIES[self.config.kind](self.config, num_positions)
        if self.config.kind == "longrope" and num_positions > self.config.original:
            log.warning(
                "rotation for long contexts (longrope): up to %d positions are allowed for, more than the model's own %d; answers to "
                "short prompts are a little better with --max-model-len %d",
                *(num_positions, self.config.original, self.config.original),
            )
        angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
        self.cos = angles.cos().mul_(factor).to(device)
        self.sin = angles.sin_().mul_(factor).to(device)  # in place: tables of long contexts are gigabytes
        if beta := self.config.query_growth:
            # As Llama 4 scales queries: 1 + beta ln(1 + floor(position / original)).
            passed = torch.arange(num_positions, dtype=torch.float32).div_(self.config.original).floor_()
            self.query_scale = passed.log1p_().mul_(beta).add_(1).to(device)


def _plain(config: RopeConfig) -> Tensor:
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    return 1.0 / (config.theta**exponents)


def _default(config: RopeConfig, longest: int) -> tuple[Tensor, float]:
    return _plain(config), 1.0


def _linear(config: RopeConfig, longest: int) -> tuple[Tensor, float]:
    return _plain(config) / config.scaling["factor"], 1.0


def _dynamic(config: RopeConfig, longest: int) -> tuple[Tensor, float]:
    """The base grows with the context beyond the length that the model was trained with."""
    factor, dim = config.scaling["factor"], config.rotary_dim
    growth = factor * max(longest, config.max_position) / config.max_position - (factor - 1)
    return _plain(replace(config, theta=config.theta * growth ** (dim / (dim - 2)))), 1.0


def _longrope(config: RopeConfig, longest: int) -> tuple[Tensor, float]:
    """Each frequency is divided by a number of its own, one for short contexts and one for long ones."""
    key = "long_factor" if longest > config.original else "short_factor"
    return _plain(config) / torch.tensor(config.scaling[key], dtype=torch.float32), config.sharpening


def _proportional(config: RopeConfig, longest: int) -> tuple[Tensor, float]:
    """Frequencies of whole heads, of which only the first turn."""
    frequencies = _plain(config) / config.scaling.get("factor", 1.0)
    frequencies[config.scaling["turning"] :] = 0.0
    return frequencies, 1.0


def _llama3(config: RopeConfig, longest: int) -> tuple[Tensor, float]:
    """Long wavelengths are stretched by `factor`, short ones kept, those between interpolated."""
    s = config.scaling
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    frequencies = _plain(config)
    wavelengths = 2 * math.pi / frequencies
    keep = ((config.original / wavelengths - low) / max(high - low, 1e-30)).clamp(0, 1)  # Llama 4 has a step there
    return (1 - keep) * frequencies / s["factor"] + keep * frequencies, 1.0


def _yarn(config: RopeConfig, longest: int) -> tuple[Tensor, float]:
    low, high = config.ramp
    ramp = (torch.arange(config.rotary_dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    stretch = ramp.clamp(0, 1)
    frequencies = _plain(config)
    return frequencies / config.factor * stretch + frequencies * (1 - stretch), config.sharpening


#: Frequencies for contexts up to a length, and the factor of cos and sin.
_INVERSE_FREQUENCIES: dict[str, Callable[[RopeConfig, int], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "dynamic": _dynamic,
    "longrope": _longrope,
    "proportional": _proportional,
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
