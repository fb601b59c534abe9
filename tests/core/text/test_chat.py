"""Chat templates: which one is used, and what it gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import ConfigError, ModelError, RecordError
from infer.core.text.chat import ChatTemplate, template_text
from infer.core.text.templates.content import ContentFormat
from infer.core.text.templates.template import Template
from infer.core.text.tokenizer import Tokenizer

Files = Callable[..., Callable[[str], bytes | None]]

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nYou may call one or more functions.\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
VISION = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}{% if content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS_ONLY = (
    "{% for m in messages %}{{ m.role }}:{% for c in m.content %}[{{ c.type }} {{ c.text }}]{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
GENERATION = (
    "{%- for m in messages %}\n  {%- if m.role == 'assistant' %}\n    {%- generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}\n"
    "  {%- else %}\n{{ m.content }}\n  {%- endif %}\n{%- endfor %}\n{{ pad_token }}{{ nothing }}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL, "qwen": QWEN, "vision": VISION, "generation": GENERATION}

USER: dict[str, Any] = {"role": "user", "content": "What's <b>the</b> weather\nin Zürich? 😀 "}
SYSTEM: dict[str, Any] = {"role": "system", "content": " Be brief. "}
CALL: dict[str, Any] = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2, "ok": None}},
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather's <state> & more",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CHATS: dict[str, list[dict[str, Any]]] = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "long": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n Sunny. "}, {"role": "user", "content": "Thanks"}],
    "calls": [
        SYSTEM,
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"sun": true}'},
        {"role": "tool", "tool_call_id": "c2", "content": "warm"},
    ],
    "reasoning": [USER, {"role": "assistant", "reasoning": "let me think", "content": "Rain."}],
}


@pytest.fixture(scope="module")
def hf(toys: dict[str, Tokenizer]) -> Any:
    transformers = pytest.importorskip("transformers")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=toys["llama"]._backend, **names)


def chat(toys: dict[str, Tokenizer], template: str, **names: str) -> ChatTemplate:
    """A ChatTemplate over the Llama-like toy with BOS, EOS and UNK named."""
    tokenizer = Tokenizer(toys["llama"]._backend, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **names})
    return ChatTemplate.load(lambda filename: None, tokenizer, override=template)


def failure(template: ChatTemplate, messages: Any, /, **options: Any) -> RecordError:
    with pytest.raises(RecordError) as e:
        template.render(messages, **options)
    return e.value


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("conversation", CHATS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tools": TOOLS},
        {"add_generation_prompt": False},
        {"add_generation_prompt": False, "continue_final_message": True},
        {"enable_thinking": False, "date_string": "1 Jan 2030", "no_such_variable": [1]},
    ],
    ids=["plain", "tools", "no_generation", "continue", "kwargs"],
)
def test_same_as_transformers(toys: dict[str, Tokenizer], hf: Any, name: str, conversation: str, options: dict[str, Any]) -> None:
    ours, messages = chat(toys, TEMPLATES[name]), CHATS[conversation]
    before = json.dumps(messages)
    hf_options = {"chat_template": TEMPLATES[name], "tokenize": False, "add_generation_prompt": True, **options}
    theirs, refused = "", ""
    try:
        # As vLLM hands them to a template: no null, and reasoning under the name that templates read (transformers' newest do that too).
        given = [{**m, "content": m.get("content") or ""} for m in json.loads(before)]
        given = [{**m, "reasoning_content": m["reasoning"]} if "reasoning" in m else m for m in given]
        theirs = hf.apply_chat_template(given, **hf_options)
    except Exception as e:
        refused = str(e)
    if refused:
        mine = failure(ours, messages, **options)
        assert mine.code == "template_error"
        assert "continue_final_message" in refused or refused in mine.message
    else:
        assert ours.render(messages, **options) == theirs
        assert ours.encode(messages, **options) == hf.encode(theirs, add_special_tokens=False)
    assert json.dumps(messages) == before


def test_arguments_in_json_text_become_objects(toys: dict[str, Tokenizer]) -> None:
    ours = chat(toys, QWEN)
    call = {**CALL, "function": {**CALL["function"], "arguments": json.dumps(CALL["function"]["arguments"])}}
    given = [USER, {"role": "assistant", "tool_calls": [call]}]
    assert ours.render(given) == ours.render([USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}])
    assert isinstance(call["function"]["arguments"], str)
    empty = {"type": "function", "function": {"name": "f", "arguments": ""}}
    assert '"arguments": {}' in ours.render([USER, {"role": "assistant", "tool_calls": [empty]}])


@pytest.mark.parametrize("message", [{"content": None}, {}, {"content": ""}, {"content": []}])
@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "mistral"])  # which knows no tools
def test_a_message_that_only_calls_has_empty_content(toys: dict[str, Tokenizer], name: str, message: dict[str, Any]) -> None:
    ours = chat(toys, TEMPLATES[name])
    calling = {"role": "assistant", "tool_calls": [CALL]}
    text = ours.render([USER, {**calling, **message}, {"role": "tool", "content": [{"type": "text", "text": "warm"}]}])
    assert text == ours.render([USER, {"content": "", **calling}, {"role": "tool", "content": "warm"}])
    assert "None" not in text
    assert "[]" not in text
    for nothing in ([], None):
        assert ours.render([USER, {"role": "assistant", "content": "x", "tool_calls": nothing}]) == ours.render(
            [USER, {"role": "assistant", "content": "x"}]
        )
    plain = [USER, {"role": "assistant", **message}, USER]
    assert ours.render(plain) == ours.render([USER, {"role": "assistant", "content": ""}, USER])


@pytest.mark.parametrize(
    ("source", "as_text"),
    [
        ("{{ '```json\n' + call['function']['arguments'] + '\n```' }}", True),
        ("{{ call.function.name ~ call.function.arguments }}", True),
        ("{{ call.function.arguments }}", True),
        ("{{ call.function.arguments | trim }}", True),
        ("{% set arguments = call.function['arguments'] %}{{ arguments }}", True),
        ("{{ call.function.arguments | tojson }}", False),
        ("{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}{{ call.function | tojson }}{% endif %}", False),
        ("{% for name in call.function.arguments %}{{ name }}={{ call.function.arguments[name] }}{% endfor %}", False),
        ("{% for k, v in call.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}", False),
        ("{% for k, v in call.function.arguments | dictsort %}{{ k }}={{ v }}{% endfor %}", False),
        ("{{ call.function | tojson }}", False),
        ("", False),
    ],
)
def test_arguments_are_what_the_template_takes(toys: dict[str, Tokenizer], source: str, as_text: bool) -> None:
    ours = chat(toys, "{% for m in messages %}{% for call in m.tool_calls %}" + source + "{% endfor %}{% endfor %}")
    objects = {"city": "Zürich", "days": 2}
    texts = [json.dumps(objects, ensure_ascii=False), objects]
    calls = [[{"type": "function", "function": {"name": "f", "arguments": a}}] for a in texts]
    one, other = (ours.render([{"role": "assistant", "tool_calls": call}]) for call in calls)
    assert one == other
    if as_text:
        assert texts[0] in one
    elif source:
        assert "Zürich" in one
        assert "'city'" not in one


def test_calls_without_arguments(toys: dict[str, Tokenizer]) -> None:
    for source in ("{{ m.tool_calls[0].function.arguments | tojson }}", "{{ '' + m.tool_calls[0].function.arguments }}"):
        ours = chat(toys, "{% for m in messages %}" + source + "{% endfor %}")
        for function in ({"name": "f"}, {"name": "f", "arguments": None}, {"name": "f", "arguments": " "}, {"name": "f", "arguments": {}}):
            assert ours.render([{"role": "assistant", "tool_calls": [{"function": function}]}]) == "{}"


def test_content_formats(toys: dict[str, Tokenizer]) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c"]}
    assert chat(toys, CHATML).render([parts]).endswith("user\na\nb\nc<|im_end|>\n<|im_start|>assistant\n")
    assert chat(toys, VISION).render([parts]) == "<|im_start|>user\nabc<|im_end|>\n<|im_start|>assistant\n"
    assert chat(toys, PARTS_ONLY).render([parts]) == "user:[text a][text b][text c]assistant:"
    assert chat(toys, PARTS_ONLY).render([{"role": "user", "content": "x"}]) == "user:[text x]assistant:"
    tool = {"role": "tool", "content": [{"text": "1"}, {"type": "output_text", "text": "2"}]}
    assert chat(toys, VISION).render([tool]).startswith("<|im_start|>tool\n1\n2<|im_end|>")
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert "no<|im_end|>" in chat(toys, CHATML).render([refusal])


def test_a_content_format_can_be_told(toys: dict[str, Tokenizer]) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}
    source = "{% for m in messages %}{% for part in m.content %}{{ part }};{% endfor %}{% endfor %}"

    def render(message: dict[str, Any], content_format: str, source: str = source) -> str:
        template = ChatTemplate.load(lambda filename: None, toys["byte_level"], override=source, content_format=content_format)
        return template.render([message])

    a, b = "{'type': 'text', 'text': 'a'};", "{'type': 'text', 'text': 'b'};"
    assert render(parts, "auto") == render(parts, "openai") == a + b
    assert render(parts, "string") == "a;\n;b;"
    assert render({"role": "user", "content": "a"}, "openai") == a
    assert render({"role": "user", "content": "a"}, "openai", "{{ messages[0].content }}") == f"[{a[:-1]}]"
    assert render({"role": "user", "content": "a"}, "auto", "{{ messages[0].content }}") == "a"
    with pytest.raises(ConfigError, match="'parts'; available: auto, string, openai"):
        render(parts, "parts")


@pytest.mark.parametrize(
    ("source", "parts", "wrap"),
    [
        (CHATML, False, False),
        (LLAMA3, False, False),
        (QWEN, False, False),
        (VISION, True, False),
        (PARTS_ONLY, True, True),
        (
            "{% set loop_messages = messages[1:] %}{% for m in loop_messages %}{% for c in m['content'] | list %}{% endfor %}{% endfor %}",
            True,
            True,
        ),
        ("{% for m in messages %}{% set content = m.content %}{% for c in content %}{% endfor %}{% endfor %}", True, True),
        ("{% set ns = namespace(last=messages[-1]) %}{% set ns.c = messages[0].content %}{% for c in ns.c %}{% endfor %}", True, True),
        ("{% set last = messages[-1] %}{% for c in last.content %}{% endfor %}", True, True),
        ("{% for d in documents %}{% for c in d.content %}{% endfor %}{% endfor %}", False, False),
        ("{% for m in messages %}{% for c in m.tool_calls %}{% endfor %}{% endfor %}", False, False),
        ("{% for content in messages %}{% endfor %}", False, False),
    ],
)
def test_content_format_is_read_from_the_template(source: str, parts: bool, wrap: bool) -> None:
    found = ContentFormat.of(Template(source).parse())
    assert (found.parts, found.wrap) == (parts, wrap)


def test_developer_role(toys: dict[str, Tokenizer]) -> None:
    developer = [{"role": "developer", "content": "x"}, USER]
    assert chat(toys, CHATML).render(developer) == chat(toys, CHATML).render([{"role": "system", "content": "x"}, USER])
    knows = "{% for m in messages %}{{ m.role if m.role == 'developer' }}{% endfor %}"
    assert chat(toys, knows).render(developer) == "developer"


@pytest.mark.parametrize(
    ("messages", "code", "match"),
    [
        (None, "invalid_type", "messages must be a list, not NoneType"),
        ("hi", "invalid_type", "messages must be a list"),
        ({}, "invalid_type", "messages must be a list"),
        ([], "invalid_value", "empty"),
        (["hi"], "invalid_type", r"messages\[0\] must be an object"),
        ([USER, {"content": "x"}], "missing_field", r"messages\[1\] has no role"),
        ([{"role": 5, "content": "x"}], "invalid_type", r"messages\[0\].role must be a string, not int"),
        ([{"role": None, "content": "x"}], "invalid_type", r"messages\[0\].role"),
        ([{"role": "user"}], "missing_field", r"messages\[0\] has no content"),
        ([{"role": "user", "content": 5}], "invalid_type", r"messages\[0\].content must be a string, null or a list"),
        ([{"role": "user", "content": {"text": "x"}}], "invalid_type", r"messages\[0\].content"),
        ([{"role": "user", "content": [5]}], "invalid_type", r"messages\[0\].content\[0\] must be"),
        ([{"role": "user", "content": [{"type": "text"}]}], "missing_field", r"content\[0\] has no text"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "invalid_type", r"content\[0\].text must be a string"),
        ([{"role": "user", "content": [{"type": 5}]}], "invalid_type", r"content\[0\].type"),
        ([{"role": "user", "content": [{}]}], "invalid_value", "unknown type of content"),
        ([{"role": "user", "content": [{"type": "smell"}]}], "invalid_value", "unknown type of content 'smell'"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}], "unsupported", "reads text alone"),
        ([{"role": "user", "content": [{"image_url": "file:///x"}]}], "unsupported", "image_url"),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}], "unsupported", "input_audio"),
        ([{"role": "user", "content": [{"type": "video"}]}], "unsupported", "video"),
        ([{"role": "user", "content": "x", "images": ["a.png"]}], "unsupported", r"messages\[0\].images is not supported"),
        ([USER, {"role": "assistant", "content": None, "audio": {"id": "a"}}], "unsupported", r"messages\[1\].audio"),
        ([{"role": "assistant", "tool_calls": {}}], "invalid_type", r"tool_calls must be a list"),
        ([{"role": "assistant", "tool_calls": [1]}], "invalid_type", r"tool_calls\[0\] must be an object"),
        ([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}], "invalid_value", "not valid JSON"),
    ],
)
def test_wrong_messages(toys: dict[str, Tokenizer], messages: Any, code: str, match: str) -> None:
    error = failure(chat(toys, CHATML), messages)
    assert (error.code, error.param) == (code, "messages")
    with pytest.raises(RecordError, match=match):
        raise error


def test_wrong_arguments(toys: dict[str, Tokenizer]) -> None:
    ours = chat(toys, CHATML)
    both = failure(ours, [USER], continue_final_message=True)
    assert (both.code, both.param) == ("invalid_value", "continue_final_message")
    assert failure(ours, [USER], add_generation_prompt="yes").param == "add_generation_prompt"
    for tools in ({}, "x", [1]):
        assert (failure(ours, [USER], tools=tools).code, failure(ours, [USER], tools=tools).param) == ("invalid_type", "tools")
    assert failure(ours, [USER], documents=[1]).param == "documents"
    assert failure(ours, [USER], **{"messages": []}).param == "chat_template_kwargs"


def test_what_the_template_raises_is_a_record_error(toys: dict[str, Tokenizer]) -> None:
    error = failure(chat(toys, MISTRAL), [SYSTEM])
    assert (error.code, error.param) == ("template_error", "messages")
    assert "roles must alternate" in error.message
    assert failure(chat(toys, "{{ messages[5].content.x }}"), [USER]).code == "template_error"
    surrogate = chat(toys, CHATML)
    with pytest.raises(RecordError) as e:
        surrogate.encode([{"role": "user", "content": "\ud800"}])
    assert e.value.code == "invalid_encoding"


def test_continue_final_message(toys: dict[str, Tokenizer]) -> None:
    options = {"add_generation_prompt": False, "continue_final_message": True}
    half = {"role": "assistant", "content": "Sure, "}
    assert chat(toys, MISTRAL).render([USER, half], **options).endswith("[/INST]Sure, ")
    assert chat(toys, LLAMA3).render([USER, half], **options).endswith("\n\nSure,")  # this template trims
    assert chat(toys, PARTS_ONLY).render([USER, half], **options).endswith("assistant:[text Sure, ")
    nothing = failure(chat(toys, QWEN), [USER, {"role": "assistant", "tool_calls": [CALL]}], **options)
    assert nothing.code == "invalid_value"
    assert failure(chat(toys, "{{ messages[0].content }}"), [USER, half], **options).code == "template_error"


def test_bos_is_never_doubled(toys: dict[str, Tokenizer]) -> None:
    assert toys["llama"].encode("x")[0] == 1
    ids = chat(toys, MISTRAL).encode([USER])
    assert ids.count(1) == 1
    assert 1 not in chat(toys, "{{ messages[0].content }}").encode([USER])


def test_where_the_template_comes_from(toys: dict[str, Tokenizer], model_files: Files, tmp_path: Path) -> None:
    t = toys["llama"]

    def text(read: Callable[[str], bytes | None], override: str | None = None, **options: Any) -> str:
        return ChatTemplate.load(read, t, override=override).render([USER], **options)

    read = model_files(chat_template__json={"chat_template": "json"})
    assert text(read) == "json"
    read = model_files(tokenizer_config__json={"chat_template": "config"})
    assert text(read) == "config"
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}, {"name": "rag", "template": "rag"}]
    for form in (named, {item["name"]: item["template"] for item in named}):
        read = model_files(tokenizer_config__json={"chat_template": form})
        assert (text(read), text(read, tools=TOOLS), text(read, tools=[])) == ("plain", "tools", "plain")
        assert text(read, "rag") == "rag"
        assert text(read, "{{ 'own' }}") == "own"
    read = model_files(chat_template__jinja="é jinja\n")
    assert text(read) == "é jinja"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/tool_use.jinja").write_text("tools {{ (tools or []) | length }}")
    assert (text(read), text(read, tools=TOOLS), text(read, "tool_use")) == ("é jinja", "tools 1", "tools 0")


def test_what_someone_gives_as_a_template(toys: dict[str, Tokenizer], model_files: Files, tmp_path: Path) -> None:
    """A file's text, then jinja2 text, then one of the model's by name."""
    read = model_files(tokenizer_config__json={"chat_template": {"default": "plain", "rag": "rag", "short": "x"}})

    def text(given: str) -> str:
        return ChatTemplate.load(read, toys["llama"], override=template_text(given)).render([USER])

    (tmp_path / "own.jinja").write_text("own {{ messages[0].role }}")
    (tmp_path / "rag").write_text("rag")  # text that is also the name of a template
    assert text(str(tmp_path / "own.jinja")) == "own user"
    assert text("{{ messages[0].role }}") == "user"
    assert text("two\nlines") == "two\nlines"
    assert text("rag") == "rag"
    (tmp_path / "plain").write_text("short")
    assert text(str(tmp_path / "plain")) == "short"
    with pytest.raises(ConfigError, match=r"'rage' is neither a file.*it has: default, rag, short\); did you mean 'rag'"):
        text("rage")
    with pytest.raises(ConfigError, match="it has none"):
        ChatTemplate.load(lambda filename: None, toys["llama"], override="rag")
    for missing in ("no/such/file", "own.jinja", str(tmp_path)):
        with pytest.raises(ConfigError, match="cannot be read"):
            template_text(missing)
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        template_text(str(tmp_path / "latin"))


@pytest.mark.parametrize(
    "value", [5, False, {"default": 5}, ["a"], [{"name": "default"}], [{"name": ["x"], "template": "x"}], [{"template": "x"}], {"a": None}]
)
def test_something_else_in_the_place_of_a_template_is_named(toys: dict[str, Tokenizer], model_files: Files, value: object) -> None:
    read = model_files(tokenizer_config__json={"chat_template": value})
    for override in (None, "rag"):
        with pytest.raises(ModelError, match=r"^tokenizer_config\.json: chat_template is .*; it must be a template"):
            ChatTemplate.load(read, toys["llama"], override=override)
    ChatTemplate.load(read, toys["llama"], override="{{ messages[0].content }}").require()


def test_no_template_is_the_model_s_failure(toys: dict[str, Tokenizer], model_files: Files) -> None:
    none = ChatTemplate.load(model_files(tokenizer_config__json={"chat_template": None}), toys["llama"])
    with pytest.raises(ModelError, match="no chat template"):
        none.require()
    with pytest.raises(ModelError, match="no chat template"):
        none.render([USER])
    only = {"chat_template": {"rag": "x"}}
    with pytest.raises(ModelError, match=r"no default chat template.*rag"):
        ChatTemplate.load(model_files(tokenizer_config__json=only), toys["llama"]).require()
    broken = ChatTemplate.load(model_files(chat_template__jinja="a\n{% if %}"), toys["llama"])
    with pytest.raises(ModelError, match=r"chat_template\.jinja is not a valid jinja2 template: line 2"):
        broken.require()
    with pytest.raises(ModelError, match="not UTF-8"):
        ChatTemplate.load(model_files(chat_template__jinja=b"\xff"), toys["llama"])
    chat(toys, CHATML).require()
