"""Each form of calls: what a model of its family writes, and calls that we write and read again, whatever their strings hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from infer.core.text.calls import PARSERS, parser_of, tool_call_parser
from infer.core.text.calls.parser import Reply
from infer.core.text.calls.tool_call import ToolCall

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {
                    "s": {"type": "string"},
                    "t": {"type": "string"},
                    "n": {"type": "integer"},
                    "l": {"type": "array", "items": {"type": "string"}},
                    "o": {"type": "object"},
                    "b": {"type": "boolean"},
                },
            },
        },
    }
]
#: (parser, what a model wrote, the content that is left, the calls)
WRITTEN = [
    (
        "deepseek_v3",
        "So.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
        '{"s": "a"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n'
        "{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "So.",
        [("f", {"s": "a"}), ("g", {})],
    ),
    (
        "deepseek_v31",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"n": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        None,
        [("f", {"n": 1})],
    ),
    ("ernie45", '<tool_call>\n{"name": "f", "arguments": {"s": "a"}}\n</tool_call>\n', None, [("f", {"s": "a"})]),
    (
        "gemma4",
        'Yes.<|tool_call>call:f{s:<|"|>a, {b}<|"|>,n:42,b:true,l:[<|"|>x<|"|>,<|"|>y<|"|>],o:{k:<|"|>v<|"|>,z:null}}<tool_call|>',
        "Yes.",
        [("f", {"s": "a, {b}", "n": 42, "b": True, "l": ["x", "y"], "o": {"k": "v", "z": None}})],
    ),
    (
        "glm45",
        "Let me.\n<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>5</arg_value>\n"
        "<arg_key>n</arg_key>\n<arg_value>5</arg_value>\n</tool_call>",
        "Let me.\n",
        [("f", {"s": "5", "n": 5})],
    ),
    ("glm47", "<tool_call>g</tool_call>", None, [("g", {})]),
    (
        "granite",
        '<|tool_call|>[{"name": "f", "arguments": {"s": "a"}}, {"name": "g", "arguments": {}}]',
        None,
        [("f", {"s": "a"}), ("g", {})],
    ),
    ("internlm", 'Ok.<|action_start|><|plugin|>\n{"name": "f", "parameters": {"s": "a"}}<|action_end|>\n', "Ok.", [("f", {"s": "a"})]),
    ("jamba", '<tool_calls>[\n    {"name": "f", "arguments": {"s": "a"}}\n]</tool_calls>', None, [("f", {"s": "a"})]),
    (
        "kimi_k2",
        "Hm.<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
        '{"s": "a"}<|tool_call_end|><|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>'
        "{}<|tool_call_end|><|tool_calls_section_end|>",
        "Hm.",
        [("f", {"s": "a"}), ("g", {})],
    ),
    ("llama4_pythonic", "<|python_start|>[f(s='a')]<|python_end|>", None, [("f", {"s": "a"})]),
    (
        "minimax_m2",
        '<minimax:tool_call>\n<invoke name="f">\n<parameter name="s">7</parameter>\n<parameter name="l">["a"]</parameter>\n</invoke>\n'
        '<invoke name="g">\n</invoke>\n</minimax:tool_call>',
        None,
        [("f", {"s": "7", "l": ["a"]}), ("g", {})],
    ),
    ("olmo3", 'Well.<function_calls>f(s="a", b=true)\ng()</function_calls>', "Well.", [("f", {"s": "a", "b": True}), ("g", {})]),
    (
        "openai",
        '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"s":"<|end|>"}<|call|>',
        None,
        [("f", {"s": "<|end|>"})],
    ),
    (
        "openai",
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.g<|channel|>commentary json<|message|>{}<|call|>",
        "I look.",
        [("g", {})],
    ),
    ("phi4_mini_json", 'functools[{"name": "f", "arguments": {"s": "a"}}]', None, [("f", {"s": "a"})]),
    (
        "qwen3_coder",
        "I see.\n<tool_call>\n<function=f>\n<parameter=s>\na\nb\n</parameter>\n<parameter=n>\n3\n</parameter>\n<parameter=o>\n"
        '{"k": [1]}\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>',
        "I see.\n",
        [("f", {"s": "a\nb", "n": 3, "o": {"k": [1]}}), ("g", {})],
    ),
    (
        "seed_oss",
        "<seed:tool_call>\n<function=f>\n<parameter=b>true</parameter>\n</function>\n</seed:tool_call>",
        None,
        [("f", {"b": True})],
    ),
    ("xlam", '[{"name": "f", "arguments": {"s": "a"}}]', None, [("f", {"s": "a"})]),
    ("xlam", 'So:\n```json\n[{"name": "f", "arguments": {"s": "a"}}]\n```', "So:\n", [("f", {"s": "a"})]),
    ("xlam", 'hm</think>[{"name": "f", "arguments": {"s": "a"}}]', "hm</think>", [("f", {"s": "a"})]),
]


@pytest.mark.parametrize(("name", "text", "content", "calls"), WRITTEN)
def test_what_models_write(name: str, text: str, content: str | None, calls: list[tuple[str, Any]]) -> None:
    reply = tool_call_parser(name).parse(text, TOOLS)
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == calls
    assert reply.content == content


#: Not a call, in the form of each parser: cut off, or not what it should be.
BROKEN = [
    ("deepseek_v3", '<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"s": "a"'),
    ("deepseek_v31", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>[1]<｜tool▁call▁end｜>"),
    ("gemma4", '<|tool_call>call:f{s:<|"|>a'),
    ("gemma4", "<|tool_call>call:f{s:a}<tool_call|>"),
    ("gemma4", "<|tool_call>call:f" + "{a:" * 200),
    ("glm45", "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>5"),
    ("glm45", "<tool_call>f what</tool_call>"),
    ("granite", "<|tool_call|>[1]"),
    ("internlm", '<|action_start|><|plugin|>{"name": "f"}<|action_end|>'),
    ("jamba", '<tool_calls>[{"name": "f"}]</tool_calls>'),
    ("kimi_k2", '<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"s": '),
    ("minimax_m2", '<invoke name="f"><parameter name="s">7'),
    ("olmo3", "<function_calls>f(g())</function_calls>"),
    ("olmo3", "<function_calls>f(s='a"),
    ("phi4_mini_json", "functools[oops]"),
    ("qwen3_coder", "<function=f>\n<parameter=s>\na"),
    ("qwen3_coder", "<function=f> so </function>"),
    ("xlam", 'I say [{"name": "f", "arguments": {}}]'),
]


@pytest.mark.parametrize(("name", "text"), BROKEN)
def test_what_is_no_call_stays_text(name: str, text: str) -> None:
    assert tool_call_parser(name).parse(text, TOOLS) == Reply(text)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, text, *_ in WRITTEN])
def test_no_cut_raises_or_makes_arguments_up(name: str, text: str) -> None:
    whole = tool_call_parser(name).parse(text, TOOLS).calls
    for end in range(len(text)):
        calls = tool_call_parser(name).parse(text[:end], TOOLS).calls
        assert calls == whole[: len(calls)]


MARKERS = sorted(
    {marker for parser in PARSERS.values() for marker in parser.markers} | {"</function>", "</parameter>", "<parameter=q>", "```"}
)
TEXTS = st.lists(st.one_of(st.text(alphabet="ab {}[]\"'\\,:=<>|/é😀\n", max_size=6), st.sampled_from(MARKERS)), max_size=3).map("".join)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "s": TEXTS,
        "t": TEXTS,
        "n": st.integers(-9, 9),
        "l": st.lists(TEXTS, max_size=2),
        "b": st.booleans(),
        "o": st.just({"k": None}),
    },
)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _gemma(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, list):
        return "[" + ",".join(map(_gemma, value)) + "]"
    return "{" + ",".join(f"{k}:{_gemma(v)}" for k, v in value.items()) + "}" if isinstance(value, dict) else json.dumps(value)


def _xml(arguments: dict[str, Any]) -> str:
    inner = "".join(f"<parameter={k}>\n{_json(v)}\n</parameter>\n" for k, v in arguments.items())
    return f"<function=f>\n{inner}</function>"


def _glm(arguments: dict[str, Any]) -> str:
    inner = "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{_json(v)}</arg_value>\n" for k, v in arguments.items())
    return f"<tool_call>f\n{inner}</tool_call>"


def _minimax(arguments: dict[str, Any]) -> str:
    inner = "".join(f'<parameter name="{k}">{_json(v)}</parameter>\n' for k, v in arguments.items())
    return f'<minimax:tool_call>\n<invoke name="f">\n{inner}</invoke>\n</minimax:tool_call>'


def _listed(arguments: dict[str, Any]) -> str:
    return json.dumps([{"name": "f", "arguments": arguments}])


def _python(arguments: dict[str, Any]) -> str:
    return f"f({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"


WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "deepseek_v3": lambda a: f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{json.dumps(a)}\n```<｜tool▁call▁end｜>",
    "deepseek_v31": lambda a: f"<｜tool▁call▁begin｜>f<｜tool▁sep｜>{json.dumps(a)}<｜tool▁call▁end｜>",
    "ernie45": lambda a: f"<tool_call>\n{json.dumps({'name': 'f', 'arguments': a})}\n</tool_call>",
    "gemma4": lambda a: f"<|tool_call>call:f{_gemma(a)}<tool_call|>",
    "glm45": _glm,
    "granite": lambda a: f"<|tool_call|>{_listed(a)}",
    "internlm": lambda a: f"<|action_start|><|plugin|>\n{json.dumps({'name': 'f', 'parameters': a})}<|action_end|>",
    "jamba": lambda a: f"<tool_calls>{_listed(a)}</tool_calls>",
    "kimi_k2": lambda a: f"<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{json.dumps(a)}<|tool_call_end|>",
    "minimax_m2": _minimax,
    "olmo3": lambda a: f"<function_calls>{_python(a)}</function_calls>",
    "openai": lambda a: f"<|channel|>commentary to=functions.f <|constrain|>json<|message|>{json.dumps(a)}<|call|>",
    "phi4_mini_json": lambda a: f"functools{_listed(a)}",
    "qwen3_coder": lambda a: f"<tool_call>\n{_xml(a)}\n</tool_call>",
    "seed_oss": lambda a: f"<seed:tool_call>\n{_xml(a)}\n</seed:tool_call>",
    "xlam": lambda a: f"```json\n{_listed(a)}\n```",
}
#: Texts that a form without any escape cannot hold: what ends an argument, and right behind it what may follow one.
CANNOT_HOLD = {
    "gemma4": r'<\|"\|>',
    "glm45": r"</arg_value>\s*(</tool_call>|<arg_key>|$)",
    "qwen3_coder": r"</parameter>\s*(</function>|$)",
    "minimax_m2": r"</parameter>\s*(</invoke>|$)",
}
CANNOT_HOLD["seed_oss"] = CANNOT_HOLD["qwen3_coder"]


@pytest.mark.parametrize("name", WRITERS)
@given(calls=st.lists(ARGUMENTS, min_size=1, max_size=2))
def test_what_we_write_is_read_again(name: str, calls: list[dict[str, Any]]) -> None:
    if name in CANNOT_HOLD:
        assume(
            not any(
                re.search(CANNOT_HOLD[name], text) for call in calls for text in (call.get("s", ""), call.get("t", ""), *call.get("l", ()))
            )
        )
    reply = tool_call_parser(name).parse("Well. " + " ".join(WRITERS[name](call) for call in calls), TOOLS)
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [("f", call) for call in calls]
    assert (reply.content or "").strip() == "Well."


def test_without_a_schema_json_is_json() -> None:
    text = "<function=f><parameter=x>5</parameter><parameter=y>five</parameter><parameter=z>true</parameter></function>"
    (call,) = tool_call_parser("qwen3_coder").parse(text).calls
    assert json.loads(call.arguments) == {"x": 5, "y": "five", "z": True}


TYPES: list[tuple[dict[str, Any], str, Any]] = [
    ({"type": "boolean"}, "True", True),
    ({"type": "boolean"}, "false", False),
    ({"type": "boolean"}, "yes", "yes"),
    ({"type": "array"}, "['x', \"y\"]", ["x", "y"]),
    ({"type": "array"}, "('x', 'y')", "('x', 'y')"),
    ({"type": "object"}, "{'k': None}", {"k": None}),
    ({"type": "object"}, "{'k': {1, 2}}", "{'k': {1, 2}}"),
    ({"type": "object"}, "{1: 2}", "{1: 2}"),
    ({"type": "array"}, "[b'x', 1j]", "[b'x', 1j]"),
    ({"type": "number"}, "5", 5),
    ({"type": "integer"}, "__import__('os')", "__import__('os')"),
    ({"type": "array"}, "[" * 5000, "[" * 5000),
    ({"type": ["boolean", "null"]}, "None", None),
    ({"type": ["string", "boolean"]}, "True", "True"),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "5", "5"),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null", None),
    ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "True", True),
    ({"anyOf": [{"type": "string"}, {"type": "number"}]}, "5", 5),
    ({"anyOf": [{"$ref": "#/x"}, {"type": "string"}]}, "5", 5),
    ({}, "True", "True"),
    ({}, "true", True),
]


@pytest.mark.parametrize("name", ["qwen3_coder", "seed_oss", "glm45", "minimax_m2"])
@pytest.mark.parametrize(("schema", "text", "value"), TYPES)
def test_values_as_templates_print_them(name: str, schema: dict[str, Any], text: str, value: Any) -> None:
    """Qwen's, Nemotron's and Seed's templates write True, and Seed's lists as Python does."""
    written = {
        "qwen3_coder": f"<tool_call>\n<function=f>\n<parameter=a>\n{text}\n</parameter>\n</function>\n</tool_call>",
        "seed_oss": f"<seed:tool_call>\n<function=f>\n<parameter=a>{text}</parameter>\n</function>\n</seed:tool_call>",
        "glm45": f"<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{text}</arg_value>\n</tool_call>",
        "minimax_m2": f'<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">{text}</parameter>\n</invoke>\n</minimax:tool_call>',
    }[name]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": schema}}}}]
    (call,) = tool_call_parser(name).parse(written, tools).calls
    assert json.loads(call.arguments) == {"a": value}
    assert type(json.loads(call.arguments)["a"]) is type(value)


def test_arguments_all_in_one() -> None:
    reply = tool_call_parser("qwen3_coder").parse(
        'I look. <function=f>{"s": "</function>", "n": 5}</function><function=g>{}</function>', TOOLS
    )
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [("f", {"s": "</function>", "n": 5}), ("g", {})]
    assert reply.content == "I look. "
    for broken in ("<function=f>{} so</function>", "<function=f>{</function>", "<function=f>[1]</function>"):
        assert tool_call_parser("qwen3_coder").parse(broken, TOOLS) == Reply(broken)


def test_calls_one_after_the_other() -> None:
    """MiniMax-M1's, in the same marks as Jamba's list."""
    text = '<tool_calls>\n{"name": "f", "arguments": {"n": 1}}\n{"name": "g", "arguments": {}}\n</tool_calls>'
    assert [call.name for call in tool_call_parser("jamba").parse(text).calls] == ["f", "g"]
    broken = text.replace("}}\n{", "}}\nand {")
    assert tool_call_parser("jamba").parse(broken) == Reply(broken)


def test_kimis_ids_hold_the_function() -> None:
    assert tool_call_parser("kimi_k2").call_id(7, 0, 2, "f") == "functions.f:2"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("<tool_call>\n{{ call | tojson }}</tool_call>", "hermes"),
        ("<tool_call>{{ name }}<arg_key>", "glm45"),
        ("<tool_call>\n<function={{ name }}>", "qwen3_coder"),
        ("<｜tool▁sep｜>{{ name }}\n```json", "deepseek_v3"),
        ("<｜tool▁sep｜>{{ args }}", "deepseek_v31"),
        ("[TOOL_CALLS]", "mistral"),
        ("<|start|>assistant<|channel|>final", "openai"),
        ('Respond as {"name": function name, "parameters": dictionary of argument name and its value}', "llama3_json"),
        ("]<]minimax[>[<tool_call>{{ response }}<response>", None),
        ("{{ messages }}", None),
    ],
)
def test_the_template_shows_the_form(template: str, name: str | None) -> None:
    assert parser_of(template) == name


def test_tools_of_any_form() -> None:
    for tools in ([1], [{"function": 3}], [{"function": {"name": "f", "parameters": []}}], [{"name": "f"}], None):
        assert tool_call_parser("glm45").parse("<tool_call>f</tool_call>", tools).calls == (ToolCall("f", "{}"),)
