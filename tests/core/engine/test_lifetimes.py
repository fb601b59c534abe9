"""The metrics of answers: in order, and the parts of a request's time no larger than the whole."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.types.params import SamplingParams
from infer.core.types.request import Request


def drain(engine: Any) -> dict[str, Any]:
    outputs = {}
    while engine.num_unfinished:
        outputs.update({o.request_id: o for o in engine.step()})
    return outputs


@pytest.mark.parametrize("num_blocks", [9, 200])
def test_every_answer_has_its_times_in_order(make_engine: Any, num_blocks: int) -> None:
    engine = make_engine(num_blocks=num_blocks, max_num_seqs=3)
    for i in range(8):
        engine.add(Request(str(i), [3 + i] * 9, SamplingParams(max_tokens=6, n=1 + i % 3, ignore_eos=True), i))
    outputs = drain(engine)
    assert (engine.stats.num_preemptions > 0) == (num_blocks == 9)
    for output in outputs.values():
        m = output.metrics
        assert m.arrival_time <= m.first_scheduled_time < m.first_token_time <= m.last_token_time == m.finished_time
        assert m.time_in_queue == m.first_scheduled_time - m.arrival_time
        assert 0 < m.model_forward_time < m.model_execute_time
        assert m.scheduler_time > 0
        assert m.model_execute_time + m.scheduler_time <= m.finished_time - m.arrival_time
    assert not engine._lifetimes._metrics
    assert not engine._lifetimes._before
    assert not engine._lifetimes._starting


def test_a_failed_request_has_metrics_too(make_engine: Any) -> None:
    engine = make_engine()
    engine.runner.poisoned = lambda context: len(context) > 4
    engine.add(Request("a", [3] * 4, SamplingParams(max_tokens=6, ignore_eos=True), 0))
    engine.add(Request("b", [3] * 9, SamplingParams(max_tokens=6, ignore_eos=True), 1))
    outputs = drain(engine)
    assert [outputs[i].error.code for i in "ab"] == ["non_finite_logits"] * 2
    assert all(outputs[i].metrics.finished_time >= outputs[i].metrics.first_token_time for i in "ab")
    assert not engine._lifetimes._metrics


def test_an_aborted_request_leaves_nothing(make_engine: Any) -> None:
    engine = make_engine()
    for i in range(2):
        engine.add(Request(str(i), [3] * 4, SamplingParams(max_tokens=6, ignore_eos=True), i))
    engine.abort("0")
    engine.step()
    engine.abort("1")
    assert not engine._lifetimes._metrics
    assert not engine._lifetimes._before
    assert not engine._lifetimes._starting
