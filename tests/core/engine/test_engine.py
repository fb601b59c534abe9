"""Engines: whatever the schedule, blocks and cache do, each request gets what it would get alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infer.core.engine.engine import Engine
from infer.core.errors import RecordError
from infer.core.types.noise import noise_key, uniforms
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

from ..stepping import drain

EOS, EXTRA = 1, 2


def alone(oracle: Callable[[list[int]], torch.Tensor], request: Request, choice: int = 0, run_seed: int = 0) -> list[int]:
    """The output of one choice by a plain loop over the whole context."""
    p = request.params
    key = noise_key(p.seed, run_seed, request.index, choice)
    tokens = list(request.prompt_token_ids)
    output: list[int] = []
    assert p.max_tokens is not None
    while len(output) < p.max_tokens:
        logits = oracle(tokens)
        if p.temperature == 0:
            token = int(logits.argmax())
        else:
            cumulative = torch.softmax(logits / p.temperature, -1).double().cumsum(-1)
            u = float(uniforms([key], [len(output)])[0])
            token = int((cumulative <= u * cumulative[-1]).sum())
        output.append(token)
        tokens.append(token)
        if token in (EOS, EXTRA) and not p.ignore_eos:
            break
    return output


requests = st.lists(
    st.tuples(
        st.lists(st.integers(3, 5), min_size=1, max_size=30), st.integers(1, 20), st.integers(1, 4), st.booleans(), st.integers(0, 3)
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=120)
@given(
    requests=requests,
    block_size=st.sampled_from([1, 2, 4, 8]),
    spare=st.integers(0, 30),
    seqs=st.integers(1, 6),
    tokens=st.sampled_from([6, 16, 64]),
    caching=st.booleans(),
    threshold=st.sampled_from([0, 5]),
    staggered=st.booleans(),
    look_ahead=st.sampled_from([1, 3, 4096]),
    told=st.booleans(),
    states=st.sampled_from([0, 0, 1, 4, 30]),
)
def test_every_request_gets_what_it_gets_alone(
    make_engine: Any,
    oracle: Any,
    requests: Any,
    block_size: int,
    spare: int,
    seqs: int,
    tokens: int,
    caching: bool,
    threshold: int,
    staggered: bool,
    look_ahead: int,
    told: bool,
    states: int,
) -> None:
    made = []
    for i, (prompt, length, n, greedy, seed) in enumerate(requests):
        params = SamplingParams(temperature=0 if greedy else 0.9, max_tokens=length, n=1 if greedy else n, seed=seed or None)
        made.append(Request(str(i), prompt, params, i))
    largest = max(-(-(len(r.prompt_token_ids) + (r.params.max_tokens or 0)) // block_size) for r in made)
    engine = make_engine(
        num_blocks=largest + spare,
        block_size=block_size,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        enable_prefix_caching=caching,
        long_prefill_token_threshold=threshold,
        num_states=states,
        seed=7,
    )
    engine.scheduler.waiting.look_ahead = look_ahead
    outputs: dict[str, RequestOutput] = {}
    for request in made:
        engine.add(request)
        if staggered:
            outputs.update({o.request_id: o for o in engine.step()})
            engine.scheduler.check_integrity()
    engine.expect_more(not told)
    outputs.update(drain(engine))
    for request in made:
        got = outputs[request.request_id]
        assert got.error is None
        assert [o.index for o in got.outputs] == list(range(request.params.n))
        for output in got.outputs:
            expected = alone(oracle, request, output.index, run_seed=7)
            assert output.token_ids == expected
            ended = expected[-1] in (EOS, EXTRA)
            assert output.finish_reason == ("stop" if ended else "length")
            assert output.stop_reason == (EXTRA if expected[-1] == EXTRA else None)
    assert max(engine.runner.num_tokens) <= tokens


def run(engine: Engine, *prompts: list[int], **params: Any) -> list[list[int]]:
    params = {"temperature": 0, "max_tokens": 12, "ignore_eos": True, **params}
    for i, prompt in enumerate(prompts):
        engine.add(Request(str(i), prompt, SamplingParams(**params), i))
    outputs = drain(engine)
    return [outputs[str(i)].outputs[0].token_ids for i in range(len(prompts))]


def test_preemption_happens_and_changes_nothing(make_engine: Any) -> None:
    prompts = [[3 + i, 4, 5, 6] * 3 for i in range(8)]
    small, large = make_engine(num_blocks=9), make_engine(num_blocks=500)
    assert run(small, *prompts) == run(large, *prompts)
    assert small.stats.num_preemptions > 0
    assert large.stats.num_preemptions == 0


def test_prefix_cache_computes_a_shared_prefix_once(make_engine: Any) -> None:
    prefix = [7, 8, 9] * 16
    engine = make_engine(num_blocks=100, max_num_seqs=1)
    run(engine, *([*prefix, 10 + i] for i in range(4)), max_tokens=1)
    assert engine.stats.num_cached_tokens == 3 * len(prefix)
    assert sum(engine.runner.num_tokens) == len(prefix) + 4
    assert engine.stats.num_prompt_tokens == 4 * (len(prefix) + 1)


def test_a_prefix_that_arrives_many_times_at_once_is_computed_once(make_engine: Any) -> None:
    prefix = [7, 8, 9] * 16
    prompts = [[*prefix, 10 + i] for i in range(6)]
    engine = make_engine(num_blocks=200)
    assert run(engine, *prompts, max_tokens=2) == run(make_engine(enable_prefix_caching=False, num_blocks=200), *prompts, max_tokens=2)
    assert engine.runner.num_tokens == [49, 1 + 5, 5]
    assert engine.stats.num_cached_tokens == 5 * len(prefix)


def test_the_parts_of_a_step_are_timed(make_engine: Any) -> None:
    engine = make_engine()
    run(engine, [3, 4, 5])
    assert list(engine.stats.seconds) == ["schedule", "batch", "model", "sample", "commit", "detokenize"]
    assert all(seconds > 0 for seconds in engine.stats.seconds.values())


def test_a_fully_cached_prompt_still_computes_its_last_token(make_engine: Any) -> None:
    engine = make_engine(num_blocks=100, max_num_seqs=1)
    first, second = run(engine, [5] * 16, [5] * 16)
    assert first == second
    assert engine.stats.num_cached_tokens == 12


def test_choices_share_the_prompt(make_engine: Any) -> None:
    engine = make_engine(num_blocks=100, enable_prefix_caching=False)
    engine.add(Request("a", [3] * 41, SamplingParams(n=4, max_tokens=3, ignore_eos=True), 0))
    engine.step()
    assert engine.runner.num_tokens == [41]
    engine.step()
    assert engine.runner.num_tokens[1] == 1 + 3  # the first goes on, the others compute the last prompt token again
    used = engine.scheduler.blocks.num_usable - engine.scheduler.blocks.num_free
    assert used == 10 + 4  # ten full blocks shared, one of their own each
    drain(engine)


def test_non_finite_logits_fail_that_record_alone(make_engine: Any) -> None:
    prompts = [[3, 4, 5, 6, 7], [9, 9, 9, 9, 9], [6, 5, 4, 3, 3]]
    expected = run(make_engine(), *prompts)
    engine = make_engine()
    engine.runner.poisoned = lambda context: context[0] == 9 and len(context) > 7
    for i, prompt in enumerate(prompts):
        engine.add(Request(str(i), prompt, SamplingParams(temperature=0, max_tokens=12, ignore_eos=True), i))
    outputs = drain(engine)
    assert outputs["1"].error is not None
    assert outputs["1"].error.code == "non_finite_logits"
    assert outputs["1"].outputs == []
    assert [outputs[i].outputs[0].token_ids for i in "02"] == [expected[0], expected[2]]
    # What the failed record computed is not handed to the next one with its prefix.
    engine.runner.poisoned = lambda context: False
    assert run(engine, prompts[1]) == [expected[1]]
    assert engine.stats.num_cached_tokens == 0


def test_a_failed_choice_fails_its_record_once(make_engine: Any) -> None:
    engine = make_engine()
    engine.runner.poisoned = lambda context: len(context) > 6
    engine.add(Request("a", [3] * 5, SamplingParams(n=3, max_tokens=9, ignore_eos=True), 0))
    outputs = drain(engine)
    assert outputs["a"].error is not None


def test_abort_frees_everything(make_engine: Any) -> None:
    engine = make_engine(num_blocks=30, max_num_seqs=2)
    for i in range(4):
        engine.add(Request(str(i), [3] * 20, SamplingParams(n=2, max_tokens=9, ignore_eos=True), i))
    for steps in range(4):
        engine.step()
        engine.abort(str(steps))
        engine.scheduler.check_integrity()
    assert engine.num_unfinished == 0
    assert not engine.scheduler.has_work
    assert engine.scheduler.blocks.num_free == engine.scheduler.blocks.num_usable


@pytest.mark.parametrize(
    ("prompt", "params", "code", "param"),
    [
        ([], {}, "invalid_value", "prompt"),
        ([3, 64], {}, "invalid_value", "prompt_token_ids"),
        ([3, -1], {}, "invalid_value", "prompt_token_ids"),
        ([3] * 32, {}, "prompt_too_long", "prompt"),
        ([3] * 20, {"max_tokens": 13}, "kv_capacity", "max_tokens"),
        ([3] * 24, {"max_tokens": None}, "kv_capacity", "max_tokens"),
        ([3], {"logprobs": 21}, "invalid_value", "logprobs"),
        ([3], {"stop_token_ids": [64]}, "invalid_value", "stop_token_ids"),
    ],
)
def test_requests_that_can_never_be_answered_are_refused(make_engine: Any, prompt: Any, params: Any, code: str, param: str) -> None:
    engine = make_engine(num_blocks=6, length=32)
    with pytest.raises(RecordError) as caught:
        engine.add(Request("a", prompt, SamplingParams(**params), 0))
    assert (caught.value.code, caught.value.param) == (code, param)
    assert engine.num_unfinished == 0
    run(engine, [3] * 20, max_tokens=4)  # the largest that fits runs


@pytest.mark.parametrize("is_given", [True, False])
def test_what_may_fill_the_context_and_fills_the_cache(make_engine: Any, is_given: bool) -> None:
    """At a size that was given it ends with "length"; where memory set the size, the record fails: its answer would depend on that."""
    engine = make_engine(num_blocks=6, length=32)
    engine._limits = replace(engine._limits, size_is_given=is_given)
    engine.add(Request("a", [3] * 4, SamplingParams(max_tokens=None, ignore_eos=True, seed=1), 0))
    engine.add(Request("b", [3] * 4, SamplingParams(max_tokens=2, ignore_eos=True, seed=1), 1))
    outputs = drain(engine)
    assert len(outputs["b"].outputs[0].token_ids) == 2
    if is_given:
        (choice,) = outputs["a"].outputs
        assert (len(choice.token_ids), choice.finish_reason) == (20, "length")
    else:
        assert (outputs["a"].error.code, outputs["a"].error.retryable) == ("kv_capacity", True)
    assert engine.num_unfinished == 0


def test_min_tokens_holds_back_the_end_and_stop_tokens(make_engine: Any, oracle: Any) -> None:
    engine = make_engine(num_blocks=400, block_size=8)
    stop = list(range(3, 40))
    for i in range(20):
        engine.add(Request(str(i), [50 + i % 10, i], SamplingParams(max_tokens=30, min_tokens=5, stop_token_ids=stop, seed=i + 1), i))
    for output in drain(engine).values():
        ids = output.outputs[0].token_ids
        assert len(ids) >= 6 or output.outputs[0].finish_reason == "length"
        assert not {*ids[:5]} & {EOS, EXTRA, *stop}


def test_stop_tokens_report_their_id_and_eos_does_not(make_engine: Any) -> None:
    engine = make_engine(num_blocks=400)
    for i in range(40):
        engine.add(Request(str(i), [3, i], SamplingParams(max_tokens=200, stop_token_ids=[9]), i))
    seen = set()
    for output in drain(engine).values():
        choice = output.outputs[0]
        if choice.finish_reason == "stop":
            seen.add((choice.token_ids[-1], choice.stop_reason))
    assert seen == {(EOS, None), (EXTRA, EXTRA), (9, 9)}


def test_logprobs_are_of_the_raw_distribution(make_engine: Any, oracle: Any) -> None:
    engine = make_engine()
    params = SamplingParams(logprobs=3, max_tokens=6, temperature=2.0, top_k=5, presence_penalty=1.0, ignore_eos=True)
    engine.add(Request("a", [3, 4, 5], params, 0))
    output = drain(engine)["a"].outputs[0]
    context = [3, 4, 5]
    total = 0.0
    assert output.logprobs is not None
    for token, entries in zip(output.token_ids, output.logprobs, strict=True):
        expected = torch.log_softmax(oracle(context), -1)
        best = torch.sort(expected, descending=True).indices.tolist()
        assert list(entries)[:3] == best[:3]
        assert set(entries) == {*best[:3], token}
        for t, entry in entries.items():
            assert entry.logprob == pytest.approx(float(expected[t]), abs=1e-5)
            assert entry.rank == best.index(t) + 1
        total += entries[token].logprob
        context.append(token)
    assert output.cumulative_logprob == pytest.approx(total)
