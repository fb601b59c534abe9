"""A mixture of experts: a router chooses some feed-forward parts for each token, and their results are weighed and added.

Rows are sorted by expert and multiplied by all experts' weights at once. What a token gets depends on its own row alone, bit for bit: so
do multiplications, and a row's sums run over its experts in the order of their scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import Ops, Rows, ScaledRows

from ..parallel.group import SINGLE, current, sharding
from ..parallel.sizes import share
from ..quant.base import LinearMethod, unscaled
from ..quant.plain import Plain
from ..spec.activations import activation_kind
from ..spec.names import Names
from ..spec.stack import ExpertsSpec
from ..spec.tensors import expert_tensors
from ..weights.cut import Cut
from ..weights.parameter import Parameter
from .linear import Linear
from .mlp import MLP
from .router import Router


class Experts:
    """Each expert is shared by all ranks as any feed-forward part is; or `Group.whole_experts`: each rank has as many whole ones."""

    quantizes_input = False

    def __init__(self, ops: Ops, layer: str, names: Names, hidden_size: int, spec: ExpertsSpec) -> None:
        self.ops, self.spec, self.group = ops, spec, current()
        self.kind = activation_kind(spec.activation, gated=spec.gated)
        self.router = Router(ops, layer, names, hidden_size, spec.count, spec.routing)
        up, down = [f"{layer}.{name}" for name in names.expert_up], f"{layer}.{names.expert_down}"
        self.own, self._elsewhere = range(spec.count), dict[int, list[Parameter]]()
        if self.group.whole_experts:
            each = share(spec.count, self.group.size)
            self.own = range(self.group.rank * each, (self.group.rank + 1) * each)
            for number in (number for number in range(spec.count) if number not in self.own):
                self._elsewhere[number] = [_none_of(tensor) for tensor in expert_tensors(layer, names, hidden_size, spec, number)]
        with sharding(SINGLE if self.group.whole_experts else self.group):
            self.experts = [
                MLP(ops, [name.format(n) for name in up], down.format(n), hidden_size, spec.each, alone=False) for n in self.own
            ]
        self.shared = self.shared_gate = None
        if spec.shared is not None:
            self.shared = MLP(
                ops, [f"{layer}.{name}" for name in names.shared_up], f"{layer}.{names.shared_down}", hidden_size, spec.shared
            )
            if spec.shared_gate:
                self.shared_gate = Linear(ops, [f"{layer}.{names.shared_gate}"], hidden_size, [1], bias=False, method=Plain(ops))

    def __call__(self, x: Rows, adapters: AdapterRows | None = None, *, routed: Tensor | None = None) -> Rows:
        """`routed`: what the router reads; None: x. Of adapters the expert for all tokens has pairs."""
        assert isinstance(x, Tensor), "asked for without quantization"
        chosen, weights = self.router(x if routed is None else routed)
        count = chosen.shape[1]
        # Pairs of (row, place among its experts), expert by expert, this rank's own experts first; where each of these begins.
        of_pair, pairs = ((chosen.flatten() - self.own.start) % self.spec.count).sort(stable=True)
        starts = torch.searchsorted(of_pair, torch.arange(len(self.own) + 1, device=x.device))
        places = torch.empty_like(pairs).scatter_(0, pairs, torch.arange(len(pairs), device=x.device))  # where each pair has gone
        if len(self.own) < self.spec.count and x.device.type == "cpu":  # a GPU is not waited for: it multiplies none of the others' pairs
            pairs = pairs[: int(starts[-1])]
        scales = weights.flatten().index_select(0, pairs) if self.spec.routing.scales_input else None
        products = self._multiplied(_of_rows(x, pairs // count, self.ops, scales, quantize=self._quantizes(self._ups)), starts)
        if scales is not None:
            weights = torch.ones_like(weights)
        if len(self.own) < self.spec.count:  # of others' pairs it has zeros
            places = torch.where(places < starts[-1], places, len(pairs))
            products = _with_zeros(products)
        if isinstance(products, ScaledRows):  # their factors join the experts' weights, instead of every number
            weights = weights * products.scale.index_select(0, places).view(len(x), count)
            products = products.values
        by_row = products.index_select(0, places).view(len(x), count, x.shape[1])
        total = by_row[:, 0].float() * weights[:, :1]
        for place in range(1, count):
            total += by_row[:, place].float() * weights[:, place : place + 1]
        if self.shared is not None:
            total += self._shared_part(x, self.shared, adapters)
        summed = total.to(x.dtype)
        return summed if self.group.size == 1 else self.group.all_reduce(summed)

    def _multiplied(self, x: Rows, starts: Tensor) -> Rows:
        """This rank's part of what experts make of rows sorted by expert."""
        inner = multiply(self._ups, x, starts)
        activate = self.ops.gated_activation if self.spec.gated else self.ops.activation
        activated = activate(inner, self.kind, quantize=self._quantizes(self._downs))
        return multiply(self._downs, activated, starts)

    def _shared_part(self, x: Tensor, shared: MLP, adapters: AdapterRows | None) -> Tensor:
        """float32: this rank's part of what the expert for all tokens makes of them."""
        part = unscaled(shared.part(self.ops.quantize(x) if shared.quantizes_input else x, adapters)).float()
        if self.shared_gate is None:
            return part
        gate = unscaled(self.shared_gate(x)).float()
        return part / (1 + torch.exp(-gate))

    @property
    def _ups(self) -> list[Linear]:
        return [expert.up for expert in self.experts]

    @property
    def _downs(self) -> list[Linear]:
        return [expert.down for expert in self.experts]

    def _quantizes(self, linears: Sequence[Linear]) -> bool:
        return all(linear.method.quantizes_input for linear in linears)

    def linears(self) -> Iterator[Linear]:
        yield self.router.linear
        for expert in self.experts:
            yield from expert.linears()
        if self.shared is not None:
            yield from self.shared.linears()
        if self.shared_gate is not None:
            yield self.shared_gate

    def parameters(self) -> Iterator[Parameter]:
        yield from self.router.parameters()
        for number in range(self.spec.count):  # in this order on every rank: random weights are drawn one after the other
            yield from self._elsewhere[number] if number in self._elsewhere else self.experts[number - self.own.start].parameters()
        for part in (self.shared, self.shared_gate):
            if part is not None:
                yield from part.parameters()


