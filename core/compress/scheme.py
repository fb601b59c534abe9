"""Schemes that models are written in: how a layer is rounded, its tensors, and what config.json says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quant.rounding import Form, Range, best_range, codes_of
from .gptq import round_with

#: Sizes of groups of input features, the one that is taken first.
GROUP_SIZES = (128, 64, 32)


@dataclass(frozen=True)
class Scheme:
    """
    Args:
        group_size: input features with a scale of their own; None: one scale an output feature.
        activations: inputs are int8 too, with a scale for each token.
    """

    name: str
    bits: int
    form: Form
    group_size: int | None
    activations: bool

    def tensors(self, weight: Tensor, dtype: torch.dtype, hessian: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """A layer's tensors by suffix, and what they mean, float32 [out, in].

        Args:
            weight: float32 [out, in].
            dtype: of scales.
            hessian: of the layer's inputs; None: each number goes to its nearest step.
        """
        out, width = weight.shape
        size = self.group_size or width
        grouped = weight.view(out, -1, size)
        importance = None if hessian is None else hessian.diagonal().view(1, -1, size)
        best = best_range(grouped, self.bits, self.form, importance=importance)
        scale = best.scale.to(dtype)
        scale = scale if bool(scale.isfinite().all() & ((scale > 0) | (best.scale == 0)).all()) else best.scale
        ranges = Range(scale.float(), -best.zero * scale.float(), best.zero)
        if hessian is None:
            codes = codes_of(grouped, ranges, self.bits).flatten(1).to(torch.uint8)
        else:
            codes = round_with(weight, hessian, ranges, size, self.bits)
        signed = codes.view(out, -1, size).float() - ranges.zero
        return self._stored(codes, scale[..., 0], ranges.zero[..., 0]), (signed * ranges.scale).flatten(1)

    def _stored(self, codes: Tensor, scale: Tensor, zero: Tensor) -> dict[str, Tensor]:
        if self.activations:
            return {".weight": (codes.to(torch.int16) - 128).to(torch.int8), ".weight_scale": scale}
        found = {
            ".weight_packed": packed(codes, self.bits),
            ".weight_scale": scale,
            ".weight_shape": torch.tensor(codes.shape),
        }
        if self.form is Form.ZERO:
            found[".weight_zero_point"] = packed(zero.to(torch.uint8).T.contiguous(), self.bits).T.contiguous()
        return found

    def config(self, ignore: list[str], *, calibrated: bool) -> dict[str, Any]:
        """The quantization_config."""
        by_group = self.group_size is not None
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": self.form is Form.SYMMETRIC,
            "strategy": "group" if by_group else "channel",
            "group_size": self.group_size,
            "dynamic": False,
            "actorder": "weight" if by_group and calibrated else None,
            "block_structure": None,
            "observer": "minmax",
            "observer_kwargs": {},
        }
        activations = {
            "num_bits": 8,
            "type": "int",
            "symmetric": True,
            "strategy": "token",
            "group_size": None,
            "dynamic": True,
            "actorder": None,
            "block_structure": None,
            "observer": None,
            "observer_kwargs": {},
        }
        form = "int-quantized" if self.activations else "pack-quantized"
        group = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": activations if self.activations else None,
            "output_activations": None,
            "format": form,
        }
        return {
            "quant_method": "compressed-tensors",
            "format": form,
            "quantization_status": "compressed",
            "global_compression_ratio": None,
            "kv_cache_scheme": None,
            "config_groups": {"group_0": group},
            "ignore": ignore,
        }


def packed(codes: Tensor, bits: int) -> Tensor:
    """int32 [rows, ceil(count / (32 / bits))] of codes uint8 [rows, count], the first in the lowest bits."""
    per_word = 32 // bits
    whole = F.pad(codes, (0, -codes.shape[1] % per_word)).view(len(codes), -1, per_word).long()
    words = (whole << torch.arange(0, 32, bits)).sum(-1)
    return (words - ((words >> 31) << 32)).to(torch.int32)
