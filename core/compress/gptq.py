"""GPTQ (Frantar et al. 2022): weights are rounded feature by feature, those to come making up for errors on calibration texts."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quant.rounding import Range, codes_of, dequantized

#: Features after which the errors are applied to all that are left.
_BLOCK = 128
#: Shares of the mean of the Hessian's diagonal that are added to it, until it can be inverted.
_DAMPING = (0.01, 0.1, 1.0)


def round_with(weight: Tensor, hessian: Tensor, ranges: Range, group_size: int, bits: int) -> Tensor:
    """Codes uint8 [out, in] of a float32 weight.

    Features go in order of their importance, the diagonal of the Hessian; their groups and ranges stay ("actorder": "weight").

    Args:
        hessian: float32 [in, in], sum of x x^T of the layer's inputs.
        ranges: of each group, [out, groups, 1].
    """
    order = hessian.diagonal().argsort(descending=True, stable=True)
    upper = _inverse_factor(hessian[order][:, order])
    by_feature = Range(*(part[..., 0].repeat_interleave(group_size, 1)[:, : weight.shape[1]][:, order] for part in ranges))
    left = weight[:, order]
    codes = torch.empty_like(left)
    for first in range(0, left.shape[1], _BLOCK):
        last = min(first + _BLOCK, left.shape[1])
        errors = torch.empty(len(left), last - first)
        block = left[:, first:last].T.contiguous()  # a feature's values lie together
        for i in range(last - first):
            one = Range(*(part[:, first + i] for part in by_feature))
            column = codes_of(block[i], one, bits)
            codes[:, first + i] = column
            error = (block[i] - dequantized(column, one)) / upper[first + i, first + i]
            block[i + 1 :] -= upper[first + i, first + i + 1 : last, None] * error
            errors[:, i] = error
        left[:, last:] -= errors @ upper[first:last, last:]
    result = torch.empty_like(codes, dtype=torch.uint8)
    result[:, order] = codes.to(torch.uint8)
    return result


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper triangular U with U^T U the inverse of the Hessian, damped."""
    diagonal = hessian.diagonal()
    mean = diagonal.mean().clamp(min=1e-30)
    for share in _DAMPING:
        damped = hessian + torch.diag((mean * share).expand(len(hessian)))
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
            if not failed:
                return upper
    return torch.eye(len(hessian))  # nothing can be made up for
