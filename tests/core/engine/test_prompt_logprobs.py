"""The log-probabilities of a prompt's own tokens: the same however it is computed, each once, and of no other record's cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

from .. import stepping


def drain(engine: Any) -> dict[str, RequestOutput]:
    outputs = stepping.drain(engine)
    assert not engine._lacking_prompt_logprobs
    return outputs


def check(output: RequestOutput, oracle: Any, count: int) -> None:
    """Entries are of the raw distribution after each token but the last."""
    prompt, got = output.prompt_token_ids, output.prompt_logprobs
    assert got is not None
    assert len(got) == len(prompt)
    assert got[0] is None
    for i, entries in enumerate(got[1:], start=1):
        expected = torch.log_softmax(oracle(prompt[:i]), -1)
        order = torch.sort(expected, descending=True, stable=True).indices.tolist()
        assert entries is not None
        assert list(entries)[:count] == order[:count]
        assert set(entries) == {*order[:count], prompt[i]}
        for token, entry in entries.items():
            assert entry.logprob == pytest.approx(float(expected[token]), abs=1e-5)
            assert entry.rank == order.index(token) + 1


@settings(max_examples=40)
@given(
    prompts=st.lists(
        st.tuples(st.lists(st.integers(3, 5), min_size=1, max_size=30), st.sampled_from([None, 0, 1, 3, -1]), st.integers(1, 3)),
        min_size=1,
        max_size=8,
    ),
    spare=st.integers(0, 12),
    tokens=st.sampled_from([6, 16, 64]),
    piece=st.sampled_from([1, 5, 256]),
)
def test_they_are_what_the_model_says_whatever_the_schedule(
    make_engine: Any, oracle: Any, prompts: Any, spare: int, tokens: int, piece: int
) -> None:
    engine = make_engine(
        num_blocks=max(len(p) for p, _, _ in prompts) // 4 + 3 + spare, max_num_batched_tokens=tokens, max_num_seqs=6, max_logprobs=-1
    )
    engine.runner.piece = piece
    for i, (prompt, count, n) in enumerate(prompts):
        params = SamplingParams(prompt_logprobs=count, n=n, max_tokens=4, ignore_eos=True)
        engine.add(Request(str(i), prompt, params, i))
    outputs = drain(engine)
    for i, (_, count, _) in enumerate(prompts):
        if count is None:
            assert outputs[str(i)].prompt_logprobs is None
        else:
            check(outputs[str(i)], oracle, 64 if count == -1 else count)


def test_the_prefix_cache_is_not_read_but_filled(make_engine: Any, oracle: Any) -> None:
    engine = make_engine(max_num_seqs=1)
    prompt = [7, 8, 9, 10] * 4
    for i, count in enumerate([None, 2, None]):
        engine.add(Request(str(i), prompt, SamplingParams(prompt_logprobs=count, max_tokens=1), i))
        output = drain(engine)[str(i)]
        assert output.num_cached_tokens == (0, 0, 12)[i]
    assert engine.runner.num_prompt_rows == 15


def test_nobody_waits_for_a_prefix_it_may_not_use(make_engine: Any, oracle: Any) -> None:
    engine = make_engine()
    for i in range(3):
        engine.add(Request(str(i), [*[5] * 16, i + 3], SamplingParams(prompt_logprobs=1, max_tokens=2, ignore_eos=True), i))
    for output in drain(engine).values():
        check(output, oracle, 1)
    assert engine.runner.num_tokens == [51, 3]


def test_skip_reading_prefix_cache(make_engine: Any) -> None:
    engine = make_engine(max_num_seqs=1)
    for i, skip in enumerate([False, True, False]):
        engine.add(Request(str(i), [5] * 17, SamplingParams(skip_reading_prefix_cache=skip, max_tokens=1), i))
        assert drain(engine)[str(i)].num_cached_tokens == (0, 0, 16)[i]


def test_what_is_collected_is_not_collected_again(make_engine: Any, oracle: Any) -> None:
    """Preempted while it collects it goes on where it was; preempted later it may read the cache."""
    engine = make_engine(num_blocks=9, max_num_batched_tokens=8)
    engine.scheduler.waiting.look_ahead = 1
    prompts = [[3 + i] * 14 for i in range(3)]
    for i, prompt in enumerate(prompts):
        engine.add(Request(str(i), prompt, SamplingParams(prompt_logprobs=0, max_tokens=8, ignore_eos=True), i))
    collecting = False
    for _ in range(40):
        engine.step()
        running = engine.scheduler.running
        if len(running) and running[len(running) - 1].lacks_prompt_logprobs and running[len(running) - 1].num_computed and not collecting:
            collecting = True
            engine.scheduler._preempt_last([])
        if collecting:
            break
    outputs = drain(engine)
    assert collecting
    assert engine.stats.num_preemptions > 0
    for output in outputs.values():
        check(output, oracle, 0)
    assert engine.runner.num_prompt_rows == 3 * 13


def test_logits_of_a_prompt_that_are_no_numbers_fail_its_record_alone(make_engine: Any, oracle: Any) -> None:
    engine = make_engine()
    engine.runner.poisoned = lambda context: context[0] == 9 and len(context) == 3
    for i, first in enumerate([8, 9, 10]):
        engine.add(Request(str(i), [first, 4, 5, 6, 7], SamplingParams(prompt_logprobs=1, max_tokens=3, ignore_eos=True), i))
    outputs = drain(engine)
    assert outputs["1"].error is not None
    assert outputs["1"].error.code == "non_finite_logits"
    check(outputs["0"], oracle, 1)
    check(outputs["2"], oracle, 1)


def test_an_aborted_one_is_forgotten(make_engine: Any) -> None:
    engine = make_engine(max_num_batched_tokens=4)
    engine.add(Request("0", [5] * 12, SamplingParams(prompt_logprobs=1, max_tokens=3), 0))
    engine.step()
    engine.abort("0")
    assert not engine._lacking_prompt_logprobs
