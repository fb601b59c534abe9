from __future__ import annotations

from typing import Any

import pytest

from infer.core.jobs.tasks.fields import GUESSABLE, NEUTRAL, intended, is_neutral

KNOWN = GUESSABLE | {"prompt", "messages"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_token", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("top-p", "top_p"),
        ("topk", "top_k"),
        ("stops", "stop"),
        ("logprob", "logprobs"),
        ("frequency_penality", "frequency_penalty"),
        ("respons_format", "response_format"),
        ("message", "messages"),
    ],
)
def test_misspellings(name: str, meant: str) -> None:
    assert intended(name, KNOWN) == meant


# fmt: off
COLUMNS = [
    "topic", "category", "source", "question", "answer", "context", "prompt_id", "label", "N", "K", "tags", "note",
    "text", "step", "name", "document", "metadata", "title", "url", "split", "model_id", "min_k", "score", "image",
    "reference", "priority_class", "echoes",
]
# fmt: on


@pytest.mark.parametrize("name", COLUMNS)
def test_ordinary_columns_are_no_misspellings(name: str) -> None:
    assert intended(name, KNOWN) is None


def test_neutral_values_ask_for_nothing(task: Any, prepare: Any) -> None:
    asked = {name: values[0] for name, values in NEUTRAL.items() if values}
    for fields in (asked, dict.fromkeys(NEUTRAL), {"user": "u", "model": "m", "stream_options": {"include_usage": True}}):
        pending = prepare(task(), prompt="a", **fields)
        assert pending.extra == {}
        assert pending.params == task().options.defaults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stream", True),
        ("echo", True),
        ("best_of", 2),
        ("best_of", True),
        ("logit_bias", {"5": 1}),
        ("guided_json", {}),
        ("add_special_tokens", False),
        ("suffix", "x"),
        ("response_format", {"type": "json_object"}),
        ("structured_outputs", {"regex": "a"}),
        ("prompt_logprobs", 0),
        ("functions", [{}]),
        ("parallel_tool_calls", False),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(task: Any, code_of: Any, name: str, value: Any) -> None:
    assert code_of(task(), prompt="a", **{name: value}) == ("unsupported", name)
    assert not is_neutral(name, value)
