"""Beam search in the engine: against the plain search over the same model, whatever the schedule; the books balance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from infer.core.engine.engine import Engine
from infer.core.sampling.beam_search import BeamSearch
from infer.core.types.beam_params import BeamSearchParams
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

from ...stepping import drain

EOS, EXTRA = 1, 2
MakeEngine = Callable[..., Engine]


def run(engine: Engine, requests: list[Request]) -> dict[str, RequestOutput]:
    for request in requests:
        engine.add(request)
    engine.expect_more(False)
    outputs = drain(engine)
    assert not engine.scheduler.beams
    assert not engine._beams
    return outputs


def beam_request(index: int, prompt: list[int], **params: Any) -> Request:
    beam = BeamSearchParams(**{"beam_width": 4, "max_tokens": 8, **params})
    return Request(f"b{index}", prompt, beam.sampling(), index, beam=beam)


def wanted(oracle: Callable[[list[int]], torch.Tensor], request: Request) -> list[tuple[list[int], float]]:
    """The same search, its tokens' log-probabilities worked out one context at a time."""
    beam = request.beam
    assert beam is not None
    ends = set() if beam.ignore_eos else {EOS, EXTRA}
    search = BeamSearch(
        beam.beam_width,
        beam.num_return or beam.beam_width,
        len(request.prompt_token_ids),
        beam.max_tokens,
        beam.length_penalty,
        beam.scoring,
        beam.early_stopping,
        len(ends),
    )
    live: list[list[int]] = [[]]
    found: dict[int, list[int]] = {}
    while not search.done:
        rows = [torch.log_softmax(oracle([*request.prompt_token_ids, *tokens]), -1).numpy() for tokens in live]
        top = [np.lexsort((np.arange(len(row)), -row))[: search.num_candidates] for row in rows]
        values = np.array([row[t] for row, t in zip(rows, top, strict=True)])
        going, new = search.advance(np.array(top), values, lambda _, t: ("stop", None if t == EOS else t) if t in ends else None)
        found.update({id(h): [*live[h.parent], h.token] for h in new})
        live = [[*live[g.parent], g.token] for g in going]
    return [(found[id(h)], h.score) for h in search.best()]


def check(oracle: Callable[[list[int]], torch.Tensor], request: Request, output: RequestOutput) -> None:
    assert output.error is None
    expected = wanted(oracle, request)
    assert [o.token_ids for o in output.outputs] == [tokens for tokens, _ in expected]
    assert [o.score for o in output.outputs] == pytest.approx([score for _, score in expected], abs=1e-4)
    assert [o.index for o in output.outputs] == list(range(len(expected)))


REQUESTS = [
    beam_request(0, [5, 6, 7, 8, 9]),
    beam_request(1, [10], beam_width=1),
    beam_request(2, [11, 12, 13], beam_width=8, max_tokens=12, length_penalty=0.5),
    beam_request(3, [14] * 9, scoring="hf", early_stopping=True, max_tokens=20),
    beam_request(4, [15, 16], scoring="hf", length_penalty=2.0, num_return=2),
    beam_request(5, [17, 18, 19, 20], ignore_eos=True, beam_width=3, max_tokens=15),
    beam_request(6, [21, 22], scoring="hf", early_stopping="never", max_tokens=10),
]


def test_beams_are_those_of_the_plain_search(make_engine: MakeEngine, oracle: Any) -> None:
    outputs = run(make_engine(num_blocks=400), REQUESTS)
    for request in REQUESTS:
        check(oracle, request, outputs[request.request_id])


@pytest.mark.parametrize(
    "settings",
    [
        {"num_blocks": 32},
        {"num_blocks": 60, "block_size": 2},
        {"num_blocks": 40, "enable_prefix_caching": False, "block_size": 8},
        {"num_blocks": 400, "max_num_seqs": 8},
        {"num_blocks": 400, "max_num_batched_tokens": 9, "max_num_seqs": 9},
        {"num_blocks": 70, "max_num_batched_tokens": 11, "max_num_seqs": 11},
        {"num_blocks": 60, "scheduling_policy": "priority"},
        # Beams that have to take turns: for places in a step, for blocks, for both.
        {"num_blocks": 400, "max_num_seqs": 1},
        {"num_blocks": 70, "max_num_seqs": 3},
        {"num_blocks": 15, "block_size": 2},
        {"num_blocks": 15, "block_size": 2, "max_num_seqs": 2, "max_num_batched_tokens": 5},
        {"num_blocks": 29, "block_size": 1, "max_num_seqs": 5, "scheduling_policy": "priority"},
        {"num_blocks": 8, "block_size": 4, "enable_prefix_caching": False, "watermark": 0.4},
        # With states: slots for all, and so few that forks are computed again.
        {"num_blocks": 60, "block_size": 2, "num_states": 300},
        {"num_blocks": 400, "block_size": 2, "num_states": 9, "max_num_seqs": 8},
        {"num_blocks": 70, "num_states": 3, "max_num_seqs": 3, "enable_prefix_caching": False},
    ],
)
def test_the_schedule_has_no_say(make_engine: MakeEngine, oracle: Any, settings: dict[str, Any]) -> None:
    """Few blocks (so that groups are preempted), few places, few tokens a step, and drawn records between."""
    plain = [
        Request(str(i), [30 + i] * (3 + i % 5), SamplingParams(temperature=0, max_tokens=10 + i, ignore_eos=True), 100 + i)
        for i in range(8)
    ]
    mixed = [r for pair in zip(plain, [*REQUESTS, None], strict=False) for r in pair if r is not None]
    if settings.get("scheduling_policy"):
        for i, request in enumerate(mixed):
            request.priority = i % 3
    engine = make_engine(**settings)
    outputs = run(engine, mixed)
    alone = {r.request_id: run(make_engine(num_blocks=400), [r])[r.request_id] for r in plain}
    for request in REQUESTS:
        check(oracle, request, outputs[request.request_id])
    for request in plain:
        assert outputs[request.request_id].outputs == alone[request.request_id].outputs


