"""Tool calls read from an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer.core.errors import ConfigError
from infer.core.text.calls import PARSERS, tool_call_parser
from infer.core.text.calls.forced import parse_forced
from infer.core.text.calls.parser import Reply, call_id
from infer.core.text.calls.tool_call import ToolCall

PARIS = ToolCall("weather", '{"city": "Paris"}')
ROME = ToolCall("weather", '{"city": "Rome"}')
NOW = ToolCall("now", "{}")

HERMES = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
HERMES_NOW = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'

CALLS = [
    ("hermes", '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', None, [PARIS]),
    ("hermes", 'Let me see.\n<tool_call>{"name": "now", "arguments": {}}</tool_call>', "Let me see.\n", [NOW]),
    (
        "hermes",
        '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>\n<tool_call>{"name": "now", "arguments": {}}',
        None,
        [PARIS, NOW],
    ),
    ("hermes", '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>', None, [PARIS]),
    ("llama3_json", '{"name": "weather", "parameters": {"city": "Paris"}}', None, [PARIS]),
    ("llama3_json", '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}', None, [PARIS]),
    ("llama3_json", '{"name": "now", "arguments": {}}; {"name": "weather", "parameters": {"city": "Rome"}}', None, [NOW, ROME]),
    ("llama3_json", 'I {think}: {"a": 1} {"name": "now", "parameters": {}} done', 'I {think}: {"a": 1}  done', [NOW]),
    ("llama4_json", '{"type": "function", "name": "now", "parameters": {}}', None, [NOW]),
    ("mistral", '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": {}}]', None, [PARIS, NOW]),
    ("mistral", 'Sure.[TOOL_CALLS] [{"name": "now", "arguments": {}}]', "Sure.", [NOW]),
    ("mistral", '[TOOL_CALLS]weather{"city": "Paris"}[TOOL_CALLS]now{}', None, [PARIS, NOW]),
    ("mistral", '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}', None, [PARIS]),
    ("mistral", '[TOOL_CALLS]weather[CALL_ID]abc123[ARGS]{"city": "Paris"}now{}', None, [PARIS, NOW]),
    ("pythonic", '[weather(city="Paris"), now()]', None, [PARIS, NOW]),
    ("pythonic", '<|python_start|>[weather(city="Rome")]<|python_end|>', None, [ROME]),
    (
        "pythonic",
        "[a.b(x=[1, (2, None)], y={'z': -1.5, 'w': True})]",
        None,
        [ToolCall("a.b", '{"x": [1, [2, null]], "y": {"z": -1.5, "w": true}}')],
    ),
]

#: A text, what stays of it, and its calls.
AMONG_OTHERS = [
    ("hermes", f"a {HERMES} b", "a  b", [PARIS]),
    ("hermes", f"{HERMES}\n<tool_call>oops</tool_call>\n{HERMES_NOW}\nDone.", "\n<tool_call>oops</tool_call>\n\nDone.", [PARIS, NOW]),
    (
        "hermes",
        f'<tool_call>{{"name": "f", "arguments": {{}}</tool_call>{HERMES}',
        '<tool_call>{"name": "f", "arguments": {}</tool_call>',
        [PARIS],
    ),
    ("hermes", f'{HERMES}<tool_call>{{"name": "f", "argu', '<tool_call>{"name": "f", "argu', [PARIS]),
    ("hermes", '<tool_call>{"name": "now", "arguments": {}}\n<tool_call>{"name": "now", "arguments": {}}', None, [NOW, NOW]),
    (
        "hermes",
        f'<tool_call>{{"name": "f", "arguments": {{</tool_call>{HERMES_NOW} and }}}}',
        '<tool_call>{"name": "f", "arguments": {</tool_call> and }}',
        [NOW],
    ),
    ("llama3_json", '{"name": "now", "parameters": {}} and {"name": "f", "par', ' and {"name": "f", "par', [NOW]),
    ("llama3_json", '{"name": "f", "parameters": oops} {"name": "now", "parameters": {}}', '{"name": "f", "parameters": oops} ', [NOW]),
    ("llama3_json", '[{"name": "now", "parameters": {}}, {"name": "weather", "parameters": {"city": "Rome"}}]', None, [NOW, ROME]),
    ("llama3_json", '{{"name": "now", "parameters": {}}}', "{}", [NOW]),
    (
        "mistral",
        'a[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "f"}, {"name": "now", "arguments": {}}] b',
        'a{"name": "f"} b',
        [NOW, NOW],
    ),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": oops}, {"name": "now", "arguments": {}}]',
        '{"name": oops}',
        [NOW, NOW],
    ),
    ("mistral", '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "f", "argu', '{"name": "f", "argu', [NOW]),
    ("mistral", "[TOOL_CALLS]now{}[TOOL_CALLS]f{oops}[TOOL_CALLS]now{} so", "[TOOL_CALLS]f{oops} so", [NOW, NOW]),
    ("mistral", '[TOOL_CALLS]now{}f{"x": oops}now{}', 'f{"x": oops}', [NOW, NOW]),
    ("pythonic", "[now(), f(1), now()] so", "f(1) so", [NOW, NOW]),
    ("pythonic", "[now(), f(x='a", " f(x='a", [NOW]),
    ("pythonic", "Well. <|python_start|>[now(), g(x=]), now()]<|python_end|> So.", "Well.  g(x=]), now()]<|python_end|> So.", [NOW]),
]


@pytest.mark.parametrize(("name", "text", "content", "calls"), AMONG_OTHERS)
def test_a_call_stays_one_whatever_stands_beside_it(name: str, text: str, content: str | None, calls: list[ToolCall]) -> None:
    assert tool_call_parser(name).parse(text) == Reply(content, tuple(calls))


HOSTILE = st.text(alphabet="ab {}[]\"'\\\n,;:=é😀", max_size=8)
DELIMITERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|python_start|>", "<|python_end|>", "</think>")
STRINGS = st.lists(st.one_of(HOSTILE, st.sampled_from([*DELIMITERS, '{"name": "g", "arguments": {}}'])), max_size=4).map("".join)
ARGUMENTS = st.dictionaries(st.sampled_from(["x", "y", "name", "arguments"]), st.one_of(STRINGS, st.lists(STRINGS, max_size=2)), max_size=3)
#: How each form writes calls with text before, between and after them.
WRITERS: dict[str, Callable[[list[dict[str, Any]], list[str]], str]] = {
    "hermes": lambda calls, texts: _between(
        [f"<tool_call>\n{json.dumps({'name': 'f', 'arguments': c})}\n</tool_call>" for c in calls], texts
    ),
    "llama3_json": lambda calls, texts: _between([json.dumps({"name": "f", "parameters": c}) for c in calls], texts),
    "mistral": lambda calls, texts: _between([f"[TOOL_CALLS]f{json.dumps(c)}" for c in calls], texts),
    "mistral list": lambda calls, texts: _between(["[TOOL_CALLS]" + json.dumps([{"name": "f", "arguments": c} for c in calls])], texts),
    "pythonic": lambda calls, texts: (
        "[" + ", ".join(f"f({', '.join(f'{k}={v!r}' for k, v in c.items())})" for c in calls) + "]" + texts[-1]
    ),
}


def _between(calls: list[str], texts: list[str]) -> str:
    return texts[0] + "".join(call + text for call, text in zip(calls, texts[1:], strict=False))


@pytest.mark.parametrize("form", WRITERS)
@given(calls=st.lists(ARGUMENTS, min_size=1, max_size=3), texts=st.lists(st.sampled_from(["", "a.", " b \n"]), min_size=4, max_size=4))
def test_strings_may_hold_any_delimiter(form: str, calls: list[dict[str, Any]], texts: list[str]) -> None:
    reply = tool_call_parser(form.split(maxsplit=1)[0]).parse(WRITERS[form](calls, texts))
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [("f", c) for c in calls]
    wanted = texts[-1:] if form == "pythonic" else texts[:2] if form == "mistral list" else texts[: len(calls) + 1]
    assert (reply.content or "") == "".join(wanted)


#: What is no call in a form, and so stays text. Every one is also given to all other parsers.
TEXT = [
    ("hermes", "just words"),
    ("hermes", "<tool_call>not json</tool_call>"),
    ("hermes", '<tool_call>{"name": "now", "arguments": {}'),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>'),
    ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": 1e999}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": {}} }</tool_call>'),
    ("hermes", """<tool_call>{'name': 'f', 'arguments': {'x': '<tool_call>{"name": "now", "arguments": {}}</tool_call>'}}</tool_call>"""),
    ("hermes", "<tool_call>" + "[" * 100_000),
    # Each of these would take minutes if what is found nowhere were searched for from every place.
    ("openai", "<|channel|>" + "a" * 100_000),
    ("qwen3_coder", "<function=" * 50_000),
    ("minimax_m2", "<invoke name=" * 50_000),
    ("pythonic", "[" + '\\"' * 49_000),
    ("olmo3", "<function_calls>" + '\\"' * 100_000),
    ("llama3_json", '{"a": 1}'),
    ("llama3_json", '{"function": {"name": "now", "parameters": {}}}'),
    ("llama3_json", '{"name": "now", "parameters": {}'),
    ("llama3_json", '{"a":' * 20_000),
    ("llama3_json", '{"name": "f", "parameters": {"name": "now", "parameters": {}}, }'),
    ("llama3_json", '{"name": "f", "parameters": {"a": "line\nbreak", "b": {"name": "now", "parameters": {}}}}'),
    ("llama3_json", """{'name': 'f', 'parameters': {"name": "now", "parameters": {}}}"""),
    ("llama3_json", '{"name": "f", "parameters": {"a": {"name": "now", "parameters": {}}, "b": '),
    ("mistral", "[TOOL_CALLS]"),
    ("mistral", "[TOOL_CALLS][]"),
    ("mistral", "[TOOL_CALLS]not one"),
    ("mistral", '[TOOL_CALLS]f{"x": 1'),
    ("mistral", '[TOOL_CALLS]f{"x": oops} and so on'),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": "oops"}]'),
    ("pythonic", "[1, 2]"),
    ("pythonic", "[f(1)]"),
    ("pythonic", "[f(**{})]"),
    ("pythonic", "[f(x=g())]"),
    ("pythonic", "[f(x={1})]"),
    ("pythonic", "[f(x=b'a')]"),
    ("pythonic", "[(lambda: 1)()]"),
    ("pythonic", "[__import__('os').system('true')]"),
    ("pythonic", "[f(x='\\d', 0), 0]"),
    ("pythonic", "[f(x=1), g(y='"[:5]),
    ("pythonic", "So: [f(x=1)]"),
    ("pythonic", "[\0]"),
    ("pythonic", "[" * 5000 + "]" * 5000),
    ("pythonic", "[f(x=" + "9" * 5000 + ")]"),
    ("pythonic", "[]"),
    ("pythonic", ""),
]


@pytest.mark.parametrize(("name", "text", "content", "calls"), CALLS)
def test_calls(name: str, text: str, content: str | None, calls: list[ToolCall]) -> None:
    assert tool_call_parser(name).parse(text) == Reply(content, tuple(calls))


@pytest.mark.parametrize(("name", "text"), TEXT)
def test_what_is_no_call_stays_text(name: str, text: str) -> None:
    assert tool_call_parser(name).parse(text) == Reply(text)


@pytest.mark.parametrize("name", PARSERS)
def test_no_text_is_too_much(name: str) -> None:
    for _, text in TEXT:
        reply = tool_call_parser(name).parse(text)
        assert reply.calls or reply.content == text
    for opening in ("{", '{"a":[', "<tool_call>", "[TOOL_CALLS]", "[f(x="):
        tool_call_parser(name).parse(opening * 10_000)


@given(st.text(alphabet="{}[]()\"':,=<>/ \\nametoolcrgusTOL_CAS0123456789\n", max_size=200))
def test_no_text_raises(text: str) -> None:
    for parser in PARSERS.values():
        for call in parser.parse(text).calls:
            assert isinstance(json.loads(call.arguments), dict)


def test_arguments_are_json_that_can_be_written() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"é": "\\ud83d"}}</tool_call>'
    (call,) = tool_call_parser("hermes").parse(text).calls
    assert call.arguments == '{"\\u00e9": "\\ud83d"}'
    (call,) = tool_call_parser("hermes").parse('<tool_call>{"name": "f", "arguments": {"é": 1}}</tool_call>').calls
    assert call.arguments == '{"é": 1}'


def test_forced_calls() -> None:
    assert parse_forced('{"city": "Paris"}', "weather") == Reply(None, (PARIS,))
    assert parse_forced('[{"name": "now", "parameters": {}}, {"name": "weather", "parameters": {"city": "Rome"}}]', None).calls == (
        NOW,
        ROME,
    )
    for cut in ('{"city": "Par', "[1]", "5", ""):
        assert parse_forced(cut, "weather") == Reply(cut)
        assert parse_forced(cut, None) == Reply(cut)
    assert parse_forced('{"name": "now", "parameters": {}}', None).calls == ()
    cut = '[{"name": "now", "parameters": {}}, {"name": "weather", "parameters": {"city": "Ro'
    assert parse_forced(cut, None) == Reply('{"name": "weather", "parameters": {"city": "Ro', (NOW,))


def test_ids_tell_calls_apart_and_never_change() -> None:
    assert call_id(7, 0, 2) == "call_7_0_2"
    assert tool_call_parser("hermes").call_id(7, 0, 2) == "call_7_0_2"
    short = tool_call_parser("mistral").call_id
    ids = [short(index, choice, number) for index in range(10) for choice in range(3) for number in range(3)]
    assert len(set(ids)) == 90
    assert all(len(i) == 9 and i.isalnum() for i in ids)  # what Mistral's templates ask for
    assert ids[0] == "b18bc68a6"


def test_an_entry_of_tool_calls() -> None:
    assert PARIS.to_json("x") == {"id": "x", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}


def test_an_unknown_parser_is_a_setting_s_mistake() -> None:
    with pytest.raises(ConfigError, match=r"'hermess'; did you mean 'hermes'\?; available: auto, deepseek_v3"):
        tool_call_parser("hermess")
