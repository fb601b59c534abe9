"""Schedule independence: what a record gets never depends on batch size, neighbours, chunking, cache hits, preemption or order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.engine.engine import Engine
from infer.core.settings.args import EngineArgs
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

SCHEDULES: dict[str, dict[str, Any]] = {
    "one at a time": {"max_num_seqs": 1},
    "seven at a time": {"max_num_seqs": 7},
    "small chunks": {"max_num_batched_tokens": 64},
    "tiny chunks": {"max_num_batched_tokens": 5, "max_num_seqs": 4},
    "large chunks": {"max_num_batched_tokens": 2048},
    "no prefix cache": {"enable_prefix_caching": False},
    "preemption": {"num_gpu_blocks_override": 24},
    "preemption of chunks": {"num_gpu_blocks_override": 24, "max_num_batched_tokens": 24},
    "other pages": {"block_size": 4},
    "capped prefills": {"long_prefill_token_threshold": 7},
    "two lanes": {"lanes": 2, "threads": 2},
    "three lanes, preemption of chunks": {"lanes": 3, "threads": 4, "num_gpu_blocks_override": 24, "max_num_batched_tokens": 24},
    "by priority": {"scheduling_policy": "priority", "num_gpu_blocks_override": 30},
}
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. " * 3


def records(kind: str) -> list[tuple[str, SamplingParams]]:
    """Prompts of many lengths, some with a common beginning, some equal."""
    prompts = [TEXT[: 7 * i + 1] for i in range(14)] + [TEXT[100:150]] * 3 + [TEXT[5:200], "x", "yz"]
    params = {
        "greedy": {"temperature": 0.0},
        "sampled": {"temperature": 0.8},
        "truncated": {"temperature": 1.1, "top_p": 0.9, "top_k": 40, "min_p": 0.02, "repetition_penalty": 1.1, "frequency_penalty": 0.2},
        "own seed": {"temperature": 0.8, "seed": 11},
        "choices": {"temperature": 0.9, "n": 3, "logprobs": 2},
        "prompts": {"temperature": 0.9, "n": 2, "best_of": 3, "prompt_logprobs": 2},
    }[kind]
    return [(p, SamplingParams(max_tokens=10 + i % 5, min_tokens=i % 4, **params)) for i, p in enumerate(prompts)]  # type: ignore[arg-type]


def answers(engine: Engine, made: list[tuple[str, SamplingParams]], *, order: list[int] | None = None) -> list[RequestOutput]:
    assert engine.tokenizer is not None
    for i in order or range(len(made)):
        prompt, params = made[i]
        engine.add(Request(str(i), engine.tokenizer.encode(prompt), params, i, priority=i * 5 % 4))
    got: dict[str, RequestOutput] = {}
    while engine.num_unfinished:
        got.update({o.request_id: o for o in engine.step()})
    engine.scheduler.check_integrity()
    return [got[str(i)] for i in range(len(made))]


def start(model: Path, dtype: str, **kwargs: Any) -> Engine:
    args = EngineArgs.from_kwargs(model=str(model), dtype=dtype, device="cpu", seed=3, **{"lanes": 1, **kwargs})
    engine = build_engine(make_plan(args))
    assert (engine._crew is not None) == ("lanes" in kwargs)
    if engine._crew is not None:
        engine._crew.enough = 2
    return engine


@pytest.mark.parametrize(
    ("dtype", "more", "schedules"),
    [
        ("float32", None, slice(None)),
        ("bfloat16", None, slice(0, None, 2)),
        ("bfloat16", {}, slice(1, None, 2)),
        ("float32", {"quantize_lm_head": True}, slice(0, None, 2)),
    ],
    ids=["float32", "bfloat16", "int8", "float32, all int8"],
)
def test_no_schedule_changes_an_answer(
    tiny_llama: Path, int8: dict[str, Any], dtype: str, more: dict[str, Any] | None, schedules: slice
) -> None:
    """Of other products than those of float32, each has half of the schedules."""
    kinds = {kind: records(kind) for kind in ("greedy", "sampled", "truncated", "choices", "prompts")}
    if more is not None or dtype != "float32":  # all kinds in one job, which has fewer steps
        kinds = {"all": [record for kind in kinds.values() for record in kind]}
    more = {} if more is None else {**int8, **more}
    base_engine = start(tiny_llama, dtype, **more)
    base = {kind: answers(base_engine, made) for kind, made in kinds.items()}
    assert all(len({o.outputs[0].text for o in outputs}) > 10 for outputs in base.values())
    for name, settings in list(SCHEDULES.items())[schedules]:
        engine = start(tiny_llama, dtype, **settings, **more)
        for kind, made in kinds.items():
            for (_, params), expected, got in zip(made, base[kind], answers(engine, made), strict=True):
                assert got.outputs == expected.outputs, f"{kind}, {name}"
                assert got.prompt_logprobs == expected.prompt_logprobs, f"{kind}, {name}"
                assert (got.prompt_logprobs is not None) == (params.prompt_logprobs is not None)
        if "num_gpu_blocks_override" in settings:
            assert engine.stats.num_preemptions > 0


def test_the_order_of_starting_changes_nothing(tiny_llama: Path) -> None:
    """Long outputs first and common prefixes together, or as they came; all at once, or spread over the steps."""
    made = [(prompt, replace(params, max_tokens=2 + i * 5 % 23)) for i, (prompt, params) in enumerate(records("choices"))]
    base: list[RequestOutput] | None = None
    for look_ahead in (1, 5, 4096):
        for more in (True, False):
            for blocks in (None, 30):
                engine = start(tiny_llama, "float32", max_num_seqs=20, num_gpu_blocks_override=blocks)
                engine.scheduler.waiting.look_ahead = look_ahead
                engine.expect_more(more)
                got = answers(engine, made)
                base = base or got
                assert [o.outputs for o in got] == [o.outputs for o in base], f"{look_ahead}, {more}, {blocks}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_order_of_arrival_changes_nothing(tiny_llama: Path, dtype: str) -> None:
    for kind in ("greedy", "sampled", "choices"):
        made = records(kind)
        forward = answers(start(tiny_llama, dtype, max_num_seqs=5), made)
        backward = answers(start(tiny_llama, dtype, max_num_seqs=5), made, order=list(reversed(range(len(made)))))
        assert [o.outputs for o in forward] == [o.outputs for o in backward]


def test_own_seed_makes_the_place_in_the_input_irrelevant(tiny_llama: Path) -> None:
    made = records("own seed")
    forward = answers(start(tiny_llama, "float32"), made)
    reversed_input = answers(start(tiny_llama, "float32"), made[::-1])
    assert [o.outputs for o in forward] == [o.outputs for o in reversed_input[::-1]]
    other = answers(start(tiny_llama, "float32"), records("sampled"))
    assert [o.outputs for o in forward] != [o.outputs for o in other]


def test_run_seed_and_index_matter(tiny_llama: Path) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=12)
    same = answers(start(tiny_llama, "float32"), [("hello", params)] * 6)
    assert len({o.outputs[0].text for o in same}) > 3
    engine = build_engine(make_plan(EngineArgs.from_kwargs(model=str(tiny_llama), dtype="float32", device="cpu", seed=4)))
    assert answers(engine, [("hello", params)] * 6) != same
