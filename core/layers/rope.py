"""Rotary position embedding: which frequencies, how scaled, as tables of cos and sin.

Sources: RoFormer (arXiv 2104.09864); linear scaling (arXiv 2306.15595); YaRN (arXiv 2309.00071);
the `llama3` rule is the one published with Llama 3.1.
"""

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
        """Raises ModelError for a scaling without what it needs."""
        self.config = config
        try:
            _INVERSE_FREQUENCIES[config.kind](config)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise ModelError(f"config.json: rope scaling {config.kind!r} lacks or has a bad {error}") from error
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
        self.cos = (angles.cos() * factor).to(device)
        self.sin = (angles.sin() * factor).to(device)


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
    original = s.get("original_max_position_embeddings") or config.max_position
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    frequencies = _plain(config)
    wavelengths = 2 * math.pi / frequencies
    keep = ((original / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 - keep) * frequencies / s["factor"] + keep * frequencies, 1.0


def _yarn(config: RopeConfig) -> tuple[Tensor, float]:
    """Dimensions that turn more than `beta_fast` times over the original length are kept, those below `beta_slow` are
    stretched, a ramp between; attention is sharpened by `attention_factor` (0.1 ln(factor) + 1), put into cos and sin."""
    s = config.scaling
    original = s.get("original_max_position_embeddings") or config.max_position
    factor = s.get("factor") or config.max_position / original

    def dimension(turns: float) -> float:
        return config.rotary_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.theta))

    low, high = dimension(s.get("beta_fast") or 32), dimension(s.get("beta_slow") or 1)
    if s.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.rotary_dim - 1)
    ramp = (torch.arange(config.rotary_dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    stretch = ramp.clamp(0, 1)
    frequencies = _plain(config)

    def sharpening(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    attention = s.get("attention_factor")
    if attention is None:
        both = s.get("mscale") and s.get("mscale_all_dim")
        attention = sharpening(s["mscale"]) / sharpening(s["mscale_all_dim"]) if both else sharpening(1.0)
    return frequencies / factor * stretch + frequencies * (1 - stretch), float(attention)


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
