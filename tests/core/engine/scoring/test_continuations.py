"""Given continuations: their log-probabilities are the model's, however they are computed, and the prompt is computed once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infer.core.engine.overruns import Overruns
from infer.core.errors import RecordError
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

from ... import stepping

SCORES = SamplingParams(temperature=0.0, max_tokens=1, logprobs=0, detokenize=False)


def request(name: int, prompt: list[int], continuations: Any, params: SamplingParams = SCORES) -> Request:
    return Request(str(name), prompt, params, name, continuations=tuple(map(tuple, continuations)))


def check(output: RequestOutput, continuations: Any, oracle: Any) -> None:
    assert output.error is None
    assert len(output.outputs) == len(continuations)
    for choice, tokens in zip(output.outputs, continuations, strict=True):
        assert choice.token_ids == list(tokens)
        assert choice.logprobs is not None
        context, total = list(output.prompt_token_ids), 0.0
        for token, entries in zip(tokens, choice.logprobs, strict=True):
            row = torch.log_softmax(oracle(context), -1)
            assert list(entries) == [token]
            assert entries[token].logprob == pytest.approx(float(row[token]), abs=1e-5)
            assert entries[token].rank == 1 + int((row > row[token]).sum())
            total += float(row[token])
            context.append(token)
        assert choice.cumulative_logprob == pytest.approx(total, abs=1e-4)


TOKENS = st.lists(st.integers(3, 6), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(
        st.tuples(st.lists(st.integers(3, 5), min_size=1, max_size=30), st.lists(TOKENS, min_size=1, max_size=6)), min_size=1, max_size=6
    ),
    spare=st.integers(0, 10),
    tokens=st.sampled_from([6, 16, 64]),
    caching=st.booleans(),
    states=st.sampled_from([0, 0, 9]),
    most=st.sampled_from([1, 3, 8]),
    overlaps=st.booleans(),
)
def test_they_are_what_the_model_says_whatever_the_schedule(
    make_engine: Any, oracle: Any, records: Any, spare: int, tokens: int, caching: bool, states: int, most: int, overlaps: bool
) -> None:
    engine = make_engine(
        num_blocks=max(len(prompt) + 5 for prompt, _ in records) // 4 + 2 + spare,
        max_num_batched_tokens=max(tokens, most),
        max_num_seqs=most,
        enable_prefix_caching=caching,
        num_states=states,
    )
    if overlaps:
        engine.scheduler.overruns = Overruns(engine.scheduler.running, engine.scheduler.blocks)
    for i, (prompt, continuations) in enumerate(records):
        engine.add(request(i, prompt, continuations))
    outputs = stepping.drain(engine)
    for i, (_, continuations) in enumerate(records):
        check(outputs[str(i)], continuations, oracle)


@pytest.mark.parametrize("caching", [True, False])
def test_the_prompt_is_computed_once(make_engine: Any, oracle: Any, caching: bool) -> None:
    engine = make_engine(enable_prefix_caching=caching)
    continuations = [[7], [8], [9, 10], [9, 11], [12, 13, 14]]
    prompt = [3, 4, 5] * 7
    engine.add(request(0, prompt, continuations))
    check(stepping.drain(engine)["0"], continuations, oracle)
    assert sum(engine.runner.num_tokens) == engine.stats.num_computed_tokens == len(prompt) + len([9]) + len([12, 13])
    assert engine.stats.num_output_tokens == 0


def test_blocks_that_are_short_only_cost_time(make_engine: Any, oracle: Any) -> None:
    """The prompts' blocks are given up where nothing else can go on."""
    engine = make_engine(num_blocks=8, enable_prefix_caching=False, max_num_seqs=4)
    continuations = [[7, 8, 9], [8, 9, 10], [9, 10, 11], [10, 11, 12], [11, 12, 13]]
    for i in range(3):
        engine.add(request(i, [3 + i] * 23, continuations))
    for output in stepping.drain(engine).values():
        check(output, continuations, oracle)


def test_an_aborted_one_holds_nothing(make_engine: Any) -> None:
    engine = make_engine(max_num_seqs=1)
    engine.add(request(0, [3] * 9, [[7, 8], [9, 10], [11, 12]]))
    engine.step()
    assert len(engine.scheduler._holds) == 1
    engine.abort("0")
    engine.scheduler.check_integrity()
    assert engine.scheduler.blocks.num_free == engine.scheduler.blocks.num_usable


