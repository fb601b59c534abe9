"""A request of OpenAI's Responses API as one of its chat API: what the two call differently, and what only the former can say.

Facts: OpenAI's reference of `POST /v1/responses`, and the fields of vLLM's ResponsesRequest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....errors import RecordError
from ...jsonl import wrong_type

#: Field here -> what it is called in a chat request, where the value is the same.
_RENAMED = {"max_output_tokens": "max_tokens"}
#: Field of chat requests -> the field here.
_CALLED = {
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "logprobs": "top_logprobs",
    "reasoning_effort": "reasoning",
}
#: Field -> why it cannot be had.
_REFUSED = {
    "background": "a job answers all of its lines before it ends",
    "conversation": "each line stands alone: give the whole conversation as input",
    "previous_response_id": "each line stands alone: give the whole conversation as input",
    "prompt": "there are no stored prompts: give instructions and input",
}
#: Fields that change no answer.
_HARMLESS = frozenset({"max_tool_calls", "include_obfuscation"})
_LOGPROBS = "message.output_text.logprobs"
_TEXT = ("input_text", "output_text", "text", "refusal")


def chat_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a chat request that asks for the same. Raises RecordError, which names the field as it is called here."""
    for name, own in _CALLED.items():
        if body.get(name) is not None:
            raise RecordError("unsupported", f"{name} is called {own} at /v1/responses", param=name)
    for name, why in _REFUSED.items():
        if body.get(name) not in (None, False):
            raise RecordError("unsupported", f"{name} is not supported: {why}", param=name)
    if body.get("truncation") not in (None, "disabled"):
        message = 'truncation must be "disabled": an input that is too long is an error'
        raise RecordError("unsupported", message, param="truncation")
    if body.get("n") not in (None, 1):
        raise RecordError("unsupported", "n is not supported: a response is one answer", param="n")
    ours = {*_OWN, *_REFUSED, *_HARMLESS, *_CALLED, *_RENAMED, "truncation", "n"}
    fields = {name: value for name, value in body.items() if name not in ours}
    fields |= {chat: body[name] for name, chat in _RENAMED.items() if body.get(name) is not None}
    for name, read in _OWN.items():
        if body.get(name) is not None:
            fields |= read(body[name])
    if body.get("input") is None:
        raise RecordError("missing_field", 'no "input"', param="input")
    instructions = fields.pop("instructions", None)
    if instructions is not None:
        fields["messages"] = [{"role": "system", "content": instructions}, *fields["messages"]]
    if fields.pop("include", False):
        fields.setdefault("top_logprobs", 0)
    if "top_logprobs" in fields:
        fields["logprobs"] = True
    return fields


