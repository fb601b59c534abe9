"""Drafts, right or wrong: nobody gets another answer for them, and the books balance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.engine.engine import Engine
from infer.core.engine.speculation.draft_model import DraftModel
from infer.core.errors import ConfigError
from infer.core.sampling.sampler import Sampler
from infer.core.settings.args import EngineArgs
from infer.core.types.beam_params import BeamSearchParams
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.repetition import RepetitionDetectionParams
from infer.core.types.request import Request

from ...guesses import Guesses, guided
from ...paged_memory import EOS, VOCABULARY, PagedMemory
from ...stepping import drain
from ..test_engine import requests

MORE: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.4, "frequency_penalty": 0.3, "min_tokens": 4},
    {"stop_token_ids": [*range(30, 50)], "logprobs": 2},
    {"best_of": 5, "logit_bias": {7: 2.0}},
    {"prompt_logprobs": 1, "logprobs": 0, "ignore_eos": True},
    {"repetition_detection": RepetitionDetectionParams(max_pattern_size=2, min_count=2), "allowed_token_ids": [3, 4, 5, EOS]},
    {"logits_processors": [lambda output, logits: logits.index_fill(0, torch.tensor([len(output) % VOCABULARY]), -torch.inf)]},
]


def answers(engine: Engine, made: list[Request]) -> dict[str, RequestOutput]:
    for request in made:
        engine.add(request)
    return drain(engine)


@settings(max_examples=30)
@given(
    requests=requests,
    block_size=st.sampled_from([1, 2, 4, 8]),
    spare=st.integers(0, 30),
    seqs=st.integers(1, 6),
    tokens=st.sampled_from([6, 16, 64]),
    caching=st.booleans(),
    most=st.sampled_from([1, 2, 5, 30]),
    swap=st.sampled_from([0, 0, 40]),
    beam=st.booleans(),
    way=st.sampled_from(["ngram", "auto"]),
    data=st.data(),
)
def test_every_request_gets_what_it_gets_without(
    make_engine: Any,
    requests: Any,
    block_size: int,
    spare: int,
    seqs: int,
    tokens: int,
    caching: bool,
    most: int,
    swap: int,
    beam: bool,
    way: str,
    data: st.DataObject,
) -> None:
    made = []
    for i, (prompt, length, n, greedy, seed) in enumerate(requests):
        more = dict(data.draw(st.sampled_from(MORE)))
        if greedy:
            more.pop("best_of", None)
        params = {"temperature": 0 if greedy else 0.9, "n": 1 if greedy or "best_of" in more else n, "seed": seed or None, **more}
        made.append(Request(str(i), prompt, SamplingParams(max_tokens=length + 3, **params), i))
    if beam:
        search = BeamSearchParams(beam_width=2, max_tokens=9)
        made.append(Request("beam", [3, 4, 5], search.sampling(), 99, beam=search))
    largest = max(-(-(len(r.prompt_token_ids) + (r.params.max_tokens or 0)) // block_size) for r in made)
    sizes = {"num_blocks": 2 * largest + spare, "block_size": block_size, "max_num_seqs": seqs, "max_num_batched_tokens": tokens}
    without = answers(make_engine(**sizes, seed=7), made)
    preempts = {"swap_blocks": swap, "preemption_mode": "swap"} if swap else {}
    engine = make_engine(**sizes, **preempts, seed=7, enable_prefix_caching=caching, speculation=way, num_speculative_tokens=most)
    guesses = Guesses(without, data.draw(st.integers(0, 99)), range(VOCABULARY))
    small = draft_model(num_blocks=data.draw(st.integers(1, 60)), length=data.draw(st.sampled_from([10, 512])))
    by_model = data.draw(st.booleans())
    guided(engine, small if by_model else guesses)
    got = answers(engine, made)
    small.check_integrity()
    for request in made:
        assert got[request.request_id].error is None
        assert got[request.request_id].outputs == without[request.request_id].outputs
        assert got[request.request_id].prompt_logprobs == without[request.request_id].prompt_logprobs
    if not beam and not any(r.params.best_of for r in made):
        assert engine.stats.num_output_tokens == sum(len(c.token_ids) for output in got.values() for c in output.outputs)
    assert engine.stats.num_accepted <= engine.stats.num_drafts
    assert by_model or bool(guesses.num_wanted) >= bool(engine.stats.num_drafts)


def draft_model(num_blocks: int, length: int = 512) -> DraftModel:
    """One that is as good as the model itself."""
    memory: Any = PagedMemory(num_blocks, 4)
    sampler = Sampler(memory.ops, frozenset({EOS, 2}), None, VOCABULARY)
    return DraftModel(memory, num_blocks, sampler, max_model_len=length, max_num_batched_tokens=7)


@pytest.mark.parametrize("params", [{"temperature": 0}, {"temperature": 1, "top_p": 0.9}, {"n": 3, "frequency_penalty": 0.5}])
def test_a_draft_model_draws_with_the_noise_of_the_sequences(make_engine: Any, params: dict[str, Any]) -> None:
    """One that is no worse than the model is always right, also where it is not the likeliest token that comes."""
    made = [Request(str(i), [3 + i, 4, 5], SamplingParams(**params, max_tokens=25, ignore_eos=True), i) for i in range(3)]
    plain = make_engine(num_blocks=200)
    expected = answers(plain, made)
    engine = make_engine(num_blocks=200, speculation="ngram", num_speculative_tokens=5)
    guided(engine, draft_model(200))
    got = answers(engine, made)
    assert all(got[r.request_id].outputs == expected[r.request_id].outputs for r in made)
    assert engine.stats.num_accepted == engine.stats.num_drafts > 0
    assert engine.stats.num_steps <= plain.stats.num_steps / 4


def test_a_draft_model_is_built_beside_the_model(tiny_llama: Path, qwen_folder: Path) -> None:
    def start(**more: Any) -> Engine:
        return build_engine(make_plan(EngineArgs.from_kwargs(model=str(tiny_llama), dtype="float32", device="cpu", seed=3, **more)))

    made = [Request(str(i), [40 + i, 41, 42], SamplingParams(max_tokens=20, ignore_eos=True), i) for i in range(3)]
    engine = start(speculation="draft", speculative_model=str(tiny_llama), num_speculative_tokens=4)
    assert [o.outputs for o in answers(engine, made).values()] == [o.outputs for o in answers(start(), made).values()]
    assert engine.stats.num_accepted == engine.stats.num_drafts > 40
    with pytest.raises(ConfigError, match="has another tokenizer than the model"):
        start(speculative_config={"method": "draft_model", "model": str(qwen_folder)})
    with pytest.raises(ConfigError, match="give --speculative-model"):
        start(speculation="draft")


def test_right_guesses_save_steps_and_wrong_ones_are_never_found_again(
    make_engine: Any, oracle: Callable[[list[int]], torch.Tensor]
) -> None:
    request = Request("0", [3, 4, 5], SamplingParams(temperature=0, max_tokens=41, ignore_eos=True), 0)
    plain = make_engine()
    expected = answers(plain, [request])
    engine = make_engine(speculation="ngram", num_speculative_tokens=9)
    guided(engine, Told([*expected["0"].outputs[0].token_ids]))
    assert answers(engine, [request])["0"].outputs == expected["0"].outputs
    assert engine.stats.num_steps == 1 + 4 < plain.stats.num_steps == 41
    assert engine.stats.num_accepted == engine.stats.num_drafts == 40 - 4
    assert engine.stats.num_output_tokens == 41
    # The cache holds what was answered and no guess: a prompt of the whole of it is found, one of a wrong guess is not.
    wrong = make_engine(speculation="ngram", num_speculative_tokens=9)
    guided(wrong, Told([9] * 41))
    assert answers(wrong, [request])["0"].outputs == expected["0"].outputs
    assert wrong.stats.num_accepted <= wrong.stats.num_drafts // 20
    for prompt in ([*request.prompt_token_ids, *expected["0"].outputs[0].token_ids], [3, 4, 5, *[9] * 40]):
        again = Request("1", prompt, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), 1)
        assert answers(wrong, [again])["1"].outputs == answers(make_engine(), [again])["1"].outputs


class Told(Guesses):
    """Says what it was told, whatever came before."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__({}, 0, range(1))
        self._said = tokens

    def _guess(self, sequence: Any, most: int) -> list[int]:
        return self._said[sequence.num_output :][:most]


