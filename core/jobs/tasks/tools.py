"""Functions of a conversation: `tools`, `tool_choice`, `parallel_tool_calls`, as in OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import RecordError, nearest
from ...types.structured import StructuredOutputsParams
from ..jsonl import wrong_type
from .fields import flag

FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})


@dataclass(frozen=True)
class ToolUse:
    """The functions a record offers, and how they may be called.

    Args:
        tools: JSON schemas of functions; None where there are none, or none may be called.
        forced: a call must be made: to the function of `name`, or to any.
        name: the function that must be called.
        parallel: more than one call is wanted; else the first counts.
    """

    tools: list[dict[str, Any]] | None = None
    forced: bool = False
    name: str | None = None
    parallel: bool = True

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> ToolUse:
        """Raises RecordError (invalid_type, invalid_value, unsupported) naming the field."""
        tools, choice = fields.get("tools"), fields.get("tool_choice")
        if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
            raise RecordError("invalid_type", "tools must be a list of objects", param="tools")
        parallel = flag(fields, "parallel_tool_calls", True)
        if choice in (None, "auto", "none"):
            return cls(tools if tools and choice != "none" else None, parallel=parallel)
        name = _wanted(choice)
        if not tools:
            raise RecordError("invalid_value", "tool_choice asks for a call, but there are no tools", param="tool_choice")
        functions = _functions(tools)
        if name is not None and name not in functions:
            raise RecordError("invalid_value", f"tool_choice: no tool is called {name!r}{nearest(name, functions)}", param="tool_choice")
        return cls(tools, forced=True, name=name, parallel=parallel)

    def constraint(self) -> StructuredOutputsParams:
        """The form of a forced call's output: the arguments of the function, or a list of {name, parameters}, as in vLLM.

        Raises RecordError, param "tools".
        """
        assert self.forced
        assert self.tools is not None
        functions = _functions(self.tools)
        schema = _arguments(functions[self.name]) if self.name is not None else self._any_of(functions)
        try:
            return StructuredOutputsParams(json=schema)  # type: ignore[arg-type]
        except RecordError as error:
            raise RecordError(error.code, error.message.replace("structured_outputs", "tools", 1), param="tools") from None

    def _any_of(self, functions: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """A list of calls. The definitions a schema refers to move to the top, where its references look for them."""
        calls: list[dict[str, Any]] = []
        definitions: dict[str, dict[str, Any]] = {}
        for name, function in functions.items():
            arguments = _arguments(function)
            for place in ("$defs", "definitions"):
                moved = arguments.pop(place, None)
                if not isinstance(moved, dict):
                    continue
                for key, definition in moved.items():
                    if definitions.setdefault(place, {}).setdefault(key, definition) != definition:
                        raise RecordError("unsupported", f"tools define {key!r} in different ways; rename it in one of them", param="tools")
            properties = {"name": {"enum": [name]}, "parameters": arguments}
            calls.append({"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False})
        most = {} if self.parallel else {"maxItems": 1}
        return {"type": "array", "minItems": 1, **most, "items": {"anyOf": calls}, **definitions}


def _wanted(choice: Any) -> str | None:
    """The name in a tool_choice that forces a call; None for any function."""
    if choice == "required":
        return None
    if isinstance(choice, str):
        raise RecordError("invalid_value", "tool_choice must be auto, none, required or a function", param="tool_choice")
    if not isinstance(choice, dict):
        raise wrong_type("tool_choice", "a string or an object", choice)
    function = choice.get("function")
    if choice.get("type", "function") != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        message = 'a tool_choice that is an object must be {"type": "function", "function": {"name": …}}'
        raise RecordError("invalid_value", message, param="tool_choice")
    return str(function["name"])


def _functions(tools: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name -> function. Needed, and so checked, only where a call is forced: a template may take tools of any form."""
    found = {}
    for i, tool in enumerate(tools):
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecordError("invalid_value", f"tools[{i}] has no function with a name", param="tools")
        if not isinstance(function.get("parameters", {}), (dict, type(None))):
            raise RecordError("invalid_type", f"tools[{i}].function.parameters must be an object", param="tools")
        found[function["name"]] = function
    return found


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments, which are an object whatever else it says."""
    return {"type": "object", **(function.get("parameters") or {})}
