"""Constraints on a record's output, in the words of each API."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.jobs.tasks.constraint import constraint_of
from infer.core.types.params import SamplingParams
from infer.core.types.structured import StructuredOutputsParams as Structured

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TAG = {"type": "structural_tag", "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}], "triggers": ["<f>"]}

# fmt: off
SAME: list[tuple[dict[str, Any], Structured | None]] = [
    ({"structured_outputs": {"json": SCHEMA}}, Structured(json=SCHEMA)),  # type: ignore[arg-type]
    ({"structured_outputs": {"regex": "a+", "backend": "xgrammar"}}, Structured(regex="a+", backend="xgrammar")),
    ({"guided_decoding": {"choice": ["a", "b"]}}, Structured(choice=("a", "b"))),
    ({"guided_json": SCHEMA}, Structured(json=SCHEMA)),  # type: ignore[arg-type]
    ({"guided_json": '{"type":"integer"}'}, Structured(json='{"type":"integer"}')),
    ({"guided_regex": "a+"}, Structured(regex="a+")),
    ({"guided_choice": ["a", "b"]}, Structured(choice=("a", "b"))),
    ({"guided_grammar": 'root ::= "a"'}, Structured(grammar='root ::= "a"')),
    ({"guided_json_object": True}, Structured(json_object=True)),
    ({"structural_tag": TAG}, Structured(structural_tag=TAG)),  # type: ignore[arg-type]
    ({"guided_json": SCHEMA, "guided_decoding_backend": "auto", "guided_whitespace_pattern": " ?"},
     Structured(json=SCHEMA, backend="auto", whitespace_pattern=" ?")),  # type: ignore[arg-type]
    ({"response_format": {"type": "json_object"}}, Structured(json_object=True)),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, Structured(json=SCHEMA)),  # type: ignore[arg-type]
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}},
     Structured(json=SCHEMA)),  # type: ignore[arg-type]
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": False, "schema": SCHEMA}}},
     Structured(json=SCHEMA)),  # type: ignore[arg-type]
    ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, Structured(json=SCHEMA)),  # type: ignore[arg-type]
    ({"response_format": TAG}, Structured(structural_tag=TAG)),  # type: ignore[arg-type]
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "text"}, "guided_json": None}, None),
]
# fmt: on


@pytest.mark.parametrize(("fields", "wanted"), SAME, ids=lambda v: str(v)[:70])
def test_in_everybodys_words(task: Any, prepare: Any, fields: dict[str, Any], wanted: Structured | None) -> None:
    assert constraint_of(fields) == (True, wanted)
    pending = prepare(task(), prompt="a", **fields)
    assert pending.params.structured_outputs == wanted
    assert pending.extra == {}


@pytest.mark.parametrize(
    "fields",
    [{}, {"guided_json": None, "response_format": None}, {"guided_decoding_backend": "xgrammar"}, {"guided_json_object": False}],
    ids=str,
)
def test_what_says_nothing(task: Any, prepare: Any, fields: dict[str, Any]) -> None:
    assert constraint_of(fields) == (False, None)
    default = SamplingParams(structured_outputs=Structured(regex="b"))
    assert prepare(task(defaults=default), prompt="a", **fields).params == default


def test_a_record_wins_over_the_command(task: Any, prepare: Any) -> None:
    t = task(defaults=SamplingParams(structured_outputs=Structured(regex="b"), top_k=3))
    params = prepare(t, prompt="a", response_format={"type": "json_object"}).params
    assert (params.structured_outputs, params.top_k) == (Structured(json_object=True), 3)
    params = prepare(t, prompt="a", response_format={"type": "text"}).params
    assert (params.structured_outputs, params.top_k) == (None, 3)


@pytest.mark.parametrize(
    ("fields", "code", "param", "message"),
    [
        ({"response_format": "json"}, "invalid_type", "response_format", "response_format must be an object, not a string"),
        (
            {"response_format": {"type": "json"}},
            "invalid_value",
            "response_format",
            "response_format has no type 'json'; did you mean 'json_object' or 'json_schema'? "
            "(known: text, json_object, json_schema, structural_tag)",
        ),
        (
            {"response_format": {}},
            "invalid_value",
            "response_format",
            "response_format has no type 'None' (known: text, json_object, json_schema, structural_tag)",
        ),
        (
            {"response_format": {"type": "json_schema"}},
            "invalid_value",
            "response_format",
            "response_format: json_schema has no schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": "yes"}}},
            "invalid_type",
            "response_format",
            "response_format: strict must be true or false",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": 5}},
            "invalid_type",
            "response_format",
            "response_format: json_schema must be an object, not an integer",
        ),
        ({"guided_json": "{"}, "invalid_value", "guided_json", None),
        ({"guided_json": [1]}, "invalid_type", "guided_json", "guided_json: json must be a JSON object, not list"),
        ({"guided_choice": []}, "invalid_value", "guided_choice", "guided_choice: choice is empty"),
        ({"guided_choice": "ab"}, "invalid_type", "guided_choice", "guided_choice: choice must be a list of strings, not str"),
        (
            {"guided_regex": "a", "guided_decoding_backend": "outlines"},
            "invalid_value",
            "guided_regex",
            "guided_regex: backend 'outlines' is not there; structured output is llguidance's: auto, guidance, xgrammar",
        ),
        ({"guided_decoding": []}, "invalid_type", "guided_decoding", "guided_decoding must be an object, not list"),
        (
            {"guided_json": SCHEMA, "response_format": {"type": "json_object"}},
            "invalid_value",
            "response_format",
            "guided_json and response_format both constrain the output: give one",
        ),
        (
            {"structured_outputs": {"regex": "a"}, "guided_regex": "a"},
            "invalid_value",
            "guided_regex",
            "structured_outputs and guided_regex both constrain the output: give one",
        ),
    ],
    ids=lambda v: str(v)[:60],
)
def test_wrong(fields: dict[str, Any], code: str, param: str, message: str | None) -> None:
    with pytest.raises(RecordError) as caught:
        constraint_of(fields)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert message in (None, caught.value.message)


def test_a_schema_nested_too_deep_is_one_records_error(task: Any, code_of: Any) -> None:
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"properties": {"a": deep}}
    assert code_of(task(), prompt="a", guided_json=deep) == ("invalid_value", "guided_json")
