"""Limits: requests that are refused before anything is computed, and with which message."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.engine.limits import Limits
from infer.core.errors import RecordError
from infer.core.sampling.bad_words import BadWordBook
from infer.core.types.beam_params import BeamSearchParams
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request


def limits(**kwargs: Any) -> Limits:
    return Limits(**{"vocab_size": 100, "max_model_len": 32, "max_logprobs": 20, "block_size": 4, "num_blocks": 6, **kwargs})


@pytest.mark.parametrize(
    ("prompt", "params", "code", "param", "message"),
    [
        ([], {}, "invalid_value", "prompt", "the prompt is empty"),
        ([3, 100], {}, "invalid_value", "prompt_token_ids", "token id 100 is not in the vocabulary of 100"),
        ([3, -1], {}, "invalid_value", "prompt_token_ids", "token id -1 is not in the vocabulary of 100"),
        ([3] * 32, {}, "prompt_too_long", "prompt", "the prompt has 32 tokens; with max_model_len 32 it can have 31"),
        ([3], {"stop_token_ids": [5, 100]}, "invalid_value", "stop_token_ids", "stop token id 100 is not in the vocabulary of 100"),
        ([3], {"allowed_token_ids": [777]}, "invalid_value", "allowed_token_ids", "allowed token id 777 is not in the vocabulary of 100"),
        ([3], {"logit_bias": {"3": 1, "100": 1}}, "invalid_value", "logit_bias", "token id 100 is not in the vocabulary of 100"),
        ([3], {"logprobs": 21}, "invalid_value", "logprobs", "logprobs 21 is above max_logprobs 20"),
        ([3], {"prompt_logprobs": 21}, "invalid_value", "prompt_logprobs", "prompt_logprobs 21 is above max_logprobs 20"),
        ([3], {"logprobs": -1}, "invalid_value", "logprobs", "logprobs -1 (all 100 tokens) is above max_logprobs 20"),
        ([3], {"prompt_logprobs": -1}, "invalid_value", "prompt_logprobs", "prompt_logprobs -1 (all 100 tokens) is above max_logprobs 20"),
        (
            [3] * 20,
            {"max_tokens": 12},
            "kv_capacity",
            "max_tokens",
            "prompt and max_tokens are 32 tokens; the KV cache holds 24: lower max_tokens or raise --kv-cache-memory-bytes",
        ),
    ],
)
def test_refusals(prompt: list[int], params: dict[str, Any], code: str, param: str, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        limits().check(Request("r", prompt, SamplingParams(**params), 0))
    assert (caught.value.code, caught.value.param, caught.value.message) == (code, param, message)


@pytest.mark.parametrize(
    ("more", "params"),
    [
        ({}, {"logprobs": 20, "prompt_logprobs": 0}),
        ({"max_logprobs": -1}, {"logprobs": -1, "prompt_logprobs": -1}),
        ({"max_logprobs": -1}, {"logprobs": 500}),
        ({"max_logprobs": 100}, {"logprobs": -1}),
        ({}, {"stop_token_ids": [0, 99], "allowed_token_ids": [0, 99], "logit_bias": {0: 1, 99: -1}}),
        ({"num_blocks": None}, {"max_tokens": None}),
    ],
)
def test_what_is_just_allowed(more: dict[str, Any], params: dict[str, Any]) -> None:
    limits(**more).check(Request("r", [0, 99], SamplingParams(**params), 0))


@pytest.mark.parametrize(
    "params", [{"stop": "a"}, {"bad_words": ["a"]}, {"structured_outputs": {"regex": "a"}}], ids=["stop", "bad_words", "structured_outputs"]
)
def test_without_a_tokenizer_there_is_no_text_to_ask_for(params: dict[str, Any]) -> None:
    request = Request("r", [3], SamplingParams(**params), 0)
    limits().check(request)
    with pytest.raises(RecordError) as caught:
        limits(has_tokenizer=False).check(request)
    assert (caught.value.code, caught.value.param) == ("unsupported", next(iter(params)))


def test_bad_words_are_counted_as_they_are_tokenized(byte_tokenizer: Any) -> None:
    book = BadWordBook(byte_tokenizer)
    limits(bad_words=book).check(Request("r", [3], SamplingParams(bad_words=["a", "b"]), 0))
    with pytest.raises(RecordError, match="more than 128 token sequences"):
        limits(bad_words=book).check(Request("r", [3], SamplingParams(bad_words=["x" * i for i in range(1, 400)]), 0))


def test_a_search_is_held_to_what_one_of_its_beams_needs() -> None:
    """Neither the places in a step nor the blocks are counted for all of its beams."""
    beam = BeamSearchParams(64, 20)
    limits(num_blocks=6).check(Request("r", [3] * 4, beam.sampling(), 0, beam=beam))
    with pytest.raises(RecordError) as caught:
        limits(num_blocks=5).check(Request("r", [3] * 4, beam.sampling(), 0, beam=beam))
    assert caught.value.code == "kv_capacity"
    with pytest.raises(RecordError, match="beam_width 64 is above the vocabulary of 60"):
        limits(vocab_size=60).check(Request("r", [3] * 4, beam.sampling(), 0, beam=beam))


def test_room_that_depends_on_free_memory_is_told_as_such() -> None:
    """Another run may have more of it, so its row says that trying again can help."""
    for given, held in ((True, "holds 24: "), (False, "holds 24, as many as there was memory for: ")):
        with pytest.raises(RecordError, match=held) as caught:
            limits(size_is_given=given).check(Request("r", [3] * 20, SamplingParams(max_tokens=12), 0))
        assert (caught.value.code, caught.value.retryable) == ("kv_capacity", not given)


def test_what_may_fill_the_context_fills_the_kv_cache_at_most() -> None:
    """A record that names no number is not refused for one; it ends with "length" where the cache is full."""
    small, large = limits(num_blocks=6), limits(num_blocks=80)
    free = Request("r", [3] * 20, SamplingParams(max_tokens=None), 0)
    small.check(free)
    assert (small.most_tokens(free), large.most_tokens(free), limits(num_blocks=None).most_tokens(free)) == (24, 32, 32)
    assert small.most_tokens(Request("r", [3], SamplingParams(max_tokens=5), 0)) == 32
    with pytest.raises(RecordError, match="prompt and max_tokens are 25 tokens"):
        small.check(Request("r", [3] * 24, SamplingParams(max_tokens=None), 0))
