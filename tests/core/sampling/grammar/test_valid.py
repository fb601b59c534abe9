"""The last look at a finished output, and that no schema makes it work for ever."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.sampling.grammar.valid import problem_of

#: Each level is tried twice, and fails only below.
TWICE: dict[str, Any] = {"$defs": {"a": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": n} for n in (2, 3)]}}}


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ('{"a": 1}', {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}),
        ("1", True),
        ('"x"', {"pattern": "(", "format": []}),  # held by the grammar
        ('{"xa": 1}', {"patternProperties": {"(x+x+)+y": {"type": "integer"}}, "additionalProperties": False}),
        ("3", {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer"}),
    ],
)
def test_valid(text: str, schema: Any) -> None:
    assert problem_of(text, schema) is None


@pytest.mark.parametrize(
    ("text", "schema", "words"),
    [
        ("{", True, "not JSON"),
        ('{"a": 1, "a": 2}', {"minProperties": 2}, "minProperties"),
        ("1.00000000000000012", {"exclusiveMaximum": 1.0000000000000002}, "exclusiveMaximum"),
        ('{"a": ["x"]}', {"properties": {"a": {"items": {"type": "null"}}}}, "at #/a/0 by type"),
        ('{"xa": "b"}', {"patternProperties": {"x": {"type": "integer"}}, "additionalProperties": False}, "at #/xa by type"),
        ("1", {"$ref": "#"}, "leads too deep"),
        ("1", {"$ref": "http://example.com/"}, "cannot be validated"),
        ("1", {"type": 5}, "cannot be validated"),
        ("[" * 60 + "]" * 60, {**TWICE, "$ref": "#/$defs/a"}, "steps"),
    ],
)
def test_not_valid(text: str, schema: Any, words: str) -> None:
    problem = problem_of(text, schema)
    assert problem is not None
    assert words in problem