def test_logits_that_are_no_numbers_fail_the_record_alone(make_engine: Any, oracle: Any) -> None:
    for bad in ([9, 4], [9, 4, 7], [9, 4, 7, 8]):  # the prompt, inside a continuation, at its end
        engine = make_engine()
        engine.runner.poisoned = lambda context, bad=bad: context == bad
        continuations = [[5], [7, 8, 6]]
        engine.add(request(0, [9, 4], continuations))
        engine.add(request(1, [9, 5], continuations))
        outputs = stepping.drain(engine)
        assert outputs["0"].error is not None
        assert outputs["0"].error.code == "non_finite_logits"
        check(outputs["1"], continuations, oracle)


def test_without_continuations_only_the_prompt_is_computed(make_engine: Any, oracle: Any) -> None:
    engine = make_engine(length=16)
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
    engine.add(request(0, [5] * 16, [], params))  # as long as the context: nothing is drawn
    output = stepping.drain(engine)["0"]
    assert [choice.token_ids for choice in output.outputs] == [[]]
    assert output.prompt_logprobs is not None
    for place, entries in enumerate(output.prompt_logprobs[1:], start=1):
        assert entries is not None
        assert entries[5].logprob == pytest.approx(float(torch.log_softmax(oracle([5] * place), -1)[5]), abs=1e-5)


@pytest.mark.parametrize(
    ("prompt", "continuations", "code"),
    [([5] * 14, [[1], [2, 3, 4]], "prompt_too_long"), ([5], [[64]], "invalid_value"), ([5], [[]], "invalid_value")],
)
def test_limits(make_engine: Any, prompt: Any, continuations: Any, code: str) -> None:
    engine = make_engine(length=16)
    with pytest.raises(RecordError) as error:
        engine.add(request(0, prompt, continuations))
    assert error.value.code == code
    assert not engine.num_unfinished


def test_logprobs_of_given_tokens_at_every_position(make_engine: Any, oracle: Any) -> None:
    engine = make_engine()
    prompt = [3, 4, 5]
    for i, (asked, top) in enumerate([((9, 60), None), ((9,), 2), (None, 1)]):
        params = SamplingParams(logprob_token_ids=asked, logprobs=top, max_tokens=4, ignore_eos=True)
        engine.add(Request(str(i), prompt, params, i))
    outputs = stepping.drain(engine)
    for name, asked, top in (("0", {9, 60}, 0), ("1", {9}, 2), ("2", set(), 1)):
        choice = outputs[name].outputs[0]
        assert choice.logprobs is not None
        for place, entries in enumerate(choice.logprobs):
            row = torch.log_softmax(oracle(prompt + choice.token_ids[:place]), -1)
            assert set(entries) == asked | {choice.token_ids[place]} | set(torch.topk(row, top).indices.tolist())
            assert [entry.rank for entry in entries.values()] == sorted(entry.rank for entry in entries.values())
            for token, entry in entries.items():
                assert entry.logprob == pytest.approx(float(row[token]), abs=1e-5)


def test_prompt_logprobs_from_a_place_on_read_the_cache_up_to_it(make_engine: Any, oracle: Any) -> None:
    engine = make_engine(max_num_seqs=1)
    prompt = [7, 8, 9, 10] * 4
    for i, start in enumerate([0, 9, 3, 20]):
        engine.add(Request(str(i), prompt, SamplingParams(prompt_logprobs=0, prompt_logprob_start=start, max_tokens=1), i))
        output = stepping.drain(engine)[str(i)]
        assert output.num_cached_tokens == (0, 8, 0, 12)[i]
        assert output.prompt_logprobs is not None
        assert len(output.prompt_logprobs) == len(prompt)
        for place, entries in enumerate(output.prompt_logprobs):
            assert (entries is None) == (place <= start)
            if entries is not None:
                expected = float(torch.log_softmax(oracle(prompt[:place]), -1)[prompt[place]])
                assert entries[prompt[place]].logprob == pytest.approx(expected, abs=1e-5)
