"""int4: weights rounded to 4 bits in groups as they are loaded, multiplied as those of packed checkpoints are."""

from __future__ import annotations

import torch
from torch import Tensor

from infer.kernels.ops import Ops

from ..weights.cut import Cut
from ..weights.parameter import Value
from .rounded import Rounded
from .rounding import Form, round_in_groups

#: Input features that share a scale and a zero.
GROUP = 32


class Int4(Rounded):
    """Arguments as of `Stored`."""

    @classmethod
    def refusal(cls, ops: Ops) -> str:
        """Plain weights would lose as much and save nothing, so there must be kernels."""
        why = ops.grouped_refusal(GROUP, GROUP, quantize_input=False)
        return why and f"{why}; leave it out, or use kernels=reference (slow)"

    def splits(self, cut: Cut, in_features: int) -> bool:
        return cut.dim == 1 and bool(cut.start % GROUP or (cut.stop % GROUP and cut.stop < in_features))

    def rounded(self, weight: Tensor, device: torch.device) -> Value:
        in_groups = round_in_groups(weight.cpu(), 4, GROUP, Form.MINIMUM)
        return in_groups if self._keeps(in_groups) else weight

    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        """Codes, scales and minimums."""
        groups = -(-in_features // GROUP)
        return out_features * (in_features // 2 + groups * 2 * torch.float16.itemsize)
