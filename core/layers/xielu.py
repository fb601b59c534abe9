"""xIELU (arXiv 2411.13010), an activation that has learned two numbers; `Apertus` has it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec.activations import LEARNED
from ..weights.parameter import Parameter

#: Slope at 0, and where the exponential's argument ends.
_BETA, _END = 0.5, -1e-6


class XIELU:
    """[N, I] -> [N, I]: a x^2 + x / 2 above 0, b (exp(x) - 1 - x) + x / 2 below, of softplus(alpha_p) and 1/2 + softplus(alpha_n).

    In plain torch, whose exp, products and sums give an element the same bits wherever it stands.
    """

    def __init__(self, name: str) -> None:
        self._above, self._below = (Parameter((f"{name}.{number}", (1,))) for number in LEARNED)

    def __call__(self, x: Tensor) -> Tensor:
        above = F.softplus(self._above.tensor.float())
        below = _BETA + F.softplus(self._below.tensor.float())
        x32 = x.float()
        curved = torch.where(x32 > 0, above * x32 * x32, (torch.expm1(x32.clamp(max=_END)) - x32) * below)
        return (curved + _BETA * x32).to(x.dtype)

    def parameters(self) -> Iterator[Parameter]:
        yield from (self._above, self._below)
