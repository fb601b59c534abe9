"""Smoothing: outliers of activations are divided out of a linear layer's input and multiplied into its weight.

The division is done by what comes before: the norm's weight, the rows of v_proj before o_proj, those of up_proj before down_proj. In exact
arithmetic the model stays the same. The factors are SmoothQuant's (Xiao et al. 2022), max|x|^a / max|w|^(1-a) for each feature; the
strength a is searched for in each place, by the error of quantized outputs on calibration rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..layers.linear import Linear
from ..layers.mlp import MLP
from ..layers.norm import Norm
from ..models.decoder_layer import DecoderLayer
from .watched import Inputs, Watched

#: Strengths that are tried, beside none at all.
STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
#: Keeps factors finite where a feature is always 0.
_LEAST = 1e-5

#: Makes factors such as what comes before can divide by.
Share = Callable[[Tensor], Tensor]


class Smoothing:
    """
    Args:
        dtype: what norms and biases are stored in: factors are such that norms lose nothing by it.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.changed: dict[str, Tensor] = {}
        """Norms and biases by name, as they are to be stored."""

    def smooth(self, layer: DecoderLayer, inputs: Mapping[Linear, Inputs]) -> dict[str, tuple[float, float]]:
        """Changes a layer with widened weights, and its inputs.

        Gives the strength of each place (0: nothing is done), and the share of the error that is left.
        """
        attention, mlp = layer.attention, layer.mlp
        assert attention is not None, "so are hybrids"
        assert isinstance(mlp, MLP), "mixtures of experts are refused before"
        found = {}
        config = attention.config
        per_kv = config.num_heads // config.num_kv_heads

        def by_kv_head(factors: Tensor) -> Tensor:
            """The same for all query heads of a key/value head."""
            heads = factors.view(config.num_kv_heads, per_kv, config.head_dim)
            return heads.log().mean(1, keepdim=True).exp().expand(heads.shape).reshape(-1)

        if attention.spec.clip is None:  # else values are not what v_proj gives
            factors, found["attention_out"] = best_factors(inputs[attention.out], _method(attention.out).stacked(), by_kv_head)
            self._divide_rows(attention.qkv, factors.view(config.num_kv_heads, per_kv, config.head_dim)[:, 0].reshape(-1))
            _multiply_columns(attention.out, factors, inputs)
        if mlp.gated:
            factors, found["down"] = best_factors(inputs[mlp.down], _method(mlp.down).stacked())
            self._divide_rows(mlp.up, factors)
            _multiply_columns(mlp.down, factors, inputs)
        both = layer.parallel and layer.mlp_norm is None
        readers = {"qkv": (layer.attention_norm, [attention.qkv, mlp.up] if both else [attention.qkv]), "up": (layer.mlp_norm, [mlp.up])}
        for place, (norm, linears) in readers.items():
            if norm is None:
                continue
            weight = torch.cat([_method(linear).stacked() for linear in linears])
            factors, found[place] = best_factors(inputs[linears[0]], weight)
            factors = self._divide_norm(norm, factors)
            for linear in linears:
                _multiply_columns(linear, factors, inputs)
        return found

    def _divide_norm(self, norm: Norm, factors: Tensor) -> Tensor:
        """The factors by which it gives less now: near those asked for, such that its weight is stored exactly."""
        offset = norm.spec.offset
        stored = (norm.weight / factors - offset).to(self.dtype)
        weight = stored.float() + offset
        exact = norm.weight / weight
        bad = ~exact.isfinite() | (exact == 0)
        stored = stored.where(~bad, (norm.weight - offset).to(self.dtype))
        exact, norm.weight = exact.where(~bad, 1.0), weight.where(~bad, norm.weight)
        self.changed[norm.parameter.parts[0].name] = stored
        if norm.bias is not None:
            norm.bias.tensor = norm.bias.tensor / exact
            self.changed[norm.bias.parts[0].name] = norm.bias.tensor.to(self.dtype)
        return exact

    def _divide_rows(self, linear: Linear, factors: Tensor) -> None:
        """The last output features become smaller by these."""
        method = _method(linear)
        weight = method.stacked()
        first = len(weight) - len(factors)
        weight[first:] /= factors[:, None]
        method.replace_stacked(weight)
        if linear.bias is not None:
            bias = linear.bias.tensor.clone()
            bias[first:] /= factors
            linear.bias.tensor = bias
            for part in linear.bias.parts:
                self.changed[part.name] = bias[part.start : part.start + part.held[0]].to(self.dtype)


def best_factors(inputs: Inputs, weight: Tensor, share: Share = lambda factors: factors) -> tuple[Tensor, tuple[float, float]]:
    """Factors [in] with the least error of quantized outputs; their strength (0: all are 1) and the share of the error that is left."""
    samples = inputs.samples
    wanted = samples @ weight.T
    ours, theirs = inputs.largest.clamp(min=_LEAST), weight.abs().amax(0).clamp(min=_LEAST)

    def error(factors: Tensor) -> float:
        product = rounded(samples / factors) @ rounded(weight * factors).T
        return float((product - wanted).square().sum())

    best, strength = torch.ones_like(ours), 0.0
    least = start = error(best)
    for one in STRENGTHS:
        factors = share(ours**one / theirs ** (1 - one))
        factors = factors / factors.log().mean().exp()
        if (found := error(factors)) < least:
            best, strength, least = factors, one, found
    return best, (strength, least / start if start else 1.0)


def rounded(rows: Tensor) -> Tensor:
    """Rows as int8 has them, with a scale each."""
    scale = rows.abs().amax(-1, keepdim=True) / 127
    return (rows / scale.where(scale > 0, 1.0)).round_().mul_(scale)


def _multiply_columns(linear: Linear, factors: Tensor, inputs: Mapping[Linear, Inputs]) -> None:
    method = _method(linear)
    method.weights = [weight * factors for weight in method.weights]
    inputs[linear].divide(factors)


def _method(linear: Linear) -> Watched:
    assert isinstance(linear.method, Watched)
    return linear.method
