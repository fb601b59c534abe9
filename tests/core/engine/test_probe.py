"""Matrix multiplications that treat rows differently are found and tamed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infer.core.engine.probe import CHUNK, make_rows_alike, rows_are_alike
from infer.kernels import load
from infer.kernels.reference import Ops


class BatchDependent(Ops):
    """Rounds a row differently when there are more than CHUNK rows, as split-K or another tiling would."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.row_chunk:
            return super().linear(x, weight, bias)
        result = F.linear(x, weight, bias)
        return result * (1 + 1e-6) if len(x) > CHUNK else result


def test_this_machine_is_taken_as_it_is() -> None:
    weight = torch.randn(32, 48)
    ops = load("reference")
    make_rows_alike(ops, [weight])
    assert (ops.row_chunk == 0) == rows_are_alike(load("reference"), weight)


def test_a_batch_dependent_library_is_run_in_chunks(caplog: pytest.LogCaptureFixture) -> None:
    weight = torch.randn(32, 48)
    ops = BatchDependent()
    assert not rows_are_alike(ops, weight)
    make_rows_alike(ops, [weight])
    assert ops.row_chunk == CHUNK
    assert rows_are_alike(ops, weight)
