"""Schemas at the extremes of their keywords, run through a model of random weights: each answer is valid by somebody else's
judgement, or cut off by its length, or an error that says what cannot be done; and `infer check` refuses what a run refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from infer.core import LLM, SamplingParams, StructuredOutputsParams
from infer.core.errors import RecordError
from infer.core.types.outputs import RequestOutput

NUM = 200
NUMBERS = [0, 1, -1, 3, 10, -10, 99, 1e-7, -1e-7, 1e-9, 5e-324, 0.1, 0.5, -2.5, 99.99, 1e5, 2**31, 2**53, -(2**53), 1e15]
NUMBERS += [0.30000000000000004, 1.0000000000000002, -0.0, 1e300, 10**30]
COUNTS = [0, 1, 2, 3, 17, 10**9, 2**31, -1, 2.0, "3"]
VALUES = [None, True, 0, -1, 0.5, 1e-7, 2**53, "", "é", 'q"\\', "\n", "\u2028", "😀", [], [1], {}, {"k": None}, 1e300, 10**30]
PATTERNS = ["^[a-c]+$", "a.c", '"|x', "\\d{2}", "[^a]?\\n", "", "(a|b)*c", "\\w+@\\w+", "\\D\\W", "[[\\]]", "[a&&b]", "a{70000}", "(?=a)"]
FORMATS = ["date", "date-time", "ipv4", "ipv6", "uuid", "email", "zipcode", [], 3]
NAMES = ["a", "ab", 'c"', "é", ""]
TYPES = ["string", "number", "integer", "boolean", "null", "array", "object"]


def schema_of(r: random.Random, depth: int) -> Any:
    """One at random, about half of them as their keywords' neighbours would have them."""
    if not depth or r.random() < 0.1:
        return r.choice([True, {"type": r.choice(TYPES)}, {"type": r.sample(TYPES, 2)}, {}, False])

    def some(**values: list[Any]) -> dict[str, Any]:
        return {name: r.choice(choices) for name, choices in values.items() if r.random() < 0.4}

    def inner() -> Any:
        return schema_of(r, depth - 1)

    kind = r.choice(["string", "number", "integer", "array", "object", "object", "values", "several", "ref"])
    if kind == "string":
        return {"type": kind, **some(minLength=COUNTS, maxLength=COUNTS, pattern=PATTERNS, format=FORMATS)}
    if kind in ("number", "integer"):
        bounds = some(minimum=NUMBERS, maximum=NUMBERS, exclusiveMinimum=NUMBERS, exclusiveMaximum=NUMBERS)
        return {"type": kind, **bounds, **some(multipleOf=[1, 3, 10, 0.1, 9973, 9_999_991, 0, -2])}
    if kind == "array":
        return {
            "type": kind,
            "items": inner(),
            **some(prefixItems=[[inner()]], minItems=COUNTS, maxItems=COUNTS, uniqueItems=[True, False]),
        }
    if kind == "object":
        properties = {name: inner() for name in r.sample(NAMES, r.randrange(3))}
        others = some(required=[r.sample(NAMES, 2), "a"], additionalProperties=[True, False, inner()], maxProperties=COUNTS)
        named = some(patternProperties=[{r.choice(PATTERNS): inner()}], propertyNames=[{"maxLength": 2}, {"pattern": "^[a-f]+$"}])
        return {"type": kind, "properties": properties, **others, **(named if r.random() < 0.3 else {}), **some(minProperties=COUNTS)}
    if kind == "values":
        return {"enum": r.sample(VALUES, r.randrange(1, 4)), **some(type=[*TYPES], minLength=[1])}
    if kind == "several":
        return {r.choice(["anyOf", "oneOf", "allOf"]): [inner() for _ in range(r.randrange(1, 4))]}
    return {"$ref": r.choice(["#", "#/$defs/x", "#/nowhere"]), "$defs": {"x": inner()}}


SCHEMAS: list[Any] = [schema_of(random.Random(i), 3) for i in range(NUM)]


@pytest.fixture(scope="module")
def llm(tiny_llama: Path) -> LLM:
    return LLM(str(tiny_llama), dtype="float32", max_model_len=128, kv_cache_memory_bytes=32 << 20)


@pytest.fixture(scope="module")
def asked() -> list[SamplingParams | RecordError]:
    """What a record with each of the schemas asks for, or why it is none."""
    made: list[SamplingParams | RecordError] = []
    for i, schema in enumerate(SCHEMAS):
        try:
            structured = StructuredOutputsParams(json=schema, disable_any_whitespace=i % 2 == 0)
            made.append(SamplingParams(max_tokens=40, seed=i, temperature=1.5, structured_outputs=structured))
        except RecordError as error:
            made.append(error)
    return made


@pytest.fixture(scope="module")
def answers(llm: LLM, asked: list[SamplingParams | RecordError]) -> dict[int, RequestOutput]:
    params = {i: one for i, one in enumerate(asked) if isinstance(one, SamplingParams)}
    outputs = llm.generate(["{"] * len(params), list(params.values()), use_tqdm=False, on_error="return")
    return dict(zip(params, outputs, strict=True))


def test_every_answer_is_valid_or_says_what_it_is(answers: dict[int, RequestOutput]) -> None:
    ends = {"stop": 0, "length": 0, "error": 0}
    for i, output in answers.items():
        if output.error is not None:
            assert (output.error.code, output.error.param) == ("grammar_error", "structured_outputs"), (SCHEMAS[i], output.error)
            ends["error"] += 1
            continue
        (choice,) = output.outputs
        assert choice.finish_reason is not None
        ends[choice.finish_reason] += 1
        if choice.finish_reason == "stop":
            validator = jsonschema.Draft202012Validator(SCHEMAS[i], format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
            assert [e.message for e in validator.iter_errors(json.loads(choice.text))] == [], (SCHEMAS[i], choice.text)
    assert ends["stop"] > 30, ends
    assert ends["error"] > 30, ends


def test_neighbours_change_nothing(llm: LLM, asked: list[SamplingParams | RecordError], answers: dict[int, RequestOutput]) -> None:
    for i in sorted(answers)[:40:4]:
        one = asked[i]
        assert isinstance(one, SamplingParams)
        (alone,) = llm.generate(["{"], one, use_tqdm=False, on_error="return")
        together = answers[i]
        assert str(alone.error) == str(together.error)
        assert [c.token_ids for c in alone.outputs] == [c.token_ids for c in together.outputs]
