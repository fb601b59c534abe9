"""JSON schemas: what is refused, where, and how the rest is rewritten. That every text is valid is tested in engine/test_grammar."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.text.schema import MAX_PROPERTIES, MAX_SUBSCHEMAS, MAX_VALUES, normalized

OBJECT: dict[str, Any] = {"type": "object"}
LOOP = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}, {"type": "null"}]}, "b": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, {}),
        ({"title": "x", "description": "y", "default": {"not": 1}, "examples": [1], "x-own": {"if": 1}}, {}),
        (OBJECT, {"type": "object", "additionalProperties": True}),
        ({"type": "array"}, {"type": "array", "items": {}}),
        ({"type": ["integer", "number"]}, {"type": "number"}),
        ({"type": ["null", "string"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"minLength": 1, "minimum": 2}, {"anyOf": [{"type": "string", "minLength": 1}, {"type": "number", "minimum": 2}]}),
        ({"type": "string", "minimum": 3}, {"type": "string"}),
        ({"type": "string", "minLength": 0}, {"type": "string"}),
        ({"type": "string", "maxLength": 3.0}, {"type": "string", "maxLength": 3}),
        ({"type": "integer", "minimum": 1.5, "exclusiveMaximum": 3.5}, {"type": "integer", "minimum": 2, "exclusiveMaximum": 4}),
        ({"const": 1}, {"enum": [1]}),
        ({"type": ["integer", "null"], "enum": [1, 1.5, "a", None, True]}, {"enum": [1, None]}),
        ({"allOf": [{"type": "null"}]}, {"type": "null"}),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, {"type": "array", "maxItems": 1, "items": {}}),
        (
            {"$ref": "#/components/schemas/A~1B", "components": {"schemas": {"A/B": {"type": "null"}}}},
            {"$ref": "#/$defs/d0", "$defs": {"d0": {"type": "null"}}},
        ),
        (
            {**LOOP, "$ref": "#/$defs/a"},
            {
                "$ref": "#/$defs/d0",
                "$defs": {
                    "d0": {"anyOf": [{"$ref": "#/$defs/d1"}, {"type": "null"}]},
                    "d1": {"type": "array", "items": {"$ref": "#/$defs/d0"}},
                },
            },
        ),
    ],
)
def test_rewriting(schema: Any, expected: Any) -> None:
    assert normalized(schema) == expected


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (3, "at #: a schema is an object, true or false, not int"),
        (False, "accepts nothing"),
        ({"type": "object", "properties": {"a/b": {"not": {}}}}, "at #/properties/a~1b: not cannot be enforced"),
        ({"type": "array", "items": {"if": {}}}, "at #/items: if cannot"),
        ({"anyOf": [{"type": "null"}, {"contains": 1}]}, "at #/anyOf/1: contains cannot"),
        ({"dependentRequired": {}}, "dependentRequired"),
        ({"dependentSchemas": {}}, "dependentSchemas"),
        ({"dependencies": {}}, "dependencies"),
        ({"$dynamicRef": "#"}, "$dynamicRef"),
        ({"type": "foo"}, "unknown type 'foo'"),
        ({"type": []}, "type is empty"),
        ({"type": "string", "multipleOf": 2, "minLength": "1"}, "minLength must be a whole number"),
        ({"type": "string", "minLength": -1}, "minLength must be a whole number"),
        ({"type": "string", "maxLength": 70_000}, "above 65536"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "maxLength is below minLength"),
        ({"type": "string", "pattern": "a", "maxLength": 2}, "pattern and maxLength cannot be enforced together"),
        ({"type": "string", "pattern": "a", "format": "date"}, "pattern and format cannot"),
        ({"type": "string", "format": "date", "minLength": 2}, "format and minLength cannot"),
        ({"type": "string", "format": "zipcode"}, "format 'zipcode' cannot be enforced"),
        ({"type": "string", "pattern": "(?=a)"}, "lookahead"),
        ({"type": "string", "pattern": 3}, "pattern must be a string"),
        ({"type": "number", "multipleOf": 0.5}, "multipleOf"),
        ({"type": "integer", "multipleOf": 0}, "multipleOf"),
        ({"minimum": True}, "minimum must be a number"),
        ({"type": "integer", "minimum": 2**60}, "too large"),
        ({"minimum": float("nan")}, "too large"),
        ({"enum": [[2**60]]}, "cannot be enforced exactly"),
        ({"enum": [float("inf")]}, "cannot be enforced exactly"),
        ({"enum": []}, "no value is left"),
        ({"enum": 3}, "enum must be a list"),
        ({"type": "null", "enum": [1]}, "no value is left"),
        ({"enum": [1], "minimum": 0}, "minimum beside enum"),
        ({"enum": [1], "const": 1}, "enum and const side by side"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "unevaluatedItems": {}}, "unevaluatedItems"),
        ({"type": "array", "items": [{}]}, "is called prefixItems"),
        ({"type": "array", "items": False, "minItems": 1}, "fewer items"),
        ({"type": "object", "required": "a"}, "required must be a list"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "'a' is required and not allowed"),
        ({"type": "object", "minProperties": 2}, "minProperties above 1"),
        ({"type": "object", "properties": {"a": True}, "minProperties": 2}, "fewer properties"),
        ({"type": "object", "unevaluatedProperties": {}}, "unevaluatedProperties"),
        ({"type": "object", "patternProperties": {"a": True, "b": True}}, "only one pattern"),
        ({"type": "object", "patternProperties": {"a": True}, "properties": {"b": True}}, "patternProperties beside properties"),
        ({"type": "object", "patternProperties": {"a": True}, "required": ["a"]}, "patternProperties beside required"),
        ({"type": "object", "propertyNames": {}, "patternProperties": {"a": True}}, "patternProperties beside propertyNames"),
        ({"type": "object", "propertyNames": {}, "additionalProperties": {"type": "null"}}, "propertyNames beside additionalProperties"),
        ({"anyOf": []}, "anyOf must be a list"),
        ({"anyOf": [True], "type": "string"}, "type beside anyOf"),
        ({"$ref": "#/$defs/a", "$defs": {"a": True}, "minimum": 1}, "minimum beside $ref"),
        ({"allOf": [True, True]}, "allOf of several"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf whose schemas may overlap"),
        ({"oneOf": [{"enum": [1, 2]}, {"const": 2}]}, "oneOf whose schemas may overlap"),
        ({"oneOf": [OBJECT, {**OBJECT, "required": ["a"], "properties": {"a": {"const": 1}}}]}, "oneOf whose schemas may overlap"),
        ({"$ref": "http://example.com/x"}, "only references into the schema itself"),
        ({"$ref": "#name"}, "only references into the schema itself"),
        ({"$ref": "#/$defs/a"}, "leads nowhere"),
        ({"$ref": 3}, "$ref must be a string"),
        ({"type": "array", "items": {"$id": "x"}}, "$id below the root"),
        ({"type": "object", "properties": {f"p{i}": True for i in range(MAX_PROPERTIES + 1)}}, "more than 1000 properties"),
        ({"enum": list(range(MAX_VALUES + 1))}, "more than 20000 values"),
        ({"anyOf": [{"type": "null"}] * (MAX_SUBSCHEMAS + 1)}, "more than 5000 subschemas"),
    ],
)
def test_refusals(schema: Any, message: str) -> None:
    with pytest.raises(RecordError) as error:
        normalized(schema)
    assert error.value.code == "grammar_error"
    assert message in error.value.message


@pytest.mark.parametrize(
    "branches",
    [
        [{"type": "string"}, {"type": ["integer", "null"]}, OBJECT],
        [{"const": 1}, {"const": True}, {"enum": ["a", None]}],
        [
            {**OBJECT, "properties": {"k": {"const": "a"}}, "required": ["k"]},
            {**OBJECT, "properties": {"k": {"$ref": "#/$defs/b"}}, "required": ["k"]},
        ],
    ],
)
def test_one_of_what_cannot_overlap(branches: list[Any]) -> None:
    assert len(normalized({"oneOf": branches, "$defs": {"b": {"enum": ["b", "c"]}}})["anyOf"]) == len(branches)


def test_closed() -> None:
    assert normalized(OBJECT, closed=True) == {"type": "object", "additionalProperties": False}
    assert normalized({**OBJECT, "additionalProperties": True}, closed=True)["additionalProperties"] is True
