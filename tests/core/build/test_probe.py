"""Matrix multiplications that treat rows differently are found and tamed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from infer.core.build.probe import CHUNK, make_rows_alike, rows_are_alike
from infer.core.layers.linear import Linear
from infer.core.quant.int8 import Int8
from infer.kernels import load, usable
from infer.kernels.ops import Ops as Backend
from infer.kernels.ops import ScaledRows
from infer.kernels.reference import Ops

CPU = torch.device("cpu")


class BatchDependent(Ops):
    """Rounds a row differently when there are more than CHUNK rows, as split-K or another tiling would."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result = super().linear(x, weight, bias)
        return result * (1 + 1e-6) if len(x) > CHUNK and not self.row_chunk else result


def layer(ops: Backend, size: int = 48) -> Linear:
    made = Linear(ops, ["a"], size, [32], bias=False)
    (weight,) = made.weights
    weight.fill(weight.parts[0], torch.randn(32, size), torch.float32, CPU)
    return made


def alike(made: Linear) -> bool:
    return rows_are_alike(made, torch.float32, CPU)


@pytest.mark.parametrize("backend", usable("cpu"))
def test_this_machine_is_taken_as_it_is(backend: str) -> None:
    ops = load(backend)
    make_rows_alike(ops, [layer(ops)], torch.float32, CPU)
    assert (ops.row_chunk == 0) == alike(layer(load(backend)))


def test_a_batch_dependent_library_is_run_in_chunks(caplog: pytest.LogCaptureFixture) -> None:
    ops = BatchDependent()
    made = layer(ops)
    assert not alike(made)
    make_rows_alike(ops, [made], torch.float32, CPU)
    assert ops.row_chunk == CHUNK
    assert alike(made)
    assert "32 x 48 (float32) depends on the batch here" in caplog.text


def test_each_shape_and_method_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = Ops()
    tried = []

    def try_it(made: Linear, *_: object) -> bool:
        tried.append(made)
        return True

    monkeypatch.setattr("infer.core.build.probe.rows_are_alike", try_it)
    other = Linear(ops, ["a"], 48, [32], bias=False, method=Int8(ops))
    layers = [layer(ops), layer(ops), layer(ops, 64), other]
    make_rows_alike(ops, layers, torch.float32, CPU)
    assert tried == [layers[0], layers[2], layers[3]]


def test_scales_count_as_much_as_values() -> None:
    class Drifting(Ops):
        @staticmethod
        def quantize(x: Tensor) -> ScaledRows:
            values, scale = Ops.quantize(x)
            return ScaledRows(values, scale * (1 + 1e-6) if len(x) > CHUNK else scale)

    ops = Drifting()
    made = Linear(ops, ["a"], 48, [32], bias=False, method=Int8(ops))
    (weight,) = made.weights
    weight.fill(weight.parts[0], torch.randn(32, 48), torch.float32, CPU)
    assert not alike(made)