def multiply(linears: Sequence[Linear], x: Rows, starts: Tensor) -> Rows:
    """Rows of x [P, in], sorted by expert, by the layers of their experts, which are alike but for their schemes perhaps -> [P, out].

    `starts` int64 [E + 1]: where each expert's rows begin. As `Linear.part`: this rank's part.
    """
    methods = [linear.method for linear in linears]
    biases = [linear.bias.tensor for linear in linears if linear.bias is not None and linear.adds_bias] or None
    alike = all(method.kind == methods[0].kind for method in methods)
    scheme = type(methods[0]) if alike else LinearMethod
    return scheme.apply_experts(methods, x, starts, biases)


def _with_zeros(rows: Rows) -> Rows:
    """With a row of zeros behind the last."""
    if isinstance(rows, ScaledRows):
        return ScaledRows(F.pad(rows.values, (0, 0, 0, 1)), F.pad(rows.scale, (0, 1)))
    return F.pad(rows, (0, 0, 0, 1))


def _none_of(tensor: tuple[str, tuple[int, ...]]) -> Parameter:
    """Nothing of a checkpoint tensor: another rank has it, and here only its name and shape are looked at."""
    return Parameter(tensor, cuts=[Cut(0, 0, 0)], store=lambda _: None)


def _of_rows(x: Tensor, rows: Tensor, ops: Ops, scales: Tensor | None, *, quantize: bool) -> Rows:
    """Rows of x by number, times their scale if they have one, quantized if that is wanted."""
    if scales is not None:
        scaled = (x.index_select(0, rows).float() * scales[:, None]).to(x.dtype)
        return ops.quantize(scaled) if quantize else scaled
    if not quantize:
        return x.index_select(0, rows)  # x[rows] takes eight times as long
    quantized = ops.quantize(x)
    return ScaledRows(quantized.values.index_select(0, rows), quantized.scale.index_select(0, rows))
