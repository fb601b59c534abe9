"""The feed-forward block, gated or plain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from infer.kernels.ops import Ops, Rows

from ..spec.activations import activation_kind
from ..spec.model_spec import MLPSpec
from ..weights.parameter import Parameter
from .linear import Linear, shared_in, shared_out


class MLP:
    """down(act(gate(x)) * up(x)), gate and up in one multiplication; or without a gate down(act(up(x))).

    Args:
        up: checkpoint prefixes. Of a gated block: gate and up, or one layer that is both, gate first.
        down: checkpoint prefix.
    """

    def __init__(self, ops: Ops, up: Sequence[str], down: str, hidden_size: int, spec: MLPSpec) -> None:
        self.ops = ops
        self.gated = spec.gated
        self.kind = activation_kind(spec.activation, gated=spec.gated)
        widths = [(1 + spec.gated) * spec.size // len(up)] * len(up)
        self.up = Linear(ops, list(up), hidden_size, widths, bias=spec.bias, cuts=shared_out(*widths))
        self.down = Linear(ops, [down], spec.size, [hidden_size], bias=spec.bias, cuts=shared_in(spec.size))

    @property
    def quantizes_input(self) -> bool:
        """See `LinearMethod.quantizes_input`."""
        return self.up.method.quantizes_input

    def __call__(self, x: Rows) -> Rows:
        return self.down(self._activated(x))

    def part(self, x: Rows) -> Rows:
        """This rank's part, which the others' are to be added to."""
        return self.down.part(self._activated(x))

    def _activated(self, x: Rows) -> Rows:
        activate = self.ops.gated_activation if self.gated else self.ops.activation
        return activate(self.up(x), self.kind, quantize=self.down.method.quantizes_input)

    def linears(self) -> Iterator[Linear]:
        yield self.up
        yield self.down

    def parameters(self) -> Iterator[Parameter]:
        for linear in self.linears():
            yield from linear.parameters()
