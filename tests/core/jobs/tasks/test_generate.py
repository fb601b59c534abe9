"""Records of `infer generate`: how they are read and what their rows hold."""

from __future__ import annotations

import math
from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.jobs.tasks.rows import finite
from infer.core.text.templates.template import RecordTemplate
from infer.core.types.outputs import CompletionOutput, Logprob, RequestOutput
from infer.core.types.params import SamplingParams


def test_text_is_tokenized_with_special_tokens(task: Any, prepare: Any) -> None:
    assert prepare(task(), prompt="ab").prompt == [256, 97, 98]
    assert prepare(task(), prompt=[1, 2]).prompt == [1, 2]
    assert prepare(task(), prompt_token_ids=[1, 2]).prompt == [1, 2]
    assert prepare(task(), prompt=None, prompt_token_ids=[1]).prompt == [1]


def test_a_records_fields_win_over_the_defaults(task: Any, prepare: Any) -> None:
    defaults = SamplingParams(temperature=0.5, max_tokens=5, stop=["x"])
    t = task(defaults=defaults)
    assert prepare(t, prompt="a").params == defaults
    assert prepare(t, prompt="a", temperature=None).params == defaults
    assert prepare(t, prompt="a", temperature=0.9).params == SamplingParams(temperature=0.9, max_tokens=5, stop=["x"])
    assert prepare(t, prompt="a", max_completion_tokens=9, stop="y").params == SamplingParams(temperature=0.5, max_tokens=9, stop=["y"])
    assert prepare(t, prompt="a", logprobs=True).params.logprobs == 1


def test_whose_max_tokens_it_was(task: Any, prepare: Any) -> None:
    assert prepare(task(), prompt="a").default_max_tokens
    assert prepare(task(), prompt="a", max_tokens=None).default_max_tokens
    assert not prepare(task(), prompt="a", max_tokens=16).default_max_tokens
    assert not prepare(task(), prompt="a", max_completion_tokens=16).default_max_tokens
    assert not prepare(task(max_tokens_given=True), prompt="a").default_max_tokens


def test_other_fields_travel_in_extra(task: Any, prepare: Any) -> None:
    extra = {"a": 1, "b": {"c": [None, "x", 1.5]}, "custom_id": "k", "metadata": {}}
    pending = prepare(task(), id="i", prompt="a", seed=3, model="m", **extra)
    assert (pending.id, pending.extra) == ("i", extra)


def test_misspellings_are_warned_about_once(task: Any, prepare: Any) -> None:
    said: list[str] = []
    t = task(warn=said.append)
    for _ in range(3):
        assert prepare(t, prompt="a", max_token=5, colour=1).extra == {"max_token": 5, "colour": 1}
    assert len(said) == 1
    assert "'max_token'" in said[0]
    assert "'max_tokens'" in said[0]
    for i in range(100):
        prepare(t, prompt="a", **{"temprature" + " " * (i % 50): 1})
    assert len(said) <= 20


def test_strict_refuses_misspellings_alone(task: Any, prepare: Any, code_of: Any) -> None:
    assert code_of(task(strict=True), prompt="a", max_token=5) == ("unknown_field", "max_token")
    assert prepare(task(strict=True), prompt="a", colour=1).extra == {"colour": 1}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"promt": "a", "note": "b"}, "did you mean 'prompt'? (the record has 'promt')"),
        ({"id": "x", "q": "a", "review": "long"}, "--prompt-field takes it from another field: review, q"),
        ({"a": 1, "x" * 64: "b"}, 'no "prompt" and no "prompt_token_ids"'),
    ],
)
def test_a_record_without_a_prompt_is_told_what_may_be_meant(task: Any, prepare: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RecordError) as e:
        prepare(task(), **fields)
    assert e.value.message.endswith(says)


def test_prompt_field(task: Any, prepare: Any, code_of: Any) -> None:
    t = task(prompt_field="question")
    pending = prepare(t, question="why", prompt="not this", prompt_token_ids="nor this", messages=[])
    assert pending.prompt == [256, *b"why"]
    assert pending.extra == {"prompt": "not this", "prompt_token_ids": "nor this", "messages": []}
    assert code_of(t, prompt="a") == ("missing_field", "question")
    assert code_of(t, question=5) == ("invalid_type", "question")
    assert code_of(t, question="") == ("invalid_value", "prompt")


def test_template(task: Any, prepare: Any, code_of: Any) -> None:
    t = task(template=RecordTemplate.load("{{ q }}? {{ record['odd name'] }}"))
    pending = prepare(t, q="why", temperature=0, **{"odd name": 1})
    assert pending.prompt == [256, *b"why? 1"]
    assert pending.extra == {"q": "why", "odd name": 1}
    assert code_of(t, q="why")[0] == "template_error"
    assert code_of(task(template=RecordTemplate.load("{{ '' }}")), q="why") == ("invalid_value", "prompt")


def test_a_mistake_has_the_same_error_whatever_else_is_wrong(task: Any, code_of: Any) -> None:
    wrong: dict[str, Any] = {"id": True, "beam_width": 3, "stream": True, "max_token": 1, "temperature": "x", "prompt": 7}
    order = ["invalid_type", "unsupported", "unsupported", "unknown_field", "invalid_type", "invalid_type"]
    params = ["id", "beam_width", "stream", "max_token", "temperature", "prompt"]
    for expected in zip(order, params, strict=True):
        assert code_of(task(strict=True), **wrong) == expected
        del wrong[expected[1]]


