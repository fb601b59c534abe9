"""JSON schemas: what is refused, where, and how the rest is rewritten. That every text is valid is tested in test_grammar.py."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.sampling.grammar.schema import MAX_COUNT, MAX_PROPERTIES, MAX_SUBSCHEMAS, MAX_VALUES, normalized

OBJECT: dict[str, Any] = {"type": "object"}
CLOSED = {"additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, {}),
        ({"x-guidance": {"lenient": True}, "$schema": "http://json-schema.org/draft-04/schema#"}, {}),
        (OBJECT, OBJECT),
        ({"minLength": 1, "minimum": 2}, {"minLength": 1, "minimum": 2, "type": ["string", "number"]}),
        ({"type": "string", "maxLength": 3.0}, {"type": "string", "maxLength": 3}),
        (
            {"minimum": 1, "exclusiveMinimum": 1, "maximum": 3, "exclusiveMaximum": 4},
            {"exclusiveMinimum": 1, "maximum": 3, "type": "number"},
        ),
        ({"type": "integer", "multipleOf": 3.0}, {"type": "integer", "multipleOf": 3}),
        ({"type": "string", "pattern": "a|b"}, {"type": "string", "pattern": "^(?:a|b)$"}),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, {"type": "array", "maxItems": 1}),
        ({"type": "array", "uniqueItems": False}, {"type": "array"}),
        ({"prefixItems": [True]}, {"type": "array", "prefixItems": [True], "items": False}),
        ({"prefixItems": [True], "minItems": 2}, {"type": "array", "prefixItems": [True], "minItems": 2}),
        ({**OBJECT, "properties": {"a": True}}, {**OBJECT, "properties": {"a": True}, **CLOSED}),
        ({**OBJECT, "required": ["a"]}, {**OBJECT, "required": ["a"], "properties": {"a": True}, **CLOSED}),
        ({**OBJECT, "properties": {}, "unevaluatedProperties": True}, {**OBJECT, "properties": {}, "additionalProperties": True}),
        ({**OBJECT, "propertyNames": {"enum": ["a", "b"]}}, {**OBJECT, "patternProperties": {"^(?:a|b)$": True}, **CLOSED}),
        ({**OBJECT, "propertyNames": {"maxLength": 2}}, {**OBJECT, "patternProperties": {"^(?s:.{0,2})$": True}, **CLOSED}),
        ({**OBJECT, "patternProperties": {"^a$": True}}, {**OBJECT, "patternProperties": {"^(?:a)$": True}, **CLOSED}),
        ({"const": {"type": "foo", "properties": 3}}, {"const": {"type": "foo", "properties": 3}}),
    ],
)
def test_rewriting(schema: Any, expected: Any) -> None:
    assert normalized(schema) == expected


def test_only_an_object_that_stands_alone_is_closed() -> None:
    part = {**OBJECT, "properties": {"a": True}}
    assert normalized({"allOf": [part]})["allOf"] == [{**part, **CLOSED}]
    assert normalized({"allOf": [part, part]})["allOf"] == [part, part]
    assert normalized({**part, "anyOf": [{"required": ["a"]}, True]}) == {**part, "anyOf": [{"required": ["a"]}, True]}
    shared = normalized({"$defs": {"p": part}, "allOf": [{"$ref": "#/$defs/p"}, part], "properties": {"b": {"$ref": "#/$defs/p"}}})
    assert shared["$defs"]["p"] == part
    with pytest.raises(RecordError, match="disable_additional_properties"):
        normalized({"allOf": [part, part]}, closed=True)


def test_a_property_that_is_required_counts_once() -> None:
    names = [f"p{i}" for i in range(MAX_PROPERTIES)]
    assert normalized({**OBJECT, "properties": dict.fromkeys(names, True), "required": names})["required"] == names
    with pytest.raises(RecordError, match="properties"):
        normalized({**OBJECT, "properties": dict.fromkeys(names, True), "required": ["another"]})


def test_the_schema_given_stays_as_it_is() -> None:
    schema = {**OBJECT, "properties": {"a": {"type": "string", "format": "date"}}}
    assert normalized(schema) is not schema
    assert schema == {**OBJECT, "properties": {"a": {"type": "string", "format": "date"}}}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (3, "at #: a schema is an object, true or false, not int"),
        (False, "accepts nothing"),
        ({"type": "object", "properties": {"a/b": {"not": {}}}}, "at #/properties/a~1b: not cannot be enforced"),
        ({"type": "array", "items": {"if": {}}}, "at #/items: if cannot"),
        ({"anyOf": [{"type": "null"}, {"contains": 1}]}, "at #/anyOf/1: contains cannot"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {}}}}, "at #/$defs/a: not cannot"),
        ({"dependentRequired": {}}, "dependentRequired"),
        ({"dependentSchemas": {}}, "dependentSchemas"),
        ({"dependencies": {}}, "dependencies"),
        ({"$dynamicRef": "#"}, "$dynamicRef"),
        ({"type": "foo"}, "unknown type 'foo'"),
        ({"type": [{}]}, "unknown type"),
        ({"type": []}, "type is empty"),
        ({"type": "string", "multipleOf": 2, "minLength": "1"}, "minLength must be a whole number"),
        ({"type": "string", "minLength": -1}, "minLength must be a whole number"),
        ({"type": "string", "minLength": None}, "minLength must be a whole number"),
        ({"type": "string", "maxLength": MAX_COUNT + 1}, "maxLength is above"),
        ({"type": "string", "format": "zipcode"}, "format 'zipcode' cannot be enforced"),
        ({"type": "string", "format": []}, "format '[]' cannot be enforced"),
        ({"type": "string", "pattern": "(?=a)"}, "lookahead"),
        ({"type": "string", "pattern": "\ud800"}, "not a Unicode character"),
        ({"type": "string", "pattern": 3}, "pattern must be a string"),
        ({"type": "number", "multipleOf": 0.5}, "multipleOf can be enforced for whole numbers"),
        ({"type": "integer", "multipleOf": 9_999_991}, "multipleOf can be enforced for whole numbers"),
        ({"type": "integer", "multipleOf": 0}, "multipleOf must be a number above 0"),
        ({"type": "integer", "multipleOf": "2"}, "multipleOf must be a number above 0"),
        ({"minimum": True}, "minimum must be a number"),
        ({"type": "integer", "minimum": 2**60}, "too large"),
        ({"minimum": float("nan")}, "too large"),
        ({"enum": [[2**60]]}, "cannot be enforced exactly"),
        ({"enum": [float("inf")]}, "cannot be enforced exactly"),
        ({"enum": 3}, "enum must be a list"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "uniqueItems": 1}, "uniqueItems"),
        ({"type": "array", "unevaluatedItems": {}}, "unevaluatedItems"),
        ({"type": "array", "items": [{}]}, "is called prefixItems"),
        ({"type": "array", "prefixItems": {}}, "prefixItems must be a list"),
        ({"type": "object", "required": "a"}, "required must be a list"),
        ({"type": "object", "properties": []}, "properties must be an object"),
        ({"type": "object", "unevaluatedProperties": {}}, "unevaluatedProperties"),
        ({"type": "object", "patternProperties": {"a": True, "b": True}}, "only one pattern"),
        ({"type": "object", "patternProperties": {"a": True}, "properties": {"b": True}}, "patternProperties beside properties"),
        ({"type": "object", "patternProperties": {"a": True}, "required": ["a"]}, "patternProperties beside required"),
        ({"type": "object", "propertyNames": True, "patternProperties": {"a": True}}, "patternProperties beside propertyNames"),
        ({"type": "object", "propertyNames": {}, "additionalProperties": False}, "propertyNames beside additionalProperties"),
        ({"type": "object", "propertyNames": {"type": "string", "format": "date"}}, "propertyNames can be enforced by one of"),
        ({"anyOf": []}, "anyOf must be a list"),
        ({"allOf": {}}, "allOf must be a list"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf whose schemas may overlap"),
        ({"oneOf": [{"enum": [1, 2]}, {"const": 2}]}, "oneOf whose schemas may overlap"),
        ({"oneOf": [{"minLength": 1}, {"const": 2}]}, "oneOf whose schemas may overlap"),
        ({"oneOf": [OBJECT, {**OBJECT, "required": ["a"], "properties": {"a": {"const": 1}}}]}, "oneOf whose schemas may overlap"),
        ({"$ref": "http://example.com/x"}, "only references into the schema itself"),
        ({"$ref": "#name"}, "only references into the schema itself"),
        ({"$ref": "#/$defs/a"}, "leads nowhere"),
        ({"$ref": 3}, "$ref must be a string"),
        ({"type": "array", "items": {"$id": "x"}}, "$id below the root"),
        ({"type": "object", "properties": {f"p{i}": True for i in range(MAX_PROPERTIES + 1)}}, "more than 1000 properties"),
        ({"enum": list(range(MAX_VALUES + 1))}, "more than 20000 values"),
        ({"anyOf": [{"type": "null", "n": i} for i in range(MAX_SUBSCHEMAS + 1)]}, "more than 5000 subschemas"),
    ],
)
def test_refusals(schema: Any, message: str) -> None:
    with pytest.raises(RecordError) as error:
        normalized(schema)
    assert error.value.code == "grammar_error"
    assert message in error.value.message


def test_schemas_that_lead_back_to_themselves() -> None:
    loop = {"oneOf": [{"$ref": "#/$defs/b"}, {"type": "null"}]}, {"oneOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}
    with pytest.raises(RecordError, match="oneOf whose schemas may overlap"):
        normalized({"$defs": {"a": loop[0], "b": loop[1]}, "$ref": "#/$defs/a"})
    same = {**OBJECT, "required": ["k"]}
    twins = {name: {**same, "properties": {"k": {"$ref": f"#/$defs/{name}"}}} for name in "ab"}
    with pytest.raises(RecordError, match="oneOf whose schemas may overlap"):
        normalized({"$defs": twins, "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]})


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
