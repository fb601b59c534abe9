"""Activations, gated or not, in float32.

silu and sigmoid are written out with `exp`: torch's own silu, sigmoid and gelu round the left-over elements at the end of a vector
loop differently, so the same value gives other bits in another place. `exp`, `erf` and `tanh` do not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..ops import CLAMP, CLAMPED_SLOPE, Rows
from .quantize import from_float, to_float


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5)))


def _gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _relu(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.0, x)  # NaN stays NaN


def _relu2(x: Tensor) -> Tensor:
    return _relu(x).square()


def _clamped_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    gate = gate.clamp(max=CLAMP)
    return gate / (1 + torch.exp(-CLAMPED_SLOPE * gate)) * (up.clamp(-CLAMP, CLAMP) + 1)


ACTIVATIONS = {"silu": _silu, "gelu": _gelu, "gelu_tanh": _gelu_tanh, "relu": _relu, "relu2": _relu2}
GATES = ACTIVATIONS | {"sigmoid": _sigmoid}


def gated_activation(x: Rows, kind: str, *, quantize: bool = False) -> Rows:
    x32, dtype = to_float(x)
    gate, up = x32.chunk(2, dim=-1)
    result = _clamped_swiglu(gate, up) if kind == "clamped_swiglu" else GATES[kind](gate) * up
    return from_float(result, dtype, quantize)


def activation(x: Rows, kind: str, *, quantize: bool = False) -> Rows:
    x32, dtype = to_float(x)
    return from_float(ACTIVATIONS[kind](x32), dtype, quantize)
