"""Every mix of parameters in one batch: each record gets, to the bit, what it gets alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.engine.engine import Engine
from infer.core.settings.args import EngineArgs
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

from .guesses import Guesses, guided
from .stepping import drain

NUM = 60
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. " * 2

#: Constraints that a model of random weights can end.
STRUCTURES: list[dict[str, Any]] = [
    {"regex": "[a-f]{3,6}[0-9]?"},
    {"choice": ["yes", "no", "perhaps not"]},
    {"json": {"type": "object", "properties": {"a": {"type": "integer", "maximum": 99, "minimum": 0}}, "required": ["a"]}},
    {"grammar": 'root ::= "x" [a-c] root | "."'},
]


def forbids_large(output: list[int], logits: torch.Tensor) -> torch.Tensor:
    logits[200 + len(output) :] = float("-inf")
    return logits


def favours_prompt(prompt: list[int], output: list[int], logits: torch.Tensor) -> torch.Tensor:
    logits[prompt[len(output) % len(prompt)]] += 3
    return logits


#: What a record may ask for, each with a chance: a function of random numbers gives the value.
CHOICES: list[tuple[float, Callable[[random.Random], dict[str, Any]]]] = [
    (0.3, lambda r: {"n": r.randrange(2, 4)}),
    (0.3, lambda r: {"presence_penalty": r.uniform(-2, 2)}),
    (0.3, lambda r: {"frequency_penalty": r.uniform(-2, 2)}),
    (0.3, lambda r: {"repetition_penalty": r.choice([0.5, 1.3, 2.0])}),
    (0.4, lambda r: {"top_p": r.choice([0.2, 0.9, 0.99])}),
    (0.4, lambda r: {"top_k": r.choice([1, 5, 60])}),
    (0.3, lambda r: {"min_p": r.choice([0.01, 0.2])}),
    (0.3, lambda r: {"seed": r.randrange(10)}),
    (0.3, lambda r: {"stop": r.choice(["a", ["zz", "q", "e"], " t"])}),
    (0.3, lambda r: {"include_stop_str_in_output": True}),
    (0.3, lambda r: {"stop_token_ids": [r.randrange(3, 250) for _ in range(20)]}),
    (0.2, lambda r: {"bad_words": r.choice([["a"], ["it", "was ", "e"]])}),
    (0.3, lambda r: {"ignore_eos": True}),
    (0.4, lambda r: {"min_tokens": r.randrange(1, 6)}),
    (0.3, lambda r: {"logprobs": r.choice([0, 2, -1])}),
    (0.3, lambda r: {"prompt_logprobs": r.choice([0, 1, 5, -1])}),
    (0.2, lambda r: {"skip_special_tokens": False}),
    (0.2, lambda r: {"skip_reading_prefix_cache": True}),
    (0.2, lambda r: {"logits_processors": r.choice([[forbids_large], [favours_prompt], [favours_prompt, forbids_large]])}),
    (0.3, lambda r: {"logit_bias": {r.randrange(3, 250): r.uniform(-20, 20) for _ in range(5)}}),
    (0.2, lambda r: {"allowed_token_ids": sorted({r.randrange(3, 250) for _ in range(100)} | {2})}),
]


def draw(r: random.Random) -> SamplingParams:
    """Parameters as a record might mix them; those that contradict each other are left out."""
    values: dict[str, Any] = {"temperature": r.choice([0.0, 0.7, 1.0, 1.5]), "max_tokens": r.randrange(6, 14)}
    for chance, make in CHOICES:
        if r.random() < chance:
            values.update(make(r))
    if values["temperature"] == 0:
        values.pop("n", None)
    elif r.random() < 0.3:
        values["best_of"] = values.get("n", 1) + r.randrange(3)
    if r.random() < 0.3:
        values["structured_outputs"] = r.choice(STRUCTURES)
        for name in ("allowed_token_ids", "bad_words", "logits_processors"):  # together they may leave no token at all
            values.pop(name, None)
    return SamplingParams(**values)


def records(seed: int) -> list[Request]:
    r = random.Random(seed)
    made = []
    for i in range(NUM):
        start = r.choice([0, 0, r.randrange(50)])
        prompt = [b + 3 for b in TEXT[start : start + r.randrange(1, 80)].encode()]
        made.append(Request(str(i), prompt, draw(r), i, priority=r.randrange(-2, 3)))
    return made


def start(model: Path, dtype: str, **kwargs: Any) -> Engine:
    return build_engine(make_plan(EngineArgs.from_kwargs(model=str(model), dtype=dtype, device="cpu", seed=3, max_logprobs=-1, **kwargs)))


def same(got: RequestOutput, expected: RequestOutput) -> bool:
    errors = [None if o.error is None else o.error.to_json() for o in (got, expected)]
    return errors[0] == errors[1] and (got.outputs, got.prompt_logprobs) == (expected.outputs, expected.prompt_logprobs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_record_gets_what_it_gets_alone(tiny_llama: Path, dtype: str) -> None:
    made = records(7 if dtype == "float32" else 8)
    single = start(tiny_llama, dtype, enable_prefix_caching=False)
    alone: dict[str, RequestOutput] = {}
    for request in made:
        single.add(request)
        alone.update(drain(single))
    assert sum(o.error is None for o in alone.values()) > 0.9 * NUM
    schedules: list[dict[str, Any]] = [
        {},
        {"num_gpu_blocks_override": 26, "max_num_batched_tokens": 48, "block_size": 4, "scheduling_policy": "priority"},
        {"num_gpu_blocks_override": 40, "max_num_seqs": 9, "block_size": 4},
        {"num_gpu_blocks_override": 40, "max_num_seqs": 9, "block_size": 4, "speculation": "ngram", "num_speculative_tokens": 6},
    ]
    for schedule in schedules:
        engine = start(tiny_llama, dtype, **schedule)
        if schedule.get("speculation"):
            guided(engine, Guesses(alone, 5, range(259)))
        for request in made:
            engine.add(request)
        together = drain(engine)
        wrong = [
            (r.params, together[r.request_id], alone[r.request_id]) for r in made if not same(together[r.request_id], alone[r.request_id])
        ]
        assert not wrong, f"{schedule}: {len(wrong)} of {NUM}, first: {wrong[0]}"
        assert not schedule or engine.stats.num_preemptions > 0


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_whatever_the_logprobs_are_of(tiny_llama: Path, mode: str) -> None:
    made = [r for r in records(9) if r.params.logprobs is not None or (r.params.best_of or 1) > r.params.n]
    assert len(made) > 15
    engine = start(tiny_llama, "float32", logprobs_mode=mode, num_gpu_blocks_override=30, block_size=4)
    single = start(tiny_llama, "float32", logprobs_mode=mode)
    for request in made:
        engine.add(request)
    together = drain(engine)
    for request in made:
        single.add(request)
        (expected,) = drain(single).values()
        assert same(together[request.request_id], expected), request.params
