"""The feed-forward block, gated or plain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from infer.kernels.ops import Ops, Rows

from ..errors import ModelError
from ..parallel.group import current
from ..weights.parameter import Parameter
from .linear import Linear, shared_in, shared_out, summed

#: config.json's hidden_act -> the kind of `Ops.gated_activation`.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
#: The same for `Ops.activation`.
PLAIN_ACTIVATIONS = {**ACTIVATIONS, "relu": "relu"}


class GatedMLP:
    """down(act(gate(x)) * up(x)), gate and up in one multiplication.

    Args:
        gate_up: checkpoint prefixes of the two, or of one layer that is both, gate first.
        down: checkpoint prefix.
    """

    def __init__(
        self, ops: Ops, gate_up: list[str], down: str, hidden_size: int, intermediate_size: int, activation: str, *, bias: bool
    ) -> None:
        self.ops = ops
        self.kind = activation_kind(activation, ACTIVATIONS)
        self.group = current()
        widths = [2 * intermediate_size // len(gate_up)] * len(gate_up)
        self.gate_up = Linear(ops, gate_up, hidden_size, widths, bias=bias, cuts=shared_out(*widths))
        self.down = Linear(ops, [down], intermediate_size, [hidden_size], bias=bias, cuts=shared_in(intermediate_size))

    @property
    def quantizes_input(self) -> bool:
        """See `Linear.quantizes_input`."""
        return self.gate_up.quantizes_input

    def __call__(self, x: Rows) -> Rows:
        return summed(self.down(self.ops.gated_activation(self.gate_up(x), self.kind, quantize=self.down.quantizes_input)), self.group)

    def linears(self) -> Iterator[Linear]:
        yield self.gate_up
        yield self.down

    def parameters(self) -> Iterator[Parameter]:
        for linear in self.linears():
            yield from linear.parameters()


class MLP:
    """down(act(up(x))). Arguments as in GatedMLP."""

    def __init__(self, ops: Ops, up: str, down: str, hidden_size: int, intermediate_size: int, activation: str, *, bias: bool) -> None:
        self.ops = ops
        self.kind = activation_kind(activation, PLAIN_ACTIVATIONS)
        self.up = Linear(ops, [up], hidden_size, [intermediate_size], bias=bias)
        self.down = Linear(ops, [down], intermediate_size, [hidden_size], bias=bias)

    @property
    def quantizes_input(self) -> bool:
        """See `Linear.quantizes_input`."""
        return self.up.quantizes_input

    def __call__(self, x: Rows) -> Rows:
        return self.down(self.ops.activation(self.up(x), self.kind, quantize=self.down.quantizes_input))

    def linears(self) -> Iterator[Linear]:
        yield self.up
        yield self.down

    def parameters(self) -> Iterator[Parameter]:
        for linear in self.linears():
            yield from linear.parameters()


def activation_kind(name: str, known: Mapping[str, str]) -> str:
    """The kernels' word for config.json's. Raises ModelError for one that is not `known`."""
    if name not in known:
        raise ModelError(f"activation {name!r} is not supported (known: {', '.join(known)})")
    return known[name]
