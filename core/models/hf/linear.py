"""Takes the place of `torch.nn.Linear` in a model of transformers: our layer, row-wise and quantizable."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from infer.kernels.ops import ROW_MULTIPLE, Ops

from ...layers.linear import Linear
from ...quant.base import LinearMethod, unscaled
from ...quant.choice import HEAD, Choose

#: What may be asked of a weight without reading it.
_ASKED = frozenset({"dtype", "device", "shape", "ndim", "requires_grad", "is_cuda", "layout", "grad"})


class RowLinear(nn.Module):
    """[..., in] -> [..., out] by a `Linear` of ours."""

    def __init__(self, layer: Linear, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.layer = layer
        self.in_features, self.out_features = layer.in_features, layer.out_features
        # The packed weight has no such form; some code asks for its dtype or device.
        self.register_buffer("weight", torch.empty(0, dtype=dtype, device=device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != self.weight.dtype:
            raise TypeError(f"rows are {x.dtype}, the weight they meet {self.weight.dtype}")
        rows = x.reshape(-1, self.in_features)
        count = rows.shape[0]
        if not count:
            return x.new_empty(*x.shape[:-1], self.out_features)
        if count % ROW_MULTIPLE:
            rows = F.pad(rows, (0, 0, 0, -count % ROW_MULTIPLE))
        return unscaled(self.layer(rows.contiguous()))[:count].view(*x.shape[:-1], self.out_features)


@contextmanager
def weights_read(model: nn.Module) -> Iterator[Collection[nn.Linear]]:
    """Gives the linear layers whose weights a forward pass within takes and multiplies by itself: ours would have none for it."""
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    found: set[nn.Linear] = set()
    inside: set[nn.Linear] = set()
    by_weight = {id(linear.weight): linear for linear in linears}

    class Reads(TorchFunctionMode):
        def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(getattr(func, "__self__", None), "__name__", "") not in _ASKED:
                for one in (*args, *(kwargs or {}).values()):
                    linear = by_weight.get(id(one))
                    if linear is not None and linear not in inside:
                        found.add(linear)
            return func(*args, **(kwargs or {}))

    def enter(module: nn.Linear, _: Any) -> None:
        inside.add(module)

    def leave(module: nn.Linear, *_: Any) -> None:
        inside.discard(module)

    handles = [handle for one in linears for handle in (one.register_forward_pre_hook(enter), one.register_forward_hook(leave))]
    try:
        with Reads():
            yield found
    finally:
        for handle in handles:
            handle.remove()


def swap_linears(
    model: nn.Module, ops: Ops, dtype: torch.dtype, choose: Choose | None, head: nn.Linear, keep: Collection[nn.Linear] = ()
) -> tuple[list[Linear], Linear]:
    """Puts ours in the place of every linear layer with a weight of `dtype`, one by one; gives the others, and that of `head`.

    Subclasses of `nn.Linear` stay: they may compute something else. So do those to `keep`, which multiply a whole step's rows as
    torch does.
    """
    swapped: list[Linear] = []
    places = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    done: dict[nn.Linear, RowLinear] = {}
    for parent, name, child in places:
        if type(child) is not nn.Linear or child.weight.dtype != dtype or (child in keep and child is not head):
            continue
        if child not in done:  # one module may stand in several places
            done[child] = _swapped(child, ops, choose(HEAD if child is head else name) if choose is not None else None)
            if child is not head:
                swapped.append(done[child].layer)
        setattr(parent, name, done[child])
    return swapped, done[head].layer


def swap_all(model: nn.Module, ops: Ops, dtype: torch.dtype) -> None:
    """Puts ours in the place of every linear layer with a weight of `dtype`, plainly stored. Subclasses of `nn.Linear` stay."""
    places = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    done: dict[nn.Linear, RowLinear] = {}
    for parent, name, child in places:
        if type(child) is nn.Linear and child.weight.dtype == dtype:
            if child not in done:
                done[child] = _swapped(child, ops, None)
            setattr(parent, name, done[child])


def filled(ops: Ops, weight: Tensor, bias: Tensor | None, method: LinearMethod | None) -> Linear:
    """A layer of ours with this weight [out, in] and bias [out]."""
    outs, ins = weight.shape
    layer = Linear(ops, [""], ins, [outs], bias=bias is not None, method=method)
    (stored,) = layer.weights
    stored.fill(stored.parts[0], weight, weight.dtype, weight.device)
    if layer.bias is not None and bias is not None:
        layer.bias.fill(layer.bias.parts[0], bias, weight.dtype, weight.device)
    return layer


def _swapped(old: nn.Linear, ops: Ops, method: LinearMethod | None) -> RowLinear:
    weight = old.weight.detach()
    layer = filled(ops, weight, None if old.bias is None else old.bias.detach(), method)
    old.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)  # or both would stay until all are swapped
    return RowLinear(layer, weight.dtype, weight.device)
