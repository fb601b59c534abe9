"""int4: weights rounded to 4 bits in groups as they are loaded, multiplied as those of packed checkpoints are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from infer.kernels.ops import Ops

from ..weights.cut import Cut
from ..weights.formats.values import cut_of
from ..weights.parameter import Parameter, Value
from .rounding import Form, round_in_groups
from .stored import Stored

#: Input features that share a scale and a zero.
GROUP = 32


class Int4(Stored):
    """Arguments as of `Stored`. A rank's part of a weight is that of the whole one."""

    _cuts: Sequence[Cut] | None = None

    @classmethod
    def refusal(cls, ops: Ops) -> str:
        """Plain weights would lose as much and save nothing, so there must be kernels."""
        why = ops.grouped_refusal(GROUP, GROUP, quantize_input=False)
        return why and f"{why}; leave it out, or use kernels=reference (slow)"

    def declare(self, names: Sequence[str], outs: Sequence[int], in_features: int, cuts: Sequence[Cut] | None) -> list[Parameter]:
        self._cuts = None
        if cuts is not None and any(cut.dim == 1 and (cut.start % GROUP or (cut.stop % GROUP and cut.stop < in_features)) for cut in cuts):
            self._cuts, cuts = cuts, None  # a group has numbers of two ranks: it is rounded whole
        matrices = [(f"{name}.weight", (out, in_features)) for name, out in zip(names, outs, strict=True)]
        return [Parameter(*matrices, cuts=cuts, take=self._round)]

    def store(self, weight: Tensor) -> None:
        self._round([weight], weight.device)

    def _round(self, values: list[Value], device: torch.device) -> None:
        rounded = [self._rounded(value) for value in values]
        if self._cuts is not None:
            rounded = [cut_of(value, cut) for value, cut in zip(rounded, self._cuts, strict=True)]
        self._take(rounded, device)

    def _rounded(self, value: Value) -> Value:
        """The weight in 4 bits; as it is where the backend could not multiply by that."""
        assert isinstance(value, Tensor), "weights that are quantized already are refused before"
        weight = round_in_groups(value.cpu(), 4, GROUP, Form.MINIMUM)
        return weight if self._keeps(weight) else value

    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        """Codes, scales and minimums."""
        groups = -(-in_features // GROUP)
        return out_features * (in_features // 2 + groups * 2 * torch.float16.itemsize)
