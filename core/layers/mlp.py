"""The feed-forward block, gated or plain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import Ops, Rows

from ..quant.base import scaled, unscaled
from ..spec.activations import QUICK_GELU, activation_kind
from ..spec.stack import MLPSpec
from ..weights.parameter import Parameter
from .linear import Linear, shared_in, shared_out
from .quick_gelu import quick_gelu
from .xielu import XIELU


class MLP:
    """down(act(gate(x)) * up(x)), gate and up in one multiplication; or without a gate down(act(up(x))).

    Args:
        up: checkpoint prefixes. Of a gated block: gate and up, or one layer that is both, gate first.
        down: checkpoint prefix.
        learned: checkpoint prefix of an activation that has learned numbers.
        alone: its layers are not multiplied together with others'.
    """

    def __init__(
        self, ops: Ops, up: Sequence[str], down: str, hidden_size: int, spec: MLPSpec, *, learned: str = "", alone: bool = True
    ) -> None:
        self.ops = ops
        self.gated, self.gate_scale, self.out_scale = spec.gated, spec.gate_scale, spec.out_scale
        self.kind = "" if spec.learned_activation else activation_kind(spec.activation, gated=spec.gated)
        self.learned = XIELU(learned) if spec.learned_activation else None
        widths = [(1 + spec.gated) * spec.size // len(up)] * len(up)
        self._fused = alone and spec.gated and self.learned is None and spec.gate_scale == 1
        self.up = Linear(ops, list(up), hidden_size, widths, bias=spec.biases[0], cuts=shared_out(*widths), gated=self._fused)
        self.down = Linear(ops, [down], spec.size, [hidden_size], bias=spec.biases[1], cuts=shared_in(spec.size))

    @property
    def quantizes_input(self) -> bool:
        """See `LinearMethod.quantizes_input`."""
        return self.up.method.quantizes_input

    @property
    def is_plain(self) -> bool:
        """True if kernels do all that is between the two linear layers, and nothing comes after."""
        return self.learned is None and self.kind != QUICK_GELU and self.gate_scale == self.out_scale == 1

    def __call__(self, x: Rows, adapters: AdapterRows | None = None) -> Rows:
        return scaled(self.down(self._activated(x, adapters), adapters), self.out_scale)

    def part(self, x: Rows, adapters: AdapterRows | None = None) -> Rows:
        """This rank's part, which the others' are to be added to."""
        return scaled(self.down.part(self._activated(x, adapters), adapters), self.out_scale)

    def _activated(self, x: Rows, adapters: AdapterRows | None) -> Rows:
        if self.learned is not None:
            return self.learned(unscaled(self.up(x, adapters)))
        if self.kind == QUICK_GELU:
            return quick_gelu(self.ops, unscaled(self.up(x, adapters)))
        if self._fused:
            return self.up.gated(x, adapters, self.kind, quantize=self.down.method.quantizes_input)
        activate = self.ops.gated_activation if self.gated else self.ops.activation
        made = self.up(x, adapters)
        if self.gate_scale != 1:
            made = unscaled(made)
            made[:, : made.shape[1] // (1 + self.gated)] *= self.gate_scale
        return activate(made, self.kind, quantize=self.down.method.quantizes_input)

    def linears(self) -> Iterator[Linear]:
        yield self.up
        yield self.down

    def parameters(self) -> Iterator[Parameter]:
        for linear in self.linears():
            yield from linear.parameters()
        if self.learned is not None:
            yield from self.learned.parameters()