@pytest.mark.parametrize("scoring", ["vllm", "hf"])
@pytest.mark.parametrize("asked", [0, 1, 3, 12, -1])
def test_logprobs_are_as_many_as_asked(make_engine: MakeEngine, oracle: Any, byte_tokenizer: Any, scoring: str, asked: int) -> None:
    request = beam_request(0, [5, 6, 7], beam_width=2, scoring=scoring, logprobs=asked)
    output = run(make_engine(num_blocks=400, tokenizer=byte_tokenizer, max_logprobs=-1), [request])["b0"]
    check(oracle, request, output)
    for choice in output.outputs:
        context = list(request.prompt_token_ids)
        for token, entries in zip(choice.token_ids, choice.logprobs or [], strict=True):
            expected = torch.log_softmax(oracle(context), -1)
            best = torch.argsort(-expected, stable=True)[: len(expected) if asked < 0 else asked].tolist()
            assert list(entries) == [*best, *([token] if token not in best else [])]
            assert [e.logprob for e in entries.values()] == pytest.approx(expected[list(entries)].tolist(), abs=1e-5)
            assert [e.decoded_token for e in entries.values()] == [byte_tokenizer.token_name(t) for t in entries]
            context.append(token)


def test_groups_are_preempted_in_that(make_engine: MakeEngine, oracle: Any) -> None:
    engine = make_engine(num_blocks=40, block_size=2)
    requests = [beam_request(i, [5 + i, 6, 7], ignore_eos=True, max_tokens=14) for i in range(6)]
    outputs = run(engine, requests)
    assert engine.stats.num_preemptions > 0
    for request in requests:
        check(oracle, request, outputs[request.request_id])


def test_beams_share_their_past(make_engine: MakeEngine) -> None:
    """Peak blocks stay near prompt + width x generated tail."""
    engine = make_engine(num_blocks=2000, block_size=4)
    request = beam_request(0, [7] * 200, beam_width=32, max_tokens=8, ignore_eos=True)
    engine.add(request)
    peak = 0
    while engine.num_unfinished:
        engine.step()
        blocks = engine.scheduler.blocks
        peak = max(peak, blocks.num_usable - blocks.num_free)
    assert peak <= engine.stats.peak_kv_blocks <= 200 // 4 + 32 * (8 // 4 + 1)


def test_a_search_can_be_dropped(make_engine: MakeEngine) -> None:
    engine = make_engine(num_blocks=400)
    for request in REQUESTS:
        engine.add(request)
    for _ in range(3):
        engine.step()
    for request in REQUESTS:
        engine.abort(request.request_id)
    engine.scheduler.check_integrity()
    assert engine.scheduler.blocks.num_free == engine.scheduler.blocks.num_usable
    assert not engine.scheduler.has_work


def test_a_mistake_in_one_search_is_its_own_error(make_engine: MakeEngine, oracle: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A number that is let in nowhere, put behind the door."""
    requests = [beam_request(i, [5 + i, 6, 7], max_tokens=9) for i in range(4)]
    for request, penalty in zip(requests[1:3], (5000, -400.0), strict=True):
        assert request.beam is not None
        request.beam.length_penalty = penalty
    engine = make_engine(num_blocks=60)
    outputs = run(engine, requests)
    assert [outputs[r.request_id].error and outputs[r.request_id].error.code for r in requests] == [None, "internal", "internal", None]
    assert "request b1: internal error" in caplog.text
    for request in (requests[0], requests[3]):
        check(oracle, request, outputs[request.request_id])
    assert engine.scheduler.blocks.num_free == engine.scheduler.blocks.num_usable


def test_logits_that_are_no_numbers_fail_one_search(make_engine: MakeEngine, oracle: Any) -> None:
    engine = make_engine(num_blocks=400)
    engine.runner.poisoned = lambda context: context[0] == 11 and len(context) > 5  # type: ignore[attr-defined]
    outputs = run(engine, REQUESTS)
    assert outputs["b2"].error is not None
    assert outputs["b2"].error.code == "non_finite_logits"
    for request in REQUESTS:
        if request.request_id != "b2":
            check(oracle, request, outputs[request.request_id])
