"""Matrix multiplication: our own kernel where the CPU has what it takes, else oneDNN's.

For oneDNN the weight is laid out once instead of at every call: that saves 5 to 25 % and gives the same bits as a plain one
in bfloat16. The operations are private to torch: where they are missing, or refuse a dtype or CPU, the weight stays as it is.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from ..reference.linear import in_chunks
from . import gemm
from .activation import KINDS
from .gemm import Panels
from .library import DTYPES, function

#: Rows the layout is chosen for. Measured: the same speed at 16 to 2048 rows whatever it is.
ROWS = 256

_gemm = function("infer_gemm", "ppppiiiiiiii")


def pack_weight(weight: Tensor) -> Panels | Tensor:
    return packed(weight)


def packed(weight: Tensor, *, halves: bool = False) -> Panels | Tensor:
    """`halves`: for `linear_gated`, where that is a kernel of its own."""
    if gemm.takes(weight):
        return gemm.pack(weight, halves=halves)
    return _pack(weight) if _can_pack(weight.dtype) else weight


def linear(x: Tensor, weight: Panels | Tensor, bias: Tensor | None, row_chunk: int) -> Tensor:
    if isinstance(weight, Panels):  # row-wise by itself; the bias may be of another dtype, as float32
        return _ours(x, weight, bias)
    return in_chunks(x, row_chunk, lambda part: _multiply(part, weight, bias))


def linear_gated(x: Tensor, weight: Panels, bias: Tensor | None, kind: str) -> Tensor:
    """See `Ops.linear_gated`, of a weight packed in halves: what the product gives is never written."""
    return _ours(x, weight, bias, KINDS[kind])


def _ours(x: Tensor, weight: Panels, bias: Tensor | None, gate: int = -1) -> Tensor:
    x, (rows, outs, words) = gemm.rows_for(x, weight), (x.shape[0], weight.out_features, weight.row_words)
    out = torch.empty((rows, outs if gate < 0 else weight.half), dtype=x.dtype)
    bias_dtype = 0 if bias is None else DTYPES[bias.dtype]
    _gemm(out, x, weight.words, bias, rows, outs, words, DTYPES[x.dtype], weight.widened, bias_dtype, weight.half, gate)
    return out


@functools.cache
def _can_pack(dtype: torch.dtype) -> bool:
    try:
        _multiply(torch.zeros(16, 32, dtype=dtype), _pack(torch.zeros(16, 32, dtype=dtype)), None)
    except (AttributeError, RuntimeError):
        return False
    return True


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return packed


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not weight.is_mkldnn:
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
