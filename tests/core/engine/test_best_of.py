"""best_of: more choices are computed than returned, and those the model thinks most likely are."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.types.outputs import CompletionOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

from ..stepping import drain


def run(engine: Any, **params: Any) -> list[CompletionOutput]:
    engine.add(Request("r", [3, 4, 5], SamplingParams(**{"max_tokens": 8, "ignore_eos": True, "seed": 5, **params}), 0))
    return drain(engine)["r"].outputs


@pytest.mark.parametrize("logprobs", [None, 0, 2])
def test_the_most_likely_are_returned_best_first(make_engine: Any, logprobs: int | None) -> None:
    every = run(make_engine(), n=6, logprobs=0)
    assert len({tuple(c.token_ids) for c in every}) == 6
    best = sorted(every, key=lambda c: -(c.cumulative_logprob or 0.0))[:2]
    got = run(make_engine(), n=2, best_of=6, logprobs=logprobs)
    assert [c.token_ids for c in got] == [c.token_ids for c in best]
    assert [c.index for c in got] == [0, 1]
    if logprobs is None:
        assert [(c.logprobs, c.cumulative_logprob) for c in got] == [(None, None)] * 2
    else:
        assert [c.cumulative_logprob for c in got] == pytest.approx([c.cumulative_logprob for c in best])
        assert all(len(entries) in (logprobs, logprobs + 1) for c in got for entries in c.logprobs or [])


def test_as_many_as_are_computed_stay_in_their_order(make_engine: Any) -> None:
    assert [c.token_ids for c in run(make_engine(), n=4, best_of=4)] == [c.token_ids for c in run(make_engine(), n=4)]


def test_preemption_does_not_change_the_choice(make_engine: Any) -> None:
    small = make_engine(num_blocks=6, block_size=2, max_num_seqs=4)
    assert [c.token_ids for c in run(small, n=2, best_of=5)] == [c.token_ids for c in run(make_engine(), n=2, best_of=5)]
    assert small.stats.num_preemptions > 0