def _messages(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        if not value:
            raise RecordError("invalid_value", "input is empty", param="input")
        return {"messages": [{"role": "user", "content": value}]}
    if not isinstance(value, list):
        raise wrong_type("input", "a string or a list of items", value)
    if not value:
        raise RecordError("invalid_value", "input is an empty list: give at least one item", param="input")
    messages: list[dict[str, Any]] = []
    reasoning: str | None = None
    for i, item in enumerate(value):
        where = f"input[{i}]"
        if not isinstance(item, dict):
            raise wrong_type(where, "an object", item, param="input")
        kind = item.get("type", "message")
        if kind == "reasoning":
            reasoning = _reasoning(item)
        elif kind == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": _string(item, "call_id", where), "content": _content(item, "output", where)})
        elif kind in ("message", "function_call"):
            message: dict[str, Any] = _message(item, where) if kind == "message" else {"role": "assistant", "content": None}
            if message["role"] == "assistant":
                if reasoning is not None:
                    message["reasoning_content"], reasoning = reasoning, None
                if kind == "function_call":
                    message = _caller(messages, message)
                    message.setdefault("tool_calls", []).append(_call(item, where))
            if not messages or message is not messages[-1]:
                messages.append(message)
        else:
            shown = repr(kind[:100]) if isinstance(kind, str) else "of no type"
            raise RecordError("unsupported", f"{where} is {shown}: items are messages, function calls and their outputs", param="input")
    return {"messages": messages}


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {"role": _string(item, "role", where), "content": _content(item, "content", where)}


def _content(item: Mapping[str, Any], name: str, where: str) -> Any:
    """Text, or a list of parts, which the template gets as text parts."""
    if name not in item:
        raise RecordError("missing_field", f"{where} has no {name}", param="input")
    value = item[name]
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong_type(f"{where}.{name}", "a string or a list of parts", value, param="input")
    for j, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") not in _TEXT:
            message = f"{where}.{name}[{j}] is no text part (input_text, output_text): only text is read"
            raise RecordError("unsupported", message, param="input")
    return value


def _string(item: Mapping[str, Any], name: str, where: str) -> str:
    if name not in item:
        raise RecordError("missing_field", f"{where} has no {name}", param="input")
    value = item[name]
    if not isinstance(value, str):
        raise wrong_type(f"{where}.{name}", "a string", value, param="input")
    return value


def _caller(messages: list[dict[str, Any]], made: dict[str, Any]) -> dict[str, Any]:
    """The assistant's message that a function call belongs to: the one just before it, as chat templates want it, or a new one."""
    last = messages[-1] if messages else None
    if last is not None and last["role"] == "assistant" and "reasoning_content" not in made:
        return last
    return made


def _call(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = {"name": _string(item, "name", where), "arguments": _string(item, "arguments", where)}
    return {"id": _string(item, "call_id", where), "type": "function", "function": function}


def _reasoning(item: Mapping[str, Any]) -> str:
    """The text of a reasoning item; of one that is encrypted there is none."""
    parts = item.get("content") or item.get("summary") or []
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "\n".join(text for text in texts if isinstance(text, str))


def _instructions(value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        raise wrong_type("instructions", "a string", value)
    return {"instructions": value}


def _text(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type("text", "an object", value)
    if value.get("verbosity") not in (None, "medium"):
        raise RecordError("unsupported", "text.verbosity is not supported", param="text")
    form = value.get("format")
    if form is None:
        return {}
    if not isinstance(form, dict):
        raise wrong_type("text.format", "an object", form, param="text")
    if form.get("type") != "json_schema":
        return {"response_format": dict(form)}
    return {"response_format": {"type": "json_schema", "json_schema": {name: part for name, part in form.items() if name != "type"}}}


def _tools(value: Any) -> dict[str, Any]:
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RecordError("invalid_type", "tools must be a list of objects", param="tools")
    found = []
    for i, tool in enumerate(value):
        if tool.get("type", "function") != "function":
            shown = str(tool["type"])[:100]
            raise RecordError("unsupported", f"tools[{i}] is {shown}: only functions can be called", param="tools")
        function = tool.get("function", tool)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecordError("invalid_value", f"tools[{i}] has no name", param="tools")
        if not isinstance(function.get("parameters"), (dict, type(None))):
            raise wrong_type(f"tools[{i}].parameters", "an object", function["parameters"], param="tools")
        found.append({"type": "function", "function": {name: part for name, part in function.items() if name != "type"}})
    return {"tools": found}


def _tool_choice(value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and value.get("type") == "function" and "function" not in value:
        return {"tool_choice": {"type": "function", "function": {"name": value.get("name")}}}
    if isinstance(value, dict) and value.get("type") != "function":
        raise RecordError("unsupported", "tool_choice must be auto, none, required or a function", param="tool_choice")
    return {"tool_choice": value}


def _reasoning_options(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type("reasoning", "an object", value)
    for name in ("summary", "generate_summary"):
        if value.get(name) not in (None, "auto"):
            message = f"reasoning.{name} is not supported: reasoning is given as it is (--reasoning-parser)"
            raise RecordError("unsupported", message, param="reasoning")
    effort = value.get("effort")
    if effort is not None and not isinstance(effort, str):
        raise wrong_type("reasoning.effort", "a string", effort, param="reasoning")
    return {} if effort is None else {"reasoning_effort": effort}


def _include(value: Any) -> dict[str, Any]:
    if not isinstance(value, list):
        raise wrong_type("include", "a list of strings", value)
    for one in value:
        if one != _LOGPROBS:
            shown = repr(one[:100]) if isinstance(one, str) else "what is no string"
            raise RecordError("unsupported", f"include: {shown} cannot be had; {_LOGPROBS} can", param="include")
    return {"include": bool(value)}


#: Fields that are told in another way, and how.
_OWN: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "input": _messages,
    "instructions": _instructions,
    "text": _text,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "reasoning": _reasoning_options,
    "include": _include,
}
