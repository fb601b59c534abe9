"""Short causal convolution over states."""

from __future__ import annotations

from torch import Tensor

from ...state import States
from ..library import DTYPES, function

#: Same numbers as `Kind` in src/convolution.cpp.
_KINDS = {None: 0, "silu": 1}

_short_convolution = function("infer_short_convolution", "ppppppppiiiiiii")


def short_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, states: States, activation: str | None) -> Tensor:
    count, size = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    assert state.dtype == x.dtype
    assert state.is_contiguous()
    assert weight.is_contiguous()
    out = x.new_empty((count, size))
    where = (states.query_start, states.kv_lens, states.slots)
    shape = (len(states.slots), count, size, len(weight), x.stride(0), DTYPES[x.dtype], _KINDS[activation])
    _short_convolution(x, weight, bias, state, *where, out, *shape)
    return out
