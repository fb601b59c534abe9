"""Constraints on a record's output, in the words of OpenAI's API and both of vLLM's, as one StructuredOutputsParams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import RecordError, nearest
from ...types.structured import StructuredOutputsParams
from ..jsonl import wrong_type

#: vLLM's older fields of a request -> field of StructuredOutputsParams.
GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
    "structural_tag": "structural_tag",
}
#: Fields that say how, beside one of those.
HOW = {"guided_decoding_backend": "backend", "guided_whitespace_pattern": "whitespace_pattern"}
#: Fields that hold a whole constraint.
WHOLE = ("structured_outputs", "guided_decoding", "response_format")

FIELDS = frozenset(GUIDED) | frozenset(HOW) | frozenset(WHOLE)

_FORMATS = ("text", "json_object", "json_schema", "structural_tag")


def constraint_of(fields: Mapping[str, Any]) -> tuple[bool, StructuredOutputsParams | None]:
    """(True if a record says anything about the form of its output, that form).

    `response_format` of type text says it: there is then no constraint, whatever the command's default is. A schema is held to
    with `"strict": false` too, as in vLLM. Nulls say nothing.

    Raises RecordError naming the field: for a wrong value, and where two fields give a constraint.
    """
    given = {name: value for name, value in fields.items() if name in FIELDS and value is not None}
    if not given:
        return False, None
    sources = [name for name in given if name in WHOLE or name in GUIDED]
    if len(sources) > 1:
        raise RecordError("invalid_value", f"{sources[0]} and {sources[1]} both constrain the output: give one", param=sources[1])
    how = {HOW[name]: value for name, value in given.items() if name in HOW}
    if not sources:
        return False, None  # it says how, and nothing of what
    name = sources[0]
    value = given[name]
    if name == "response_format":
        return True, _response_format(value, how)
    if name in WHOLE:
        if isinstance(value, Mapping):
            value = {**how, **value}
        return True, _named(name, lambda: StructuredOutputsParams.of(value))
    if name == "guided_json_object" and value is False:
        return False, None
    return True, _named(name, lambda: StructuredOutputsParams(**{GUIDED[name]: value}, **how))


def _response_format(value: Any, how: Mapping[str, Any]) -> StructuredOutputsParams | None:
    if not isinstance(value, dict):
        raise wrong_type("response_format", "an object", value)
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return _named("response_format", lambda: StructuredOutputsParams(json_object=True, **how))
    if kind == "json_schema":
        return _named("response_format", lambda: StructuredOutputsParams(json=_schema(value), **how))
    if kind == "structural_tag":
        return _named("response_format", lambda: StructuredOutputsParams(structural_tag=value, **how))  # type: ignore[arg-type]
    known = ", ".join(_FORMATS)
    raise RecordError(
        "invalid_value",
        f"response_format has no type {str(kind)[:100]!r}{nearest(str(kind)[:100], _FORMATS)} (known: {known})",
        param="response_format",
    )


def _schema(value: Mapping[str, Any]) -> Any:
    """The schema of a response_format. OpenAI wraps it in an object with a name; a bare one under `schema` is taken too."""
    wrapped = value.get("json_schema", value)
    if not isinstance(wrapped, dict):
        raise wrong_type("response_format: json_schema", "an object", wrapped, param="response_format")
    if not isinstance(wrapped.get("strict", False), (bool, type(None))):
        raise RecordError("invalid_type", "response_format: strict must be true or false", param="response_format")
    schema = wrapped.get("schema")
    if schema is None:
        raise RecordError("invalid_value", "response_format: json_schema has no schema", param="response_format")
    return schema


def _named(name: str, make: Callable[[], StructuredOutputsParams]) -> StructuredOutputsParams:
    """The result of `make`; its errors name the field of the record."""
    try:
        return make()
    except RecordError as error:
        message = error.message.replace("structured_outputs", name, 1)
        raise RecordError(error.code, message, param=name) from None
