"""A plain decoder layer as one operation: the names of its parts, which a backend may do in one go. A part of the contract, see ops.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .ops import AttentionConfig, AttentionMeta, HeadNorm, KVCache, Rows


class NormPart(NamedTuple):
    """`rms_norm`, or `layer_norm` if `centered`."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    centered: bool


class ProductPart(NamedTuple):
    """`linear`, of a weight that `pack_weight` gave, or `pack_halves` that of `up`, if it is gated.

    With `quantizes` it is `linear_int8`, of a weight that `pack_int8` gave, with `halves` that of `up`, if it is gated: rows that are not
    quantized on the way are quantized for it.
    """

    weight: Any
    bias: Tensor | None
    in_features: int
    out_features: int
    quantizes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParts:
    """s = x + residual, r = s + out(attention(qkv(norm(s)))), and what is left to be added to r: down(activation(up(norm(r))))."""

    dtype: torch.dtype
    """Of rows."""
    attention_norm: NormPart
    qkv: ProductPart
    tables: tuple[Tensor, Tensor] | None
    """cos and sin, see `Rotation`; None: nothing is rotated."""
    head_norm: HeadNorm | None
    config: AttentionConfig
    """Not of latents."""
    out: ProductPart
    attention_out_norm: NormPart | None
    """Of what attention gives, before it is added."""
    mlp_norm: NormPart
    up: ProductPart
    activation: str
    gated: bool
    """`linear_gated`, `linear_int8_gated` or `gated_activation`, else `activation`; see `fuses_gate`."""
    down: ProductPart
    mlp_out_norm: NormPart | None
    """Of what is left to be added."""

    @property
    def fuses_gate(self) -> bool:
        """`up` gates as it multiplies; else `gated_activation` or `activation` comes after it."""
        return self.gated and (self.up.quantizes or not self.down.quantizes)

    def norms(self) -> list[NormPart]:
        """Those there are."""
        found = (self.attention_norm, self.attention_out_norm, self.mlp_norm, self.mlp_out_norm)
        return [norm for norm in found if norm is not None]

    def products(self) -> dict[str, ProductPart]:
        """By their names here."""
        return {"qkv": self.qkv, "out": self.out, "up": self.up, "down": self.down}


class WholeLayer(Protocol):
    """A layer as one operation, in the bits of those that it is made of."""

    def __call__(
        self,
        x: Rows | None,
        residual: Tensor,
        positions: Tensor,
        cache: KVCache,
        meta: AttentionMeta,
        rows: Tensor | None,
        seconds: dict[str, float] | None = None,
    ) -> tuple[Rows, Tensor]:
        """(What is left to be added, what it is to be added to) of the same two: [N, hidden], x None for nothing. May overwrite both.

        Args:
            positions: int64 [N].
            meta: with the plan of `plan_attention`.
            rows: int64 [R], those that are wanted; None: all. Keys and values are stored of all.
            seconds: is given what each part took, by the names of `LayerParts` and "rope_and_store", "attention" and
                "quantize": of what attention gives. What `up` gives, gated, is quantized in "activation".
        """
