"""Matrix multiplications with a weight, fused where several share their input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import Ops, Rows, ScaledRows

from ..parallel.group import current
from ..parallel.sizes import padded_share
from ..quant.base import LinearMethod, unscaled
from ..quant.choice import chosen
from ..weights.cut import Cut
from ..weights.parameter import Parameter


class Linear:
    """x [N, in] -> [N, sum of outs]; several checkpoint layers with the same input are one multiplication.

    Args:
        names: checkpoint prefixes ("model.layers.0.self_attn.q_proj"), stacked in this order.
        outs: output features of each.
        bias: there is one; or of which of them there is one.
        cuts: what this rank holds of each weight; None is all. Of output features (dimension 0) it holds the biases of, too;
            where it holds some of the input features (dimension 1) the sum over ranks is the product, and rank 0 adds the bias.
        method: how the weight is stored and applied; None: as was chosen for a layer of the first name, see quant/choice.py.
        gated: what it gives is for `gated`, most of the time.
    """

    def __init__(
        self,
        ops: Ops,
        names: list[str],
        in_features: int,
        outs: list[int],
        *,
        bias: bool | Sequence[bool],
        cuts: Sequence[Cut] | None = None,
        method: LinearMethod | None = None,
        gated: bool = False,
    ) -> None:
        self.method = method or chosen(ops, names[0])
        self.method.gated = gated
        self.weights = self.method.declare(names, outs, in_features, cuts)
        shapes = [(out, in_features) for out in outs]
        held = shapes if cuts is None else [cut.shape(shape) for cut, shape in zip(cuts, shapes, strict=True)]
        self.out_features, self.in_features = sum(shape[0] for shape in held), held[0][1]
        self.names, self.cuts = tuple(names), cuts
        self.starts = tuple(accumulate((shape[0] for shape in held), initial=0))[:-1]
        """The first output feature of each."""
        self.pairs: dict[int, Any] = {}
        """Of adapters by slot, see core/adapters/installed.py: what their pairs of matrices give of x is added."""
        self.group, self.by_input = current(), cuts is not None and cuts[0].dim == 1
        self.adds_bias = not self.by_input or self.group.rank == 0
        which = [bias] * len(names) if isinstance(bias, bool) else bias
        biases = [(f"{name}.bias" if has else "", (out,)) for name, out, has in zip(names, outs, which, strict=True)]
        self.bias = Parameter(*biases, cuts=None if self.by_input else cuts) if any(which) else None
        self._zeros: Tensor | None = None

    def __call__(self, x: Rows, adapters: AdapterRows | None = None) -> Rows:
        """The product, over all ranks where they share the input features.

        Args:
            adapters: the rows of x that have one. An adapter reads what the layer reads, be it quantized.
        """
        rows = self.part(x, adapters)
        return self.group.all_reduce(unscaled(rows)) if self.by_input else rows

    def part(self, x: Rows, adapters: AdapterRows | None = None) -> Rows:
        """This rank's part: of the output features, or of the sum over input features."""
        made = self.method.apply(x, self.bias.tensor if self.bias is not None and self.adds_bias else None)
        return made if adapters is None or not self.pairs else self._adapted(made, x, adapters)

    def plain(self, x: Rows, adapters: AdapterRows | None = None) -> Tensor:
        """As `part`, without factors of rows: kernels multiply by them on the way where there is a bias, be it of zeros."""
        if self.bias is not None or not self.method.quantizes_input:
            return unscaled(self.part(x, adapters))
        if self._zeros is None:
            self._zeros = torch.zeros(self.out_features, device=x.device if isinstance(x, Tensor) else x.values.device)
        made = self.method.apply(x, self._zeros)
        return unscaled(made if adapters is None or not self.pairs else self._adapted(made, x, adapters))

    def gated(self, x: Rows, adapters: AdapterRows | None, kind: str, *, quantize: bool) -> Rows:
        """`Ops.gated_activation` of `part`, in one pass where there is one."""
        if adapters is None or not self.pairs:
            return self.method.apply_gated(x, self.bias.tensor if self.bias is not None else None, kind, quantize=quantize)
        return self.method.ops.gated_activation(self.part(x, adapters), kind, quantize=quantize)

    def _adapted(self, made: Rows, x: Rows, adapters: AdapterRows) -> Rows:
        """`made` of x, with what adapters add to it, in place."""
        weights = [self.pairs.get(slot) for slot in adapters.slots]
        if any(weight is not None for weight in weights):
            out, of_out = (made.values, made.scale) if isinstance(made, ScaledRows) else (made, None)
            read, of_x = (x.values, x.scale) if isinstance(x, ScaledRows) else (x, None)
            if read.dtype not in (out.dtype, torch.uint8):
                read = read.to(out.dtype)
            self.method.ops.add_lora(out, read, adapters, weights, _ratio(of_x, of_out))
        return made

    def parameters(self) -> Iterator[Parameter]:
        yield from self.weights
        if self.bias is not None:
            yield self.bias


def shared_out(*sizes: int) -> list[Cut] | None:
    """This rank's part of weights with `sizes` output features, each shared evenly; None where it is alone."""
    return _parts(0, sizes)


def shared_in(size: int) -> list[Cut] | None:
    """The same of one weight's input features."""
    return _parts(1, (size,))


def _parts(dim: int, sizes: Sequence[int]) -> list[Cut] | None:
    group = current()
    counts = [padded_share(size, group.size) for size in sizes]
    return None if group.size == 1 else [Cut(dim, group.rank * count, (group.rank + 1) * count) for count in counts]


def _ratio(of_x: Tensor | None, of_out: Tensor | None) -> Tensor | None:
    """Factors [N] of what is added to rows that are still to be multiplied by `of_out`, made of rows likewise. Where that is 0, so is the
    row that it is made of."""
    if of_out is None or of_x is of_out:
        return of_x if of_out is None else None
    ratio: Tensor = (torch.ones_like(of_out) if of_x is None else of_x) / of_out
    return ratio.nan_to_num_(nan=0.0, posinf=0.0)