def test_a_prompt_far_too_long_is_not_tokenized(task: Any, code_of: Any, monkeypatch: pytest.MonkeyPatch, byte_tokenizer: Any) -> None:
    monkeypatch.setattr(type(byte_tokenizer), "encode_batch", None)
    assert code_of(task(), prompt="x" * 70_000) == ("prompt_too_long", "prompt")


def test_without_a_tokenizer_prompts_are_token_ids(prepare: Any, code_of: Any) -> None:
    from infer.core.jobs.tasks import CompletionOptions, GenerateTask

    t = GenerateTask(CompletionOptions(), None, max_model_len=100)
    assert prepare(t, prompt=[5]).prompt == [5]
    assert code_of(t, prompt="a") == ("unsupported", "prompt")


def answer(t: Any, pending: Any, *choices: CompletionOutput, cached: int = 0) -> dict[str, Any]:
    row: dict[str, Any] = t.to_row(pending, RequestOutput("0", None, pending.prompt, list(choices), num_cached_tokens=cached))
    return row


def test_logprobs_in_the_completions_shape(task: Any, prepare: Any) -> None:
    t = task()
    pending = prepare(t, prompt="a", logprobs=2)
    logprobs = [
        {98: Logprob(-0.1, 1, "b"), 99: Logprob(-3.0, 2, "c")},
        {195: Logprob(-0.5, 1, "\ufffd"), 169: Logprob(-1.0, 2, "\ufffd"), 100: Logprob(-math.inf, 200, "d")},
    ]
    choice = CompletionOutput(0, "bd", [98, 100], "length", None, -3.1, logprobs)
    assert answer(t, pending, choice)["choices"] == [
        {
            "index": 0,
            "text": "bd",
            "finish_reason": "length",
            "logprobs": {
                "tokens": ["b", "d"],
                "token_logprobs": [-0.1, -9999.0],
                "top_logprobs": [{"b": -0.1, "c": -3.0}, {"bytes:\\xc3": -0.5, "bytes:\\xa9": -1.0, "d": -9999.0}],
                "text_offset": [0, 1],
            },
            "cumulative_logprob": -3.1,
        }
    ]


def test_text_offsets_are_places_in_the_text(task: Any, prepare: Any) -> None:
    t = task()
    ids = [0xC3, 0xA9, 256, 0xF0, 0x9F, 98, 0xFF, 0xE2, 0x82, 0xAC, 257]
    entries = [{i: Logprob(-1.0, 1)} for i in ids]
    choice = CompletionOutput(0, "é\ufffdb\ufffd€", ids, "stop", None, -11.0, entries)
    (row,) = answer(t, prepare(t, prompt="a", logprobs=0), choice)["choices"]
    assert row["logprobs"]["text_offset"] == [0, 0, 1, 1, 1, 2, 3, 4, 4, 4, 5]
    assert row["logprobs"]["tokens"][1:5] == ["bytes:\\xa9", "<s>", "bytes:\\xf0", "bytes:\\x9f"]
    # A character that the prompt left half written is the output's first one, if it completes it.
    for ids, text, offsets in (([0xA9, 98], "éb", [0, 1]), ([98, 99], "bc", [0, 1])):
        choice = CompletionOutput(0, text, ids, "length", None, -2.0, [{i: Logprob(-1.0, 1)} for i in ids])
        (row,) = answer(t, prepare(t, prompt=[97, 0xC3], logprobs=0), choice)["choices"]
        assert row["logprobs"]["text_offset"] == offsets


def test_no_two_tokens_have_one_name(prepare: Any) -> None:
    from infer.core.jobs.tasks import CompletionOptions, GenerateTask

    without = GenerateTask(CompletionOptions(), None, max_model_len=100)
    pending = prepare(without, prompt_token_ids=[1], logprobs=2)
    choice = CompletionOutput(0, "", [7], "length", None, -1.0, [{7: Logprob(-1.0, 1), 8: Logprob(-2.0, 2), 9: Logprob(-3.0, 3)}])
    (row,) = answer(without, pending, choice)["choices"]
    assert row["logprobs"]["tokens"] == ["token_id:7"]
    assert row["logprobs"]["top_logprobs"] == [{"token_id:7": -1.0, "token_id:8": -2.0, "token_id:9": -3.0}]


def test_nan_never_becomes_null() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(RecordError) as caught:
            finite(bad)
        assert caught.value.code == "non_finite_logits"


def test_optional_fields_of_a_row(task: Any, prepare: Any) -> None:
    t = task(report_cache=True)
    pending = prepare(t, prompt="a", return_token_ids=True)
    row = answer(t, pending, CompletionOutput(0, "b", [98, 257], "stop", 257), cached=1)
    assert row == {
        "index": 0,
        "prompt_token_ids": [256, 97],
        "choices": [{"index": 0, "text": "b", "finish_reason": "stop", "stop_reason": 257, "token_ids": [98, 257]}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4, "prompt_tokens_details": {"cached_tokens": 1}},
        "error": None,
    }
    assert list(row) == ["index", "prompt_token_ids", "choices", "usage", "error"]
