"""The gated feed-forward block."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from infer.kernels.ops import Ops

from ..errors import ModelError
from ..weights.parameter import Parameter
from .linear import Linear

#: config.json's hidden_act -> the operation on [gate | up].
ACTIVATIONS = {"silu": "silu_and_mul", "swish": "silu_and_mul"}


class GatedMLP:
    """down(act(gate(x)) * up(x)), gate and up in one multiplication."""

    def __init__(self, ops: Ops, name: str, hidden_size: int, intermediate_size: int, activation: str, *, bias: bool) -> None:
        if activation not in ACTIVATIONS:
            raise ModelError(f"activation {activation!r} is not supported (known: {', '.join(ACTIVATIONS)})")
        self.activation = getattr(ops, ACTIVATIONS[activation])
        self.gate_up = Linear(ops, [f"{name}.gate_proj", f"{name}.up_proj"], hidden_size, [intermediate_size] * 2, bias=bias)
        self.down = Linear(ops, [f"{name}.down_proj"], intermediate_size, [hidden_size], bias=bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate_up(x)))

    def parameters(self) -> Iterator[Parameter]:
        yield from self.gate_up.parameters()
        yield from self.down.parameters()
