"""Rows as operations take them: plain, or with a factor each."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

#: What stands for 0 in quantized activations: they are uint8, because int8 dot products take one unsigned side.
INT8_ZERO = 128


class ScaledRows(NamedTuple):
    """Rows with one factor each, as int8 layers pass them on.

    Quantized activations are uint8 and mean `(values[i] - INT8_ZERO) * scale[i]`; what an int8 multiplication gives is of
    the model's dtype and means `values[i] * scale[i]`.
    """

    values: Tensor
    """[N, F]"""
    scale: Tensor
    """float32 [N]"""


#: What a row-wise operation takes and may give: plain rows, or rows with a factor each.
Rows = Tensor | ScaledRows
