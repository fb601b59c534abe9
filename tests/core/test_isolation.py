"""Isolation: a record that breaks the model's arithmetic fails alone, whatever pages it leaves behind."""

from __future__ import annotations

from pathlib import Path

import torch

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.engine.engine import Engine
from infer.core.settings.args import EngineArgs
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

POISON = 200


def run(engine: Engine, prompts: dict[str, list[int]]) -> dict[str, RequestOutput]:
    for index, (name, prompt) in enumerate(prompts.items()):
        engine.add(Request(name, prompt, SamplingParams(temperature=0, max_tokens=30, ignore_eos=True), index))
    got = {}
    while engine.num_unfinished:
        got.update({o.request_id: o for o in engine.step()})
    return got


def test_nan_stays_in_its_record(tiny_llama: Path) -> None:
    healthy = {f"healthy {i}": [20 + i, 5, 6] * (3 + i) for i in range(6)}
    expected = run(build_engine(make_plan(EngineArgs.from_kwargs(model=str(tiny_llama), dtype="float32", device="cpu"))), healthy)
    assert not any(POISON in o.outputs[0].token_ids for o in expected.values())

    # So few blocks that the blocks of failed records, full of NaN, are used again by healthy ones at once.
    engine = build_engine(
        make_plan(EngineArgs.from_kwargs(model=str(tiny_llama), dtype="float32", device="cpu", num_gpu_blocks_override=12))
    )
    engine.runner.model.embedding.weight.tensor[POISON] = torch.nan
    mixed = {}
    for i, (name, prompt) in enumerate(healthy.items()):
        mixed[f"poisoned {i}"] = [*prompt[: 2 + i], POISON, *prompt[:20]]
        mixed[name] = prompt
    got = run(engine, mixed)
    for name, output in got.items():
        if name in healthy:
            assert output.outputs == expected[name].outputs
        else:
            assert output.error is not None
            assert output.error.code == "non_finite_logits"
            assert output.outputs == []
