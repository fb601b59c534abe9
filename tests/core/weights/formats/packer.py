"""Packer: dense weights to the tensors of a quantized checkpoint, and what these mean exactly, by other code than what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """The tensors of one layer by suffix, and what they mean in float32 [out, in]."""

    tensors: dict[str, Tensor]
    means: Tensor


@dataclass(frozen=True)
class Packer:
    """A quantization_config, and how a layer's weight [out, in] is packed under it.

    Args:
        others: for layers whose names have one of these in them: how they are packed; None: they stay plain.
    """

    config: dict[str, Any]
    pack: Callable[[Tensor], Packed]
    others: dict[str, Callable[[Tensor], Packed] | None] = field(default_factory=dict)

    def of(self, layer: str) -> Callable[[Tensor], Packed] | None:
        return next((pack for part, pack in self.others.items() if part in layer), self.pack)


def words(codes: np.ndarray, bits: int) -> Tensor:
    """int32 [rows, ceil(count * bits / 32)] of codes [rows, count], densely, low bits first."""
    rows, count = codes.shape
    flat = (codes[:, :, None].astype(np.int64) >> np.arange(bits)) & 1
    flat = flat.reshape(rows, count * bits)
    flat = np.pad(flat, ((0, 0), (0, -count * bits % 32))).astype(np.uint8)
    return torch.from_numpy(np.packbits(flat, axis=1, bitorder="little").view("<i4").copy())


@dataclass(frozen=True)
class Rounded:
    """Codes [out, in] with the scale, zero and group of each: (codes - zero) * scale."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    groups: np.ndarray

    @property
    def means(self) -> Tensor:
        values = (self.codes - self.zero[:, self.groups]).astype(np.float64) * self.scale.astype(np.float64)[:, self.groups]
        return torch.from_numpy(values.astype(np.float32))


def rounded(weight: Tensor, bits: int, size: int, *, symmetric: bool = False, shuffled: bool = False, uneven: bool = False) -> Rounded:
    """A weight rounded to `bits` by groups of `size` features (-1: all), in order or not; scales in float16."""
    values = weight.double().numpy()
    count = values.shape[1]
    groups = np.arange(count) // (count if size < 0 else size)
    if shuffled:
        groups = np.random.default_rng(0).permutation(groups)
    if uneven:
        groups[groups == 1] = 0
    num_groups = -(-count // (count if size < 0 else size))
    most = (1 << bits) - 1
    scale, zero = np.ones((len(values), num_groups), np.float16), np.zeros((len(values), num_groups), np.int64)
    for group in range(num_groups):
        part = values[:, groups == group]
        if not part.size:
            continue
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            scale[:, group] = np.abs(part).max(1) / (most / 2)
            zero[:, group] = 1 << (bits - 1)
        else:
            scale[:, group] = (high - low) / most
            zero[:, group] = np.clip(np.rint(-low / np.maximum(scale[:, group].astype(np.float64), 1e-9)), 0, most)
    codes = np.rint(values / scale.astype(np.float64)[:, groups]) + zero[:, groups]
    return Rounded(np.clip(codes, 0, most).astype(np.int64), scale, zero, groups)
