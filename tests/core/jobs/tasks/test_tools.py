"""Tools: the constraint that a forced call is, and how answers are taken apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from infer.core.errors import ConfigError, RecordError
from infer.core.jobs.jsonl import dumps
from infer.core.jobs.tasks import ChatTask, CompletionOptions
from infer.core.jobs.tasks.chat import ChatOptions
from infer.core.jobs.tasks.tools import ToolUse
from infer.core.text.chat import ChatTemplate
from infer.core.types.outputs import CompletionOutput, RequestOutput
from infer.core.types.params import SamplingParams

USER = {"role": "user", "content": "hi"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NOW]
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
NAMED = {"type": "function", "function": {"name": "weather"}}
THINKING = "{{ messages[0].content }}{% if enable_thinking %}<think>\n{% elif enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"

Answer = Callable[..., dict[str, Any]]


@pytest.fixture
def chat_task(byte_tokenizer: Any) -> Callable[..., ChatTask]:
    def make(template: str = "{{ messages[0].content }}", *, options: CompletionOptions | None = None, **chat_options: Any) -> ChatTask:
        chat = ChatTemplate({"default": template}, byte_tokenizer, origin="test")
        return ChatTask(options or CompletionOptions(), byte_tokenizer, chat, max_model_len=256, chat_options=ChatOptions(**chat_options))

    return make


@pytest.fixture
def answer(prepare: Any) -> Answer:
    """answer(task, "text", field=…): the one choice of a record whose output is this text."""

    def one(task: ChatTask, text: str, *, finish_reason: str = "stop", choice: int = 0, **fields: Any) -> dict[str, Any]:
        pending = prepare(task, **{"messages": [USER], **fields})
        output = CompletionOutput(choice, text, list(text.encode()), finish_reason)
        row = task.to_row(pending, RequestOutput("0", None, [1], [output]))
        assert row["choices"][0]["finish_reason"] == output.finish_reason  # what the summary counts
        dumps(row)
        return row["choices"][0]

    return one


def entry(id: str, name: str = "weather", arguments: str = '{"city": "Paris"}') -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_calls_become_tool_calls(chat_task: Any, answer: Answer) -> None:
    task = chat_task(tool_call_parser="hermes")
    assert answer(task, "Well. " + CALL, tools=TOOLS, choice=2) == {
        "index": 2,
        "message": {"role": "assistant", "content": "Well. ", "tool_calls": [entry("call_0_2_0")]},
        "finish_reason": "tool_calls",
    }
    assert answer(task, CALL, tools=TOOLS)["message"]["content"] is None
    two = answer(task, CALL + CALL, tools=TOOLS)["message"]["tool_calls"]
    assert two == [entry("call_0_0_0"), entry("call_0_0_1")]
    assert answer(task, CALL + CALL, tools=TOOLS, parallel_tool_calls=False)["message"]["tool_calls"] == two[:1]


def test_without_tools_or_parser_calls_are_text(chat_task: Any, answer: Answer) -> None:
    plain = {"index": 0, "message": {"role": "assistant", "content": CALL}, "finish_reason": "stop"}
    task = chat_task(tool_call_parser="hermes")
    assert answer(task, CALL) == plain
    assert answer(task, CALL, tools=[]) == plain
    assert answer(task, CALL, tools=TOOLS, tool_choice="none") == plain
    assert answer(chat_task(), CALL, tools=TOOLS) == plain
    assert answer(task, "<tool_call>oops", tools=TOOLS)["message"] == {"role": "assistant", "content": "<tool_call>oops"}


def test_an_output_cut_short_says_so(chat_task: Any, answer: Answer) -> None:
    task = chat_task(tool_call_parser="hermes")
    assert answer(task, CALL + "<tool_", tools=TOOLS, finish_reason="length")["finish_reason"] == "length"


def test_ids_go_on_where_the_conversation_stopped(chat_task: Any, answer: Answer) -> None:
    earlier = [USER, {"role": "assistant", "tool_calls": [entry("a"), entry("b")]}, {"role": "tool", "content": "rain"}]
    made = answer(chat_task(tool_call_parser="hermes"), CALL, messages=earlier, tools=TOOLS)["message"]["tool_calls"]
    assert made == [entry("call_0_0_2")]
    (short,) = answer(chat_task(tool_call_parser="mistral"), "[TOOL_CALLS]now{}", tools=TOOLS)["message"]["tool_calls"]
    assert len(short["id"]) == 9


def test_tools_are_not_looked_at_unless_a_call_is_forced(chat_task: Any, answer: Answer) -> None:
    assert answer(chat_task(tool_call_parser="hermes"), CALL, tools=[{"any": "form"}])["finish_reason"] == "tool_calls"


def test_reasoning(chat_task: Any, answer: Answer) -> None:
    task = chat_task(THINKING, reasoning_parser="qwen3")
    expected = {"role": "assistant", "content": "Paris.", "reasoning_content": "hm"}
    assert answer(task, "<think>hm</think>Paris.")["message"] == expected
    assert answer(task, "hm</think>Paris.", chat_template_kwargs={"enable_thinking": True})["message"] == expected
    assert answer(task, "Paris.", chat_template_kwargs={"enable_thinking": True})["message"]["content"] is None
    assert answer(task, "Paris.", chat_template_kwargs={"enable_thinking": False})["message"] == {"role": "assistant", "content": "Paris."}
    always = chat_task(THINKING, reasoning_parser="deepseek_r1")
    assert answer(always, "hm</think>Paris.")["message"] == expected
    off = answer(always, "Paris.", chat_template_kwargs={"enable_thinking": False})
    assert off["message"] == {"role": "assistant", "content": "Paris."}
    assert answer(chat_task(THINKING), "<think>hm</think>Paris.")["message"]["content"] == "<think>hm</think>Paris."


def test_continuing_a_message_inside_its_reasoning(chat_task: Any, answer: Answer) -> None:
    task = chat_task("{{ messages[-1].content }}", reasoning_parser="qwen3")
    for content in ("<think>so", [{"type": "text", "text": "<think>so"}]):
        half = [USER, {"role": "assistant", "content": content}]
        message = answer(task, " far</think>Paris.", messages=half, continue_final_message=True)["message"]
        assert message == {"role": "assistant", "content": "Paris.", "reasoning_content": " far"}
    done = [USER, {"role": "assistant", "content": "<think>so</think>Pa"}]
    assert answer(task, "ris.", messages=done, continue_final_message=True)["message"]["content"] == "ris."


def test_calls_after_reasoning(chat_task: Any, answer: Answer) -> None:
    task = chat_task(THINKING, reasoning_parser="qwen3", tool_call_parser="hermes")
    choice = answer(task, f"<think>call {CALL}?</think>\n{CALL}", tools=TOOLS)
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [entry("call_0_0_0")],
        "reasoning_content": f"call {CALL}?",
    }
    assert "tool_calls" not in answer(task, f"<think>call {CALL}", tools=TOOLS)["message"]


def test_constrained_output_is_all_content(chat_task: Any, answer: Answer) -> None:
    task = chat_task(reasoning_parser="deepseek_r1")
    assert answer(task, "{}", response_format={"type": "json_object"})["message"] == {"role": "assistant", "content": "{}"}


def test_special_tokens_stay_where_a_parser_needs_them(byte_tokenizer: Any, prepare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = type(byte_tokenizer).token_bytes
    spelled = {256: b"[TOOL_CALLS]", 257: b"</s>"}
    monkeypatch.setattr(byte_tokenizer, "token_bytes", lambda i: spelled.get(i) or plain(byte_tokenizer, i), raising=False)
    chat = ChatTemplate({"default": "x"}, byte_tokenizer, origin="test")
    made = {}
    for name in ("mistral", "hermes"):
        chat_options = ChatOptions(tool_call_parser=name)
        made[name] = ChatTask(CompletionOptions(), byte_tokenizer, chat, max_model_len=256, chat_options=chat_options)
    assert prepare(made["hermes"], messages=[USER], tools=TOOLS).params.skip_special_tokens
    assert prepare(made["mistral"], messages=[USER]).params.skip_special_tokens
    pending = prepare(made["mistral"], messages=[USER], tools=TOOLS)
    assert not pending.params.skip_special_tokens

    def content(*parts: int | str, **fields: Any) -> Any:
        ids = [i for part in parts for i in ([part] if isinstance(part, int) else part.encode())]
        text = b"".join(map(byte_tokenizer.token_bytes, ids)).decode()
        pending = prepare(made["mistral"], messages=[USER], tools=TOOLS, **fields)
        row = made["mistral"].to_row(pending, RequestOutput("0", None, [1], [CompletionOutput(0, text, ids, "length")]))
        return row["choices"][0]["message"]

    assert content("a", 257, 256, "now{}")["content"] == "a"
    assert content("a", 257, 256, "now{")["content"] == "anow{"
    assert content("é", 257, "</s> ends", 257, 256, "now{}", 257)["content"] == "é</s> ends"  # what only looks like a token stays
    assert content(257, 256, "now{}", 257)["content"] is None
    assert content("a", 257, 256, "now{", skip_special_tokens=False)["content"] == "a</s>[TOOL_CALLS]now{"


# --- forced calls


def test_a_named_function(chat_task: Any, answer: Answer, prepare: Any) -> None:
    task = chat_task()
    pending = prepare(task, messages=[USER], tools=TOOLS, tool_choice=NAMED)
    assert json.loads(pending.params.structured_outputs.json) == CITY
    choice = answer(task, '{"city": "Paris"}', tools=TOOLS, tool_choice=NAMED)
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": None, "tool_calls": [entry("call_0_0_0")]},
        "finish_reason": "stop",
    }
    cut = answer(task, '{"city": "Par', tools=TOOLS, tool_choice=NAMED, finish_reason="length")
    assert (cut["message"], cut["finish_reason"]) == ({"role": "assistant", "content": '{"city": "Par'}, "length")
    nothing = prepare(task, messages=[USER], tools=TOOLS, tool_choice={"type": "function", "function": {"name": "now"}})
    assert json.loads(nothing.params.structured_outputs.json) == {"type": "object"}


def test_any_function(chat_task: Any, answer: Answer, prepare: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    task = chat_task(reasoning_parser="deepseek_r1", tool_call_parser="hermes")
    schema = json.loads(prepare(task, messages=[USER], tools=TOOLS, tool_choice="required").params.structured_outputs.json)
    good = [{"name": "weather", "parameters": {"city": "Paris"}}, {"name": "now", "parameters": {}}]
    jsonschema.validate(good, schema)
    for bad in ([], [{"name": "other", "parameters": {}}], [{"name": "weather", "parameters": {}}], [{"name": "now"}], {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
    choice = answer(task, json.dumps(good), tools=TOOLS, tool_choice="required")
    assert choice["message"]["tool_calls"] == [entry("call_0_0_0"), entry("call_0_0_1", "now", "{}")]
    assert choice["finish_reason"] == "tool_calls"
    one = prepare(task, messages=[USER], tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert json.loads(one.params.structured_outputs.json)["maxItems"] == 1


def test_definitions_move_to_where_references_look(prepare: Any) -> None:
    def tool(name: str, definition: dict[str, Any]) -> dict[str, Any]:
        parameters = {"properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": definition}}
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    same = ToolUse.of({"tools": [tool("a", {"type": "string"}), tool("b", {"type": "string"})], "tool_choice": "required"}).constraint()
    assert json.loads(same.json or "")["$defs"] == {"x": {"type": "string"}}
    assert same.json is not None
    assert same.json.count("$defs") == 3  # two references and the definition
    differ = ToolUse.of({"tools": [tool("a", {"type": "string"}), tool("b", {"type": "integer"})], "tool_choice": "required"})
    with pytest.raises(RecordError, match="in different ways") as e:
        differ.constraint()
    assert (e.value.code, e.value.param) == ("unsupported", "tools")


def test_a_forced_call_takes_the_place_of_the_command_s_constraint(chat_task: Any, prepare: Any, code_of: Any) -> None:
    task = chat_task(options=CompletionOptions(defaults=SamplingParams(structured_outputs={"regex": "a"})))  # type: ignore[arg-type]
    assert prepare(task, messages=[USER], tools=TOOLS, tool_choice=NAMED).params.structured_outputs.kind == "json"
    assert prepare(task, messages=[USER], tools=TOOLS).params.structured_outputs.kind == "regex"
    fields = {"messages": [USER], "tools": TOOLS, "tool_choice": NAMED}
    assert code_of(task, **fields, structured_outputs={"regex": "b"}) == ("invalid_value", "tool_choice")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"tools": {}}, "invalid_type", "tools"),
        ({"tools": ["f"]}, "invalid_type", "tools"),
        ({"tools": TOOLS, "tool_choice": 5}, "invalid_type", "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "always"}, "invalid_value", "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "invalid_value", "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "custom", "function": {"name": "now"}}}, "invalid_value", "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"function": {"name": "other"}}}, "invalid_value", "tool_choice"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"tools": [], "tool_choice": NAMED}, "invalid_value", "tool_choice"),
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "invalid_value", "tools"),
        ({"tools": [{"function": {"name": "f", "parameters": 5}}], "tool_choice": "required"}, "invalid_type", "tools"),
        ({"tools": TOOLS, "parallel_tool_calls": "no"}, "invalid_type", "parallel_tool_calls"),
    ],
)
def test_wrong_fields(chat_task: Any, code_of: Any, fields: dict[str, Any], code: str, param: str) -> None:
    assert code_of(chat_task(), messages=[USER], **fields) == (code, param)


# --- the template's variables


def test_variables_of_command_and_record(chat_task: Any, prepare: Any, code_of: Any) -> None:
    task = chat_task("{{ a }} {{ b }} {{ reasoning_effort }}", chat_template_kwargs={"a": 1, "b": 2})

    def prompt(**fields: Any) -> str:
        return bytes(prepare(task, messages=[USER], **fields).prompt).decode()

    assert prompt() == "1 2 "
    assert prompt(chat_template_kwargs={"b": 3, "no_such_variable": [1]}, reasoning_effort="high") == "1 3 high"
    assert prompt(chat_template_kwargs={"literal": 1, "self": 2, "content": 3}) == "1 2 "
    assert code_of(task, messages=[USER], chat_template_kwargs={"tools": []}) == ("invalid_value", "chat_template_kwargs")
    assert code_of(task, messages=[USER], chat_template_kwargs=[]) == ("invalid_type", "chat_template_kwargs")


def test_wrong_options_are_a_setting_s_mistake() -> None:
    with pytest.raises(ConfigError, match="messages is a field of the record"):
        ChatOptions({"messages": []})
    with pytest.raises(ConfigError, match="unknown tool-call parser"):
        ChatOptions(tool_call_parser="x")
    with pytest.raises(ConfigError, match="unknown reasoning parser"):
        ChatOptions(reasoning_parser="x")
