"""The gated feed-forward block."""

from __future__ import annotations

from collections.abc import Iterator

from infer.kernels.ops import Ops, Rows

from ..errors import ModelError
from ..weights.parameter import Parameter
from .linear import Linear

#: config.json's hidden_act -> the kind of `Ops.gated_activation`.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


class GatedMLP:
    """down(act(gate(x)) * up(x)), gate and up in one multiplication."""

    def __init__(self, ops: Ops, name: str, hidden_size: int, intermediate_size: int, activation: str, *, bias: bool) -> None:
        if activation not in ACTIVATIONS:
            raise ModelError(f"activation {activation!r} is not supported (known: {', '.join(ACTIVATIONS)})")
        self.ops = ops
        self.kind = ACTIVATIONS[activation]
        self.gate_up = Linear(ops, [f"{name}.gate_proj", f"{name}.up_proj"], hidden_size, [intermediate_size] * 2, bias=bias)
        self.down = Linear(ops, [f"{name}.down_proj"], intermediate_size, [hidden_size], bias=bias)

    def __call__(self, x: Rows) -> Rows:
        return self.down(self.ops.gated_activation(self.gate_up(x), self.kind, quantize=self.down.quantizes_input))

    def linears(self) -> Iterator[Linear]:
        yield self.gate_up
        yield self.down

    def parameters(self) -> Iterator[Parameter]:
        for linear in self.linears():
            yield from linear.parameters()
