"""Chat records: how they are read and what their rows hold."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.text.templates.template import RecordTemplate
from infer.core.types.outputs import CompletionOutput, Logprob, RequestOutput

USER = {"role": "user", "content": "hi"}


def text(pending: Any) -> str:
    return bytes(pending.prompt).decode()


def test_the_template_writes_the_prompt_and_no_special_tokens_are_added(task: Any, prepare: Any) -> None:
    assert text(prepare(task("chat"), messages=[USER])) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_generation_prompt_and_continuation(task: Any, prepare: Any, code_of: Any) -> None:
    t = task("chat")
    open_end = [USER, {"role": "assistant", "content": "well"}]
    assert text(prepare(t, messages=[USER], add_generation_prompt=False)) == "<|im_start|>user\nhi<|im_end|>\n"
    expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nwell"
    assert text(prepare(t, messages=open_end, continue_final_message=True)) == expected
    assert text(prepare(t, messages=open_end, continue_final_message=True, add_generation_prompt=False)) == expected
    assert code_of(t, messages=open_end, continue_final_message=True, add_generation_prompt=True)[0] == "invalid_value"


def test_system(task: Any, prepare: Any, code_of: Any) -> None:
    t = task("chat", system="be kind")
    assert text(prepare(t, messages=[USER])).startswith("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n")
    for role in ("system", "developer"):
        assert "be kind" not in text(prepare(t, messages=[{"role": role, "content": "own"}, USER]))
    assert code_of(t, messages=[]) == ("invalid_value", "messages")
    assert code_of(t, messages="x") == ("invalid_type", "messages")
    assert code_of(t, messages=["x"]) == ("invalid_type", "messages")


def test_prompt_field_and_template_make_one_user_message(task: Any, prepare: Any, code_of: Any) -> None:
    expected = "<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n"
    pending = prepare(task("chat", prompt_field="q"), q="why", messages="a column")
    assert text(pending) == expected
    assert pending.extra == {"messages": "a column"}
    pending = prepare(task("chat", template=RecordTemplate.load("{{ q }}")), q="why")
    assert text(pending) == expected
    assert pending.extra == {"q": "why"}
    assert code_of(task("chat", prompt_field="q"), q="") == ("invalid_value", "q")
    assert code_of(task("chat", prompt_field="q"), messages=[USER]) == ("missing_field", "q")


def test_tools_and_template_arguments_reach_the_template(byte_tokenizer: Any, prepare: Any) -> None:
    from infer.core.jobs.tasks import ChatTask, CompletionOptions
    from infer.core.text.chat import ChatTemplate

    chat = ChatTemplate({"default": "{{ tools | length if tools else 0 }} {{ thinking }}"}, byte_tokenizer, origin="test")
    t = ChatTask(CompletionOptions(), byte_tokenizer, chat, max_model_len=256)
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert text(prepare(t, messages=[USER], tools=tools, chat_template_kwargs={"thinking": True})) == "1 True"
    assert text(prepare(t, messages=[USER], tools=tools, tool_choice="auto")) == "1 "
    assert text(prepare(t, messages=[USER], tools=tools, tool_choice="none")) == "0 "
    assert text(prepare(t, messages=[USER], tools=[], chat_template_kwargs=None)) == "0 "


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"logprobs": True, "top_logprobs": 3}, 3),
        ({"logprobs": True}, 0),
        ({"logprobs": False}, None),
        ({"logprobs": 2}, 2),
        ({"top_logprobs": None}, None),
    ],
)
def test_openais_form_of_logprobs(task: Any, prepare: Any, fields: dict[str, Any], asked: int | None) -> None:
    assert prepare(task("chat"), messages=[USER], **fields).params.logprobs == asked


def test_logprobs_false_switches_a_default_off(task: Any, prepare: Any) -> None:
    from infer.core.types.params import SamplingParams

    t = task("chat", defaults=SamplingParams(logprobs=2))
    assert prepare(t, messages=[USER]).params.logprobs == 2
    assert prepare(t, messages=[USER], logprobs=False).params.logprobs is None


def test_rows(task: Any, prepare: Any) -> None:
    t = task("chat")
    pending = prepare(t, messages=[USER], logprobs=True, top_logprobs=1)
    logprobs = [
        {98: Logprob(-0.1, 1, "b"), 195: Logprob(-3.0, 2)},
        {98: Logprob(-0.2, 1, "b"), 195: Logprob(-4.0, 5)},
        {169: Logprob(-0.3, 1), 257: Logprob(-0.4, 2)},
        {257: Logprob(0.0, 1, "</s>"), 168: Logprob(-9.0, 2)},
    ]
    output = RequestOutput("0", None, [1, 2], [CompletionOutput(0, "bé", [98, 195, 169, 257], "stop", None, -4.1, logprobs)])
    b = {"token": "b", "bytes": [98]}
    half = {"token": "bytes:\\xa9", "logprob": -0.3, "bytes": [169]}
    end = {"token": "</s>", "logprob": 0.0, "bytes": []}
    assert t.to_row(pending, output)["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "bé"},
            "finish_reason": "stop",
            "logprobs": {
                "content": [
                    {**b, "logprob": -0.1, "top_logprobs": [{**b, "logprob": -0.1}]},
                    {"token": "bytes:\\xc3", "logprob": -4.0, "bytes": [195], "top_logprobs": [{**b, "logprob": -0.2}]},
                    {**half, "top_logprobs": [half]},
                    {**end, "top_logprobs": [end]},
                ]
            },
            "cumulative_logprob": -4.1,
        }
    ]
