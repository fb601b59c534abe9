"""Dense layers of sentence-transformers: linear and activation over pooled vectors, in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.ops import Ops

from ..layers.linear import Linear
from ..settings.config import EngineConfig
from ..weights import loader
from ..weights.source import ModelSource
from .dense_files import stored
from .recipe import DenseSpec

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
}
#: Elements that an activation is computed of at a time: fewer than torch shares among threads, and whole vectors of any CPU.
_PIECE = 16384
_VECTORS = 64


class Dense:
    """act(x @ weight^T + bias): float32 [R, in_features] -> [R, out_features], R a multiple of ROW_MULTIPLE."""

    def __init__(self, ops: Ops, spec: DenseSpec) -> None:
        self.linear = Linear(ops, ["linear"], spec.in_features, [spec.out_features], bias=spec.bias)
        self._activation, self._adds = spec.activation, spec.residual
        self._residual: Linear | None = None
        if spec.residual and spec.in_features != spec.out_features:
            self._residual = Linear(ops, ["residual"], spec.in_features, [spec.out_features], bias=False)

    def linears(self) -> list[Linear]:
        return [self.linear] if self._residual is None else [self.linear, self._residual]

    @classmethod
    def load(cls, spec: DenseSpec, config: EngineConfig, source: ModelSource, ops: Ops, device: torch.device) -> Dense:
        """With the weights of the model's folder `spec.folder`. Raises ModelError if they are not there or do not fit."""
        dense = cls(ops, spec)
        parameters = [parameter for linear in dense.linears() for parameter in linear.parameters()]
        if config.load_format == "dummy":
            loader.load_dummy(parameters, torch.float32, device, seed=config.seed)
        else:
            loader.load(parameters, stored(spec, source), torch.float32, device)
        return dense

    def __call__(self, x: Tensor) -> Tensor:
        product = self.linear(x)
        assert isinstance(product, Tensor), "it is not quantized"
        made = activate(product, self._activation)
        if not self._adds:
            return made
        added = x if self._residual is None else self._residual(x)
        assert isinstance(added, Tensor), "it is not quantized"
        return made + added


def activate(x: Tensor, kind: str) -> Tensor:
    """An activation of x, float32 of any shape. Torch computes what is left over at the end of a tensor, or of a thread's share of
    it, by other code than the rest; here there is no such end, so an element's result depends on the element alone."""
    if kind == "identity":
        return x
    function = ACTIVATIONS[kind]
    flat = F.pad(x.reshape(-1), (0, -x.numel() % _VECTORS))
    return torch.cat([function(piece) for piece in flat.split(_PIECE)])[: x.numel()].view(x.shape)
