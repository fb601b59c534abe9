"""The experts of transformers' mixture layers, multiplied as ours are: all at once, and a token gets the same bits in any company."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from infer.kernels.ops import Ops

from ...errors import ModelError
from ...layers.linear import Linear
from ...layers.moe import multiply
from ...quant.base import unscaled
from ...quant.choice import Choose
from .linear import filled

#: What to set as `experts_implementation`.
NAME = "infer_rows"
#: Rows that experts are tried with, and the relative distance from transformers' loop that rounding explains.
_ROWS, _FAR_IN_FLOAT32, _FAR_IN_HALF = 16, 2e-3, 0.05


def register() -> bool:
    """Makes transformers know it; False for a version without an interface for experts."""
    try:
        from transformers.integrations.moe import ExpertsInterface
    except ImportError:
        return False
    ExpertsInterface.register(NAME, experts)
    return True


class _Packed:
    """The linear layers of one mixture, expert by expert."""

    def __init__(self, ups: list[Linear], downs: list[Linear], ops: Ops) -> None:
        self.ups, self.downs, self.ops = ups, downs, ops

    def multiply(self, linears: list[Linear], x: Tensor, starts: Tensor) -> Tensor:
        quantizes = all(linear.method.quantizes_input for linear in linears)
        return unscaled(multiply(linears, self.ops.quantize(x.contiguous()) if quantizes else x, starts))


def swap_experts(model: nn.Module, ops: Ops, dtype: torch.dtype, choose: Choose | None) -> Iterator[Linear]:
    """Puts ours in the place of the weights of every mixture whose layout transformers' `use_experts_implementation` tells; gives them.

    Raises ModelError where that gives something else than transformers' own loop over experts.
    """
    for name, module in model.named_modules():
        up, down = "gate_up_proj" if getattr(module, "has_gate", True) else "up_proj", "down_proj"
        if not hasattr(module, "is_transposed") or getattr(module, up).dtype != dtype:
            continue
        tried = _tried_with(module, dtype)
        expected = _own(module, *tried)
        ups, downs = (list(_taken(module, one, ops, choose, f"{name}.{one}")) for one in (up, down))
        module.infer_packed = _Packed(ups, downs, ops)
        if choose is None:
            _compare(name, experts(module, *tried), expected)
        yield from (*ups, *downs)


def experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """hidden_states [N, size], the K experts of each row and their weights [N, K] -> [N, size].

    A row's K results are added in float32 in the order of its K experts. `module` is one that `swap_experts` has been at; an index
    beyond its experts stands for none.
    """
    packed: _Packed = module.infer_packed
    rows, count = top_k_index.shape
    of_pair, pairs = top_k_index.flatten().sort(stable=True)
    starts = torch.searchsorted(of_pair, torch.arange(len(packed.ups) + 1, device=of_pair.device))
    starts[-1] = len(pairs)  # those of no expert go with the last one's, for nothing
    places = torch.empty_like(pairs).scatter_(0, pairs, torch.arange(len(pairs), device=pairs.device))
    x = packed.multiply(packed.ups, hidden_states[pairs // count], starts)
    x = module._apply_gate(x) if module.has_gate else module.act_fn(x)
    x = packed.multiply(packed.downs, x, starts)
    if getattr(module, "has_post_expert_norm", False):
        x = module.post_expert_norm(x)
    results = x[places].view(rows, count, -1)
    weights = torch.where(top_k_index < len(packed.ups), top_k_weights, 0).float()
    total = results[:, 0].float() * weights[:, :1]
    for place in range(1, count):
        total += results[:, place].float() * weights[:, place : place + 1]
    return total.to(hidden_states.dtype)


def _taken(module: Any, name: str, ops: Ops, choose: Choose | None, full_name: str) -> Iterator[Linear]:
    """The weight [E, out, in] (or [E, in, out]) and bias [E, out] of a mixture as linear layers; it has none of it afterwards."""
    weights = getattr(module, name).detach()
    biases = getattr(module, f"{name}_bias").detach() if module.has_bias else [None] * len(weights)
    for weight, bias in zip(weights, biases, strict=True):
        each = weight.t().contiguous() if module.is_transposed else weight
        yield filled(ops, each, bias, choose(full_name) if choose is not None else None)
    setattr(module, name, nn.Parameter(weights.new_empty(0), requires_grad=False))


def _tried_with(module: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    down: Tensor = module.down_proj
    size, count = down.shape[2 if module.is_transposed else 1], down.shape[0]
    dice = torch.Generator().manual_seed(0)
    chosen = torch.rand(_ROWS, count, generator=dice).topk(min(2, count)).indices
    weights = torch.rand(chosen.shape, generator=dice)
    return torch.randn(_ROWS, size, generator=dice).to(down.device, dtype), chosen.to(down.device), weights.to(down.device, dtype)


def _own(module: Any, *args: Tensor) -> Tensor:
    """By transformers' loop."""
    kept, module.config._experts_implementation = module.config._experts_implementation, "eager"
    try:
        output: Tensor = module(*args)
        return output
    finally:
        module.config._experts_implementation = kept


def _compare(name: str, got: Tensor, expected: Tensor) -> None:
    far = _FAR_IN_FLOAT32 if expected.dtype == torch.float32 else _FAR_IN_HALF
    distance = float((got.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-30))
    if expected.isfinite().all() and not distance <= far:
        raise ModelError(f"its experts ({name}) compute something else than ours (relative distance {distance:.2g})")
