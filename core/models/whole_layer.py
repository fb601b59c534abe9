"""Decoder layers that a backend may compute in one call."""

from __future__ import annotations

import torch

from infer.kernels.layer import LayerParts, NormPart, ProductPart, WholeLayer
from infer.kernels.ops import HeadNorm

from ..layers.attention import Attention
from ..layers.linear import Linear
from ..layers.mlp import MLP
from ..layers.norm import Norm
from .layer import Layer


def whole_layer(layer: Layer, dtype: torch.dtype) -> WholeLayer | None:
    """`layer`, which adds what its two parts give and does no more, in one call; None: it is computed part by part.

    Args:
        dtype: of rows.
    """
    parts = _parts(layer, dtype)
    return None if parts is None else layer.ops.whole_layer(parts)


def _parts(layer: Layer, dtype: torch.dtype) -> LayerParts | None:
    attention, mlp, first, second = layer.attention, layer.mlp, layer.attention_norm, layer.mlp_norm
    if type(attention) is not Attention or type(mlp) is not MLP or first is None or second is None or layer.mixer is not None:
        return None
    products = [_product(linear) for linear in (attention.qkv, attention.out, mlp.up, mlp.down)]
    if not attention.is_plain or not mlp.is_plain or None in products:
        return None
    qkv, out, up, down = (product for product in products if product is not None)
    head_norm = None
    if attention.head_norms:
        of_query, of_key = attention.head_norms[0], attention.head_norms[-1]
        head_norm = HeadNorm(of_query.weight, of_key.weight, of_query.spec.eps)
    return LayerParts(
        dtype=dtype,
        attention_norm=_norm(first),
        qkv=qkv,
        tables=None if attention.rope is None else (attention.rope.cos, attention.rope.sin),
        head_norm=head_norm,
        config=attention.config,
        out=out,
        attention_out_norm=None if layer.attention_out_norm is None else _norm(layer.attention_out_norm),
        mlp_norm=_norm(second),
        up=up,
        activation=mlp.kind,
        gated=mlp.gated,
        down=down,
        mlp_out_norm=None if layer.mlp_out_norm is None else _norm(layer.mlp_out_norm),
    )


def _norm(norm: Norm) -> NormPart:
    return NormPart(norm.weight, None if norm.bias is None else norm.bias.tensor, norm.spec.eps, norm.spec.centered)


def _product(linear: Linear) -> ProductPart | None:
    """None: ranks share it, or it is no plain product."""
    weight = linear.method.plain_weight
    if weight is None or linear.group.size > 1:
        return None
    bias = None if linear.bias is None else linear.bias.tensor
    return ProductPart(weight, bias, linear.in_features, linear.out_features, linear.method.quantizes_input)