def test_a_record_that_is_copied_is_drafted_from_its_own_text(make_engine: Any) -> None:
    """Where only what came before may come, the text tells all of it."""

    def goes_round(output: list[int], logits: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(VOCABULARY) == 10 + len(output) % 7, logits, -torch.inf)

    request = Request("0", [3], SamplingParams(temperature=1, max_tokens=60, logits_processors=[goes_round]), 0)
    engine = make_engine(speculation="ngram", num_speculative_tokens=15)
    expected = answers(make_engine(), [request])
    assert answers(engine, [request])["0"].outputs == expected["0"].outputs
    assert engine.stats.num_steps < 20
    assert engine.stats.num_accepted > 40


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"num_speculative_tokens": 3}, "needs a method"),
        ({"method": "ngrm"}, "has no method 'ngrm'; did you mean 'ngram'"),
        ({"method": "eagle"}, "method=eagle is not supported yet"),
        ({"method": "ngram", "num_speculative_tokens": 0}, "num_speculative_tokens must be an integer of at least 1"),
        ({"method": "ngram", "prompt_lookup_min": 5, "prompt_lookup_max": 2}, "prompt_lookup_min is above"),
        ({"method": "ngram", "promt_lookup_min": 5}, "has no 'promt_lookup_min'"),
    ],
)
def test_faults_of_a_speculative_config_are_told(value: dict[str, Any], fault: str) -> None:
    with pytest.raises(Exception, match=fault.replace("(", r"\(")):
        EngineArgs.from_kwargs(model="m", speculative_config=value)
