"""SamplingParams: defaults, ranges, messages, and a record's fields over the command's."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.params import ALIASES, NOT_SUPPORTED_YET, SamplingParams


def test_defaults_are_the_reference_ones() -> None:
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_p, params.min_p, params.max_tokens, params.seed) == (1, 1.0, 1.0, 0.0, 16, None)
    assert not params.greedy
    assert SamplingParams(temperature=0).greedy
    assert SamplingParams(temperature=9e-6).greedy


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ({"n": 0}, "invalid_value", "n must be at least 1 and at most 16384, not 0"),
        ({"n": 1.5}, "invalid_type", "n must be an integer, not float"),
        ({"n": True}, "invalid_type", "n must be an integer, not bool"),
        ({"presence_penalty": 2.1}, "invalid_value", "presence_penalty must be at least -2 and at most 2, not 2.1"),
        ({"frequency_penalty": -3}, "invalid_value", "frequency_penalty must be at least -2 and at most 2, not -3"),
        ({"repetition_penalty": 0}, "invalid_value", "repetition_penalty must be above 0, not 0"),
        ({"temperature": -1}, "invalid_value", "temperature must be at least 0, not -1"),
        ({"temperature": float("nan")}, "invalid_value", "temperature must be at least 0, not nan"),
        ({"temperature": float("inf")}, "invalid_value", "temperature must be at least 0, not inf"),
        ({"temperature": "hot"}, "invalid_type", "temperature must be a number, not str"),
        ({"temperature": None}, "invalid_type", "temperature must be a number, not NoneType"),
        ({"top_p": 0}, "invalid_value", "top_p must be above 0 and at most 1, not 0"),
        ({"top_k": -2}, "invalid_value", "top_k must be at least -1, not -2"),
        ({"min_p": 1.01}, "invalid_value", "min_p must be at least 0 and at most 1, not 1.01"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens must be at least 1, not 0"),
        ({"min_tokens": 17}, "invalid_value", "min_tokens 17 is above max_tokens 16"),
        ({"logprobs": -1}, "invalid_value", "logprobs must be at least 0, not -1"),
        ({"stop": [""]}, "invalid_value", "stop: a stop string cannot be empty"),
        ({"stop": [1]}, "invalid_type", "stop must be a list of strings, not tuple"),
        ({"stop": "x", "detokenize": False}, "invalid_value", "stop: stop strings need detokenize=true"),
        ({"stop_token_ids": [-1]}, "invalid_value", "stop_token_ids: token ids cannot be negative"),
        ({"stop_token_ids": [True]}, "invalid_type", "stop_token_ids must be a list of token ids, not tuple"),
        ({"ignore_eos": "yes"}, "invalid_type", "ignore_eos must be true or false, not str"),
        ({"n": 2, "temperature": 0}, "invalid_value", "n: greedy decoding (temperature 0) gives one output, not 2"),
    ],
)
def test_what_is_refused_and_how(given: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        SamplingParams(**given)
    assert (caught.value.code, caught.value.message) == (code, message)
    assert caught.value.param in given


def test_spellings_that_mean_the_same() -> None:
    assert SamplingParams(stop="a").stop == ("a",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]
    assert SamplingParams(stop=None).stop == ()  # type: ignore[arg-type]
    assert SamplingParams(seed=-1).seed is None
    assert SamplingParams(logprobs=True).logprobs == 1
    assert SamplingParams(max_tokens=None).max_tokens is None


def test_a_record_overrides_field_by_field() -> None:
    command = SamplingParams(temperature=0.5, max_tokens=64)
    record = command.override({"max_completion_tokens": 8, "top_p": 0.9, "seed": 3})
    assert (record.temperature, record.max_tokens, record.top_p, record.seed) == (0.5, 8, 0.9, 3)
    assert command.max_tokens == 64
    assert command.override({"temperature": None}) is command


def test_a_record_may_contradict_the_command_only_in_itself() -> None:
    with pytest.raises(RecordError, match="greedy decoding"):
        SamplingParams(temperature=0).override({"n": 2})
    assert SamplingParams(temperature=0).override({"n": 2, "temperature": 1.0}).n == 2


@pytest.mark.parametrize("name", sorted(NOT_SUPPORTED_YET))
def test_known_but_not_built_is_refused_by_name(name: str) -> None:
    with pytest.raises(RecordError) as caught:
        SamplingParams().override({name: 1})
    assert (caught.value.code, caught.value.message, caught.value.param) == ("unsupported", f"{name} is not supported yet", name)
    assert SamplingParams().override({name: None}) == SamplingParams()


def test_an_unknown_name_is_told_its_neighbour() -> None:
    with pytest.raises(RecordError, match=r"unknown sampling parameter 'max_token'; did you mean 'max_tokens'\?") as caught:
        SamplingParams().override({"max_token": 5})
    assert caught.value.code == "unknown_field"


def test_names_do_not_overlap() -> None:
    assert not NOT_SUPPORTED_YET & SamplingParams.field_names()
    assert set(ALIASES.values()) <= SamplingParams.field_names()
