"""The next step is begun before this one is looked at: nobody gets another answer, or another's blocks, for that."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infer.core.engine import engine as engine_module
from infer.core.engine.engine import Engine
from infer.core.engine.overlap import wanted
from infer.core.engine.overruns import Overruns
from infer.core.errors import RecordError
from infer.core.sampling.sampler import Sampler
from infer.core.settings.config import EngineConfig
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence
from infer.kernels import available, load

from .test_engine import EOS, EXTRA, alone, requests


@pytest.fixture(scope="session")
def overlapping(make_engine: Any) -> Any:
    """As `make_engine`, and steps overlap."""

    def make(**kwargs: Any) -> Engine:
        engine: Engine = make_engine(**kwargs)
        engine.scheduler.overruns = Overruns(engine.scheduler.running, engine.scheduler.blocks)
        return engine

    return make


def step(engine: Engine) -> dict[str, RequestOutput]:
    """One step, and proof that nothing which the device may still write to is to be had."""
    outputs = engine.step()
    check(engine)
    return {output.request_id: output for output in outputs}


def check(engine: Engine) -> None:
    scheduler = engine.scheduler
    scheduler.check_integrity()
    assert all(min(s.tokens) >= 0 for s in scheduler.running), "a promise is still open"
    assert (engine._lane.step is not None) == bool(scheduler.overruns is not None and scheduler.overruns.in_flight)
    if engine._lane.step is not None:
        memory: Any = engine.runner
        assert all(scheduler.blocks._refs[block] > 0 for block in memory.written)
        assert engine.num_unfinished


def drain(engine: Engine) -> dict[str, RequestOutput]:
    outputs = {}
    while engine.num_unfinished:
        outputs.update(step(engine))
    assert engine._lane.step is None
    assert engine.scheduler.blocks.num_free == engine.scheduler.blocks.num_usable
    assert not engine.scheduler.has_work
    return outputs


def run(engine: Engine, *prompts: list[int], **params: Any) -> dict[str, RequestOutput]:
    params = {"temperature": 0, "max_tokens": 12, "ignore_eos": True, **params}
    for i, prompt in enumerate(prompts):
        engine.add(Request(str(i), prompt, SamplingParams(**params), i))
    return drain(engine)


def handed(engine: Engine) -> int:
    memory: Any = engine.runner
    return int(memory.num_handed)


PROMPTS = [[3 + i, 4, 5, 6] * 3 for i in range(6)]


@settings(max_examples=75)
@given(
    requests=requests,
    block_size=st.sampled_from([1, 2, 4, 8]),
    spare=st.integers(0, 30),
    seqs=st.integers(1, 6),
    tokens=st.sampled_from([6, 16, 64]),
    caching=st.booleans(),
    threshold=st.sampled_from([0, 5]),
    staggered=st.booleans(),
    priority=st.booleans(),
    states=st.sampled_from([0, 0, 2, 9, 30]),
    dropped=st.dictionaries(st.integers(0, 11), st.integers(0, 12), max_size=3),
    data=st.data(),
)
def test_every_request_gets_what_it_gets_alone(
    overlapping: Any,
    oracle: Any,
    requests: Any,
    block_size: int,
    spare: int,
    seqs: int,
    tokens: int,
    caching: bool,
    threshold: int,
    staggered: bool,
    priority: bool,
    states: int,
    dropped: dict[int, int],
    data: st.DataObject,
) -> None:
    """Whoever ends, is aborted (`dropped`: request -> after how many steps) or waits for the end of a penalty's work meanwhile."""
    made = []
    for i, (prompt, length, n, greedy, seed) in enumerate(requests):
        more = data.draw(st.sampled_from([{}, {}, {"prompt_logprobs": 1}, {"logprobs": 2}, {"logit_bias": {63: -1e-6}}]))
        params = SamplingParams(temperature=0 if greedy else 0.9, max_tokens=length, n=1 if greedy else n, seed=seed or None, **more)
        made.append(Request(str(i), prompt, params, i, priority=i % 3))
    largest = max(-(-(len(r.prompt_token_ids) + (r.params.max_tokens or 0)) // block_size) for r in made)
    engine = overlapping(
        num_blocks=largest + spare,
        block_size=block_size,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        enable_prefix_caching=caching,
        long_prefill_token_threshold=threshold,
        scheduling_policy="priority" if priority else "fcfs",
        num_states=states,
        seed=7,
    )
    outputs: dict[str, RequestOutput] = {}
    for request in made:
        engine.add(request)
        if staggered:
            outputs.update(step(engine))
    num_steps = 0
    while engine.num_unfinished:
        for place, when in dropped.items():
            if when == num_steps and engine.is_open(str(place)):
                engine.abort(str(place))
                check(engine)
        if engine.num_unfinished:
            outputs.update(step(engine))
        num_steps += 1
    assert engine._lane.step is None
    assert engine.scheduler.blocks.num_free == engine.scheduler.blocks.num_usable
    for request in made:
        if int(request.request_id) in dropped and request.request_id not in outputs:
            continue
        got = outputs[request.request_id]
        assert got.error is None
        for output in got.outputs:
            expected = alone(oracle, request, output.index, run_seed=7)
            assert output.token_ids == expected
            ended = expected[-1] in (EOS, EXTRA)
            assert output.finish_reason == ("stop" if ended else "length")
            assert output.logprobs is None or len(output.logprobs) == len(expected)
        if request.params.prompt_logprobs is not None:
            assert got.prompt_logprobs is not None
            assert len(got.prompt_logprobs) == len(request.prompt_token_ids)
    if not dropped:
        assert engine.stats.num_output_tokens == sum(len(o.token_ids) for got in outputs.values() for o in got.outputs)
        assert engine.stats.num_prompt_tokens == sum(len(r.prompt_token_ids) for r in made)


def test_a_step_is_begun_before_the_one_before_is_looked_at(overlapping: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = overlapping()
    said: list[str] = []
    compute, finish = engine.runner.run, engine._lane.sampler.finish
    monkeypatch.setattr(engine.runner, "run", lambda batch: said.append("begin") or compute(batch))
    monkeypatch.setattr(engine._lane.sampler, "finish", lambda draws: said.append("finish") or finish(draws))
    run(engine, [3, 4, 5], max_tokens=5)
    assert said == ["begin", *["begin", "finish"] * 4, "finish"]
    assert handed(engine) == 4


def test_what_ends_by_its_length_has_no_overrun(make_engine: Any, overlapping: Any) -> None:
    plain, engine = make_engine(), overlapping()
    assert [o.outputs for o in run(plain, *PROMPTS).values()] == [o.outputs for o in run(engine, *PROMPTS).values()]
    assert engine.runner.num_tokens == plain.runner.num_tokens


def test_an_overrun_is_computed_and_nobody_sees_it(make_engine: Any, overlapping: Any) -> None:
    """Of twenty sampled outputs some end by themselves: each of them costs a token, in no output and no count."""
    params = {"temperature": 1.0, "max_tokens": 60, "ignore_eos": False}
    prompts = [[3, 4 + i] for i in range(20)]
    plain, engine = make_engine(num_blocks=400), overlapping(num_blocks=400)
    expected, got = run(plain, *prompts, **params), run(engine, *prompts, **params)
    assert {i: o.outputs for i, o in got.items()} == {i: o.outputs for i, o in expected.items()}
    stopped = [o.outputs[0].token_ids for o in got.values() if o.outputs[0].finish_reason == "stop"]
    assert len(stopped) > 3
    assert sum(engine.runner.num_tokens) == sum(plain.runner.num_tokens) + sum(len(ids) < 60 for ids in stopped)
    for name in ("num_output_tokens", "num_prompt_tokens", "num_cached_tokens"):
        assert getattr(engine.stats, name) == getattr(plain.stats, name)


def test_blocks_of_the_ended_are_kept_until_the_step_that_writes_there_is_done(overlapping: Any, oracle: Any) -> None:
    first = int(oracle([3, 4, 5, 6]).argmax())
    engine = overlapping(enable_prefix_caching=False)
    engine.add(Request("long", [9, 9, 9, 9], SamplingParams(temperature=0, max_tokens=9, ignore_eos=True), 0))
    engine.add(Request("short", [3, 4, 5, 6], SamplingParams(temperature=0, max_tokens=9, stop_token_ids=[first]), 1))
    blocks = engine.scheduler.blocks
    (output,) = step(engine).values()
    assert (output.request_id, output.outputs[0].token_ids) == ("short", [first])
    (apart,) = engine.scheduler.overruns.apart
    assert apart.blocks
    held = blocks.num_held
    assert not step(engine)
    assert not engine.scheduler.overruns.apart
    assert blocks.num_held == held - 2
    drain(engine)


def test_where_sequences_must_give_blocks_up_the_tokens_are_waited_for(make_engine: Any, overlapping: Any) -> None:
    small, large = overlapping(num_blocks=9), make_engine(num_blocks=500)
    prompts = [[3 + i, 4, 5, 6] * 3 for i in range(8)]
    got = run(small, *prompts)
    assert {i: o.outputs for i, o in got.items()} == {i: o.outputs for i, o in run(large, *prompts).items()}
    assert small.stats.num_preemptions > 0
    assert handed(small) > 8


def test_choices_begin_when_the_prompt_is_computed(make_engine: Any, overlapping: Any) -> None:
    params = {"n": 4, "temperature": 1.0, "max_tokens": 7}
    plain, engine = (make(num_blocks=100, enable_prefix_caching=False) for make in (make_engine, overlapping))
    expected, got = run(plain, [3] * 41, **params), run(engine, [3] * 41, **params)
    assert got["0"].outputs == expected["0"].outputs
    assert engine.runner.num_tokens == plain.runner.num_tokens


def test_a_choice_that_ends_at_once_leaves_its_prompt_to_the_others(make_engine: Any, overlapping: Any) -> None:
    for max_tokens in (1, 2):
        params = {"n": 3, "temperature": 1.0, "max_tokens": max_tokens}
        plain, engine = make_engine(), overlapping()
        assert run(engine, [3] * 17, **params)["0"].outputs == run(plain, [3] * 17, **params)["0"].outputs
        assert engine.runner.num_tokens == plain.runner.num_tokens


def test_non_finite_logits_fail_that_record_alone(make_engine: Any, overlapping: Any) -> None:
    prompts = [[3, 4, 5, 6, 7], [9, 9, 9, 9, 9], [6, 5, 4, 3, 3]]
    expected = run(make_engine(), *prompts)
    for more in ({}, {"logprobs": 2}):
        engine = overlapping()
        engine.runner.poisoned = lambda context: context[0] == 9 and len(context) > 7
        outputs = run(engine, *prompts, **more)
        assert outputs["1"].error is not None
        assert outputs["1"].error.code == "non_finite_logits"
        assert [outputs[i].outputs[0].token_ids for i in "02"] == [expected[i].outputs[0].token_ids for i in "02"]
        # What the failed record computed is not handed to the next one with its prefix.
        engine.runner.poisoned = lambda context: False
        assert run(engine, prompts[1])["0"].outputs == expected["1"].outputs
        assert engine.stats.num_cached_tokens == 0


def test_the_prefix_cache_has_nothing_of_a_step_that_may_have_failed(overlapping: Any) -> None:
    """The second record waits for the prefix of the first, which turns out to be broken."""
    engine = overlapping()
    broken = [9] * 12
    engine.runner.poisoned = lambda context: context == broken
    engine.add(Request("a", broken, SamplingParams(max_tokens=4), 0))
    engine.add(Request("b", [*broken, 5, 6], SamplingParams(max_tokens=4, temperature=0, ignore_eos=True), 1))
    outputs = drain(engine)
    assert outputs["a"].error is not None
    assert outputs["b"].error is None
    assert engine.stats.num_cached_tokens == 0


def test_a_common_prefix_is_computed_once(overlapping: Any) -> None:
    prefix = [7, 8, 9] * 16
    engine = overlapping(num_blocks=200)
    run(engine, *([*prefix, 10 + i] for i in range(6)), max_tokens=2)
    assert engine.stats.num_cached_tokens == 5 * len(prefix)
    assert sum(engine.runner.num_tokens) == 49 + 1 + 5 + 5


def test_what_nothing_is_left_for_fails_alone(overlapping: Any) -> None:
    """Its token, which is none, goes to the next step as any other."""
    engine = overlapping()
    params = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
    for logprobs in (None, 2):
        engine.add(Request("good", [3, 4], SamplingParams(logprobs=logprobs, **params), 0))
        bad = SamplingParams(stop_token_ids=[*range(64)], min_tokens=3, logprobs=logprobs, **params)
        engine.add(Request("bad", [3, 5], bad, 1))
        outputs = drain(engine)
        assert outputs["bad"].error is not None
        assert outputs["bad"].error.code == "invalid_value"
        assert len(outputs["good"].outputs[0].token_ids) == 6
    assert handed(engine) > 0


def test_abort_frees_everything(overlapping: Any) -> None:
    engine = overlapping(num_blocks=30, max_num_seqs=2)
    for i in range(4):
        engine.add(Request(str(i), [3] * 20, SamplingParams(n=2, max_tokens=9, ignore_eos=True), i))
    for number in range(4):
        step(engine)
        engine.abort(str(number))
        check(engine)
    assert engine.num_unfinished == 0
    assert engine._lane.step is None
    assert not engine.scheduler.has_work
    assert engine.scheduler.blocks.num_free == engine.scheduler.blocks.num_usable


def test_an_id_that_is_used_again_has_nothing_to_do_with_the_first(make_engine: Any, overlapping: Any) -> None:
    """The step in flight has a broken row of the aborted one."""
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, prompt_logprobs=1)
    (expected,) = run(make_engine(), [5, 5, 5], max_tokens=6, prompt_logprobs=1).values()
    for length in range(2, 6):
        engine = overlapping(max_num_batched_tokens=4, max_num_seqs=4)
        engine.runner.poisoned = lambda context, length=length: context[0] == 9 and len(context) >= length
        engine.add(Request("other", [3, 4], SamplingParams(max_tokens=20, ignore_eos=True), 0))
        engine.add(Request("a", [9] * 9, params, 1))
        step(engine)
        if engine.is_open("a"):
            engine.abort("a")
        engine.add(Request("a", [5, 5, 5], params, 2))
        got = drain(engine)["a"]
        assert got.error is None
        assert (got.outputs, got.prompt_logprobs) == (expected.outputs, expected.prompt_logprobs)


def test_a_device_that_breaks_leaves_an_engine_that_can_go_on(overlapping: Any, make_engine: Any) -> None:
    """As after an interrupt: what was open is aborted, and the next requests find all blocks free."""
    for after in range(1, 5):
        engine = overlapping()
        compute = engine.runner.run
        calls = Counter[str]()

        def breaking(batch: Any, after: int = after, compute: Any = compute, calls: Counter[str] = calls) -> torch.Tensor:
            calls["run"] += 1
            if calls["run"] == after:
                raise KeyboardInterrupt
            return compute(batch)  # type: ignore[no-any-return]

        engine.runner.run = breaking
        for i, prompt in enumerate(PROMPTS):
            engine.add(Request(str(i), prompt, SamplingParams(temperature=0, max_tokens=6, ignore_eos=True), i))
        with pytest.raises(KeyboardInterrupt):
            _drain(engine)
        for i in range(len(PROMPTS)):
            if engine.is_open(str(i)):
                engine.abort(str(i))
        engine.scheduler.check_integrity()
        assert engine.scheduler.blocks.num_free == engine.scheduler.blocks.num_usable
        assert [o.outputs for o in run(engine, *PROMPTS).values()] == [o.outputs for o in run(make_engine(), *PROMPTS).values()]


@pytest.mark.parametrize(
    ("params", "goes_ahead"),
    [
        ({}, True),
        ({"temperature": 0.8, "top_p": 0.9, "top_k": 20, "min_p": 0.01}, True),
        ({"min_tokens": 4, "ignore_eos": False}, True),
        ({"allowed_token_ids": [3, 4, 5, 6, 7]}, True),
        ({"logit_bias": {3: 5.0}}, True),
        ({"logprobs": 3}, True),
        ({"prompt_logprobs": 3}, True),
        ({"temperature": 0.8, "n": 2, "best_of": 3}, True),
        ({"repetition_penalty": 1.2}, False),
        ({"frequency_penalty": 0.2, "logit_bias": {3: 5.0}}, False),
        ({"presence_penalty": -0.2}, False),
        ({"logits_processors": [lambda output, logits: logits + len(output)]}, False),
    ],
    ids=lambda value: "logits_processors" if isinstance(value, dict) and "logits_processors" in value else str(value),
)
def test_where_the_host_works_on_the_last_token_it_is_waited_for(
    make_engine: Any, overlapping: Any, params: dict[str, Any], goes_ahead: bool
) -> None:
    plain, engine = make_engine(), overlapping()
    expected, got = run(plain, *PROMPTS, **params), run(engine, *PROMPTS, **params)
    for i, output in got.items():
        assert (output.outputs, output.prompt_logprobs) == (expected[i].outputs, expected[i].prompt_logprobs)
    assert (handed(engine) > 0) == goes_ahead


def test_one_that_has_to_be_waited_for_holds_the_others_up_and_no_longer(make_engine: Any, overlapping: Any) -> None:
    plain, engine = make_engine(), overlapping()
    outputs = []
    for one in (plain, engine):
        one.add(Request("long", [3, 4], SamplingParams(temperature=0, max_tokens=20, ignore_eos=True), 0))
        for _ in range(3):
            one.step()
        one.add(Request("short", [5, 6], SamplingParams(temperature=0, max_tokens=5, ignore_eos=True, presence_penalty=1.5), 1))
        outputs.append({i: o.outputs for i, o in (drain(one) if one is engine else _drain(one)).items()})
    assert outputs[0] == outputs[1]
    assert 10 < handed(engine) < 19


def _drain(engine: Engine) -> dict[str, RequestOutput]:
    outputs = {}
    while engine.num_unfinished:
        outputs.update({o.request_id: o for o in engine.step()})
    return outputs


def test_requests_that_are_refused_leave_a_step_in_flight_alone(overlapping: Any) -> None:
    engine = overlapping()
    engine.add(Request("a", [3, 4], SamplingParams(temperature=0, max_tokens=5, ignore_eos=True), 0))
    step(engine)
    with pytest.raises(RecordError):
        engine.add(Request("b", [], SamplingParams(), 1))
    assert len(drain(engine)["a"].outputs[0].token_ids) == 5


def test_who_wants_it(make_engine: Any) -> None:
    config: EngineConfig = make_engine().config
    assert not wanted(config)
    gpu = replace(config, device="cuda:0")
    assert wanted(gpu)
    assert not wanted(replace(gpu, disable_async_output_proc=True))
    assert wanted(replace(gpu, tensor_parallel_size=2))


def test_switching_off_what_is_off_is_told(make_engine: Any) -> None:
    assert "disable_async_output_proc has no effect on cpu" in make_engine(disable_async_output_proc=True).config.notes


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
@pytest.mark.parametrize("backend", available())
def test_draws_that_do_not_wait_are_the_same(backend: str, mode: str) -> None:
    """Log-probabilities too, which are then computed before it is known who has any."""
    if backend == "cuda":
        pytest.skip("needs a GPU")
    logits = torch.randn(40, 64, generator=torch.Generator().manual_seed(2))
    logits[[3, 17], 5] = torch.tensor([float("nan"), float("inf")])
    sequences = []
    for i in range(40):
        nothing_left = {"min_tokens": 2, "stop_token_ids": [*range(64)]} if i % 7 == 0 else {}
        params = SamplingParams(temperature=i % 3, top_p=0.9, logprobs=[None, 0, 3][i % 3 - 1], max_tokens=9, **nothing_left)
        sequences.append(Sequence.of(Request(str(i), [3, 4], params, i), 0, 0, 100))
    sampler = Sampler(load(backend), frozenset({1}), None, 64, mode)
    expected, got = sampler.sample(logits, sequences), sampler.finish(sampler.begin(logits, sequences, ahead=True))
    assert len(expected.failed) == 8
    assert (got.tokens, got.logprobs) == (expected.tokens, expected.logprobs)
    assert {row: str(error) for row, error in got.failed.items()} == {row: str(error) for row, error in expected.failed.items()}
    rows = [39, 17, 2]
    some = got.of(rows)
    assert some.tokens == [got.tokens[row] for row in rows]
    assert [*some.failed] == [1]
    assert [some.logprobs.get(i) for i in range(3)] == [got.logprobs.get(row) for row in rows]
    assert got.of(range(40)) is got


def test_the_engine_asks(make_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "wanted", lambda config: True)
    engine = make_engine()
    run(engine, [3, 4])
    assert handed(engine) > 0
