"""Launches are counted as they would be made: so many for each layer, and one for a step that is replayed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from infer.core.bench.kernels import SHAPES
from infer.core.bench.launches import GPUSteps, Launches
from infer.core.settings.args import EngineArgs
from infer.core.spec.read import read_spec
from infer.kernels.ops import SamplingRows

from ..engine import stacks

pytest.importorskip("triton")

DECODES = [([-1 - i], 20 + i, [2 * i + 1, 2 * i + 2]) for i in range(3)]
PROMPT = ([5] * 17, 0, [7, 8])


def launches(layers: int, *sequences: Any, rows: SamplingRows | None = None) -> Launches:
    spec = read_spec({**SHAPES, "num_hidden_layers": layers})
    config = EngineArgs.from_kwargs(model="none", device="cpu", block_size=16).resolve(spec)
    found = GPUSteps(replace(config, device="cuda"), spec, 64).count(stacks.step(*sequences, block_size=16), rows)
    assert found is not None
    return found


@pytest.mark.parametrize("sequences", [DECODES, [*DECODES, PROMPT]], ids=["decodes", "mixed"])
def test_each_layer_has_as_many_and_a_recording_has_one_for_all(sequences: Any) -> None:
    one, two, three = (launches(layers, *sequences) for layers in (1, 2, 3))
    prompts = len(sequences) - len(DECODES)
    # Norm, qkv, rotation, decodes in pieces and their sum, prompts, out, norm, gate and up, activation, down.
    assert two.eager - one.eager == three.eager - two.eager == 10 + prompts
    # Inputs, tokens of the step before, the recording, logits, the draw.
    assert one.recorded == two.recorded == three.recorded == 5


def test_what_draws_need_is_counted() -> None:
    numbers: dict[str, Any] = {"temperature": np.float32(1), "top_k": 0, "top_p": np.float32(1), "min_p": np.float32(0)}
    rows = SamplingRows(**{name: torch.full((3,), value) for name, value in numbers.items()}, uniform=torch.full((3,), 0.5))
    greedy, drawn = launches(1, *DECODES), launches(1, *DECODES, rows=rows)
    assert drawn.eager > greedy.eager
    assert greedy.recorded is not None
    assert drawn.recorded is not None
    assert drawn.eager - greedy.eager == drawn.recorded - greedy.recorded
