"""`echo`: the prompt before each output, with log-probabilities where those are asked for, and without any output to score a text."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.jobs.tasks import ChatTask
from infer.core.types.outputs import CompletionOutput, Logprob, RequestOutput
from infer.core.types.params import SamplingParams


def answered(pending: Any, text: str, **more: Any) -> RequestOutput:
    """An output of one letter a token, each with a log-probability of minus its place."""
    ids = [ord(letter) for letter in text]
    logprobs = [{token: Logprob(-float(place), 1)} for place, token in enumerate(ids)]
    return RequestOutput("0", None, pending.prompt, [CompletionOutput(0, text, ids, "length", logprobs=logprobs)], **more)


def test_the_text_is_the_prompt_as_it_was_given(task: Any, prepare: Any) -> None:
    t = task()
    pending = prepare(t, prompt="a<|im_end|>b", echo=True)
    assert pending.continuations is None
    row = t.to_row(pending, answered(pending, "xy"))
    assert row["choices"][0]["text"] == "a<|im_end|>bxy"
    pending = prepare(t, prompt_token_ids=[97, 98], echo=True)
    assert t.to_row(pending, answered(pending, "xy"))["choices"][0]["text"] == "abxy"
    pending = prepare(t, prompt="abcdef", echo=True, truncate_prompt_tokens=2)
    assert t.to_row(pending, answered(pending, "xy"))["choices"][0]["text"] == "efxy"


def test_log_probabilities_begin_at_the_prompt(task: Any, prepare: Any) -> None:
    t = task()
    pending = prepare(t, prompt="ab", echo=True, logprobs=1)
    assert pending.params.prompt_logprobs == 1
    entries = [None, {97: Logprob(-0.5, 2), 120: Logprob(-0.25, 1)}, {98: Logprob(-1.5, 1)}]
    row = t.to_row(pending, answered(pending, "x", prompt_logprobs=entries))
    assert "prompt_logprobs" not in row
    logprobs = row["choices"][0]["logprobs"]
    assert logprobs["tokens"][1:] == ["a", "b", "x"]  # before them what the tokenizer puts before texts
    assert logprobs["token_logprobs"] == [None, -0.5, -1.5, 0.0]
    assert logprobs["top_logprobs"] == [None, {"a": -0.5, "x": -0.25}, {"b": -1.5}, {"x": 0.0}]
    assert logprobs["text_offset"] == [0, 0, 1, 2]
    asked = prepare(t, prompt="ab", echo=True, logprobs=1, prompt_logprobs=0)
    assert asked.params.prompt_logprobs == 0
    assert "prompt_logprobs" in t.to_row(asked, answered(asked, "x", prompt_logprobs=entries))


def test_without_output_a_text_is_scored(task: Any, prepare: Any) -> None:
    t = task(defaults=SamplingParams(n=3, stop=["x"], min_tokens=2, max_tokens=9))
    pending = prepare(t, prompt="ab", echo=True, max_tokens=0, logprobs=0, prompt_logprob_start=1)
    assert pending.to_request().continuations == ()
    assert (pending.params.n, pending.params.stop, pending.params.min_tokens) == (1, (), 0)
    assert pending.lengths(256) == [(3, 1)]
    output = RequestOutput("0", None, pending.prompt, [CompletionOutput(0, "", [], "length", logprobs=[])])
    output.prompt_logprobs = [None, None, {98: Logprob(-1.5, 1)}]
    row = t.to_row(pending, output)
    assert row["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}
    assert row["choices"][0]["text"] == "ab"
    assert row["choices"][0]["logprobs"]["token_logprobs"] == [None, None, -1.5]
    assert row["choices"][0]["cumulative_logprob"] == -1.5
    assert prepare(t, prompt="ab", echo=True, max_completion_tokens=0).continuations == ()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"max_tokens": 0}, ("invalid_value", "max_tokens")),
        ({"max_tokens": 0, "echo": False}, ("invalid_value", "max_tokens")),
        ({"echo": "yes"}, ("invalid_type", "echo")),
        ({"echo": True, "max_tokens": -1}, ("invalid_value", "max_tokens")),
        ({"prompt_logprob_start": -1}, ("invalid_value", "prompt_logprob_start")),
        ({"logprob_token_ids": []}, ("invalid_value", "logprob_token_ids")),
        ({"logprob_token_ids": [1] * 129}, ("invalid_value", "logprob_token_ids")),
        ({"logprob_token_ids": ["a"]}, ("invalid_type", "logprob_token_ids")),
    ],
)
def test_what_is_wrong_is_told_by_name(task: Any, code_of: Any, fields: Any, error: Any) -> None:
    assert code_of(task(), prompt="a", **fields) == error


def test_a_conversation_has_no_echo(task: Any, code_of: Any) -> None:
    t: ChatTask = task("chat")
    assert code_of(t, messages=[{"role": "user", "content": "a"}], echo=True) == ("unsupported", "echo")


def test_what_lies_across_the_ends_of_tokens_has_its_place(task: Any, prepare: Any) -> None:
    t = task()
    pending = prepare(t, prompt="aé☃b", echo=True, max_tokens=0, logprobs=0)
    ids = pending.prompt
    output = RequestOutput("0", None, ids, [CompletionOutput(0, "", [], "length", logprobs=[])])
    output.prompt_logprobs = [None, *({token: Logprob(-1.0, 1)} for token in ids[1:])]
    offsets = t.to_row(pending, output)["choices"][0]["logprobs"]["text_offset"]
    assert offsets == [0, 0, 1, 1, 2, 2, 2, 3]


def test_each_prompt_of_a_list_stands_before_its_own_outputs(task: Any, prepare: Any) -> None:
    t = task()
    pending = prepare(t, prompt=["ab", "c"], echo=True)
    row = t.to_row(pending, [answered(part, "x") for part in pending.parts])
    assert [choice["text"] for choice in row["choices"]] == ["abx", "cx"]
