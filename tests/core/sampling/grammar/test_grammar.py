"""Grammars by what they let through: random walks along allowed tokens give valid texts and nothing else."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from infer.core.errors import RecordError
from infer.core.sampling.grammar import grammar as grammar_module
from infer.core.sampling.grammar.grammar import CompiledGrammar, Grammars
from infer.core.sampling.grammar.grammar_state import GrammarState
from infer.core.sampling.grammar.valid import problem_of
from infer.core.text.tokenizer import Tokenizer
from infer.core.types.structured import StructuredOutputsParams

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
#: Tokens of more than one byte, so that they cross the borders of a grammar's parts.
WORDS = ['{"', '":', '": ', '",', ', "', '"}', "}}", "]}", "[[", "null", "true", "12", "-1", "0.5", "\\n", '\\"', "ab", "é", "  ", "\n  "]
#: Tokens of the model beyond those of the tokenizer.
PADDING = 37
LIMIT = 600


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Byte-level: every byte is a token, and so are a few words; one added token is no special one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    stands_for = dict(zip(_bytes_of(alphabet), alphabet, strict=True))
    words = ["".join(stands_for[b] for b in word.encode()) for word in WORDS]
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *alphabet, *words])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    backend.add_tokens([AddedToken("<tool_call>", special=False)])
    return Tokenizer(backend, {"eos_token": "<|im_end|>"})


def _bytes_of(alphabet: list[str]) -> list[int]:
    decoder = decoders.ByteLevel()
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(b for b in range(256) if b not in printable)
    hidden = {chr(256 + i): b for i, b in enumerate(others)}
    assert decoder.decode(["Ġ"]) == " "
    return [hidden[c] if c in hidden else ord(c) for c in alphabet]


@pytest.fixture(scope="module")
def end(tokenizer: Tokenizer) -> int:
    assert tokenizer.eos_token_id is not None
    return tokenizer.eos_token_id


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer, end: int) -> Grammars:
    return Grammars(tokenizer, {end}, tokenizer.vocab_size + PADDING)


@pytest.fixture(scope="module")
def compile_(grammars: Grammars) -> Callable[..., CompiledGrammar]:
    return lambda **spec: grammars.compile(StructuredOutputsParams(**spec))


def allowed(state: GrammarState, vocab_size: int) -> list[int]:
    bits = torch.full((3, -(-vocab_size // 32)), 0x55555555, dtype=torch.int32)
    state.fill(bits.numpy(), 1)
    assert (bits[[0, 2]] == 0x55555555).all(), "another row was written"
    flags = (bits[1][:, None] >> torch.arange(32)) & 1
    return flags.flatten()[:vocab_size].nonzero().flatten().tolist()


def walk(tokenizer: Tokenizer, grammar: CompiledGrammar, seed: int) -> str | None:
    """A text of the grammar, or None if it took too long. Prefers to close what is open, or it would never end."""
    state, rng, tokens = GrammarState(grammar), random.Random(seed), []
    while not state.finished:
        if len(tokens) > LIMIT:
            return None
        choices = allowed(state, tokenizer.vocab_size + PADDING)
        assert choices, f"nothing may follow {tokenizer.decode(tokens, skip_special_tokens=False)!r}"
        closing = [t for t in choices if t < len(SPECIALS) or tokenizer.token_bytes(t) in (b'"', b"}", b"]", b'"}', b",")]
        token = rng.choice(closing if closing and rng.random() < (0.2 if len(tokens) < 60 else 0.9) else choices)
        assert state.accept(token)
        tokens.append(token)
    return tokenizer.decode(tokens, skip_special_tokens=True)


def accepts(tokenizer: Tokenizer, grammar: CompiledGrammar, end: int, text: str) -> bool:
    """Whether a text is one of the grammar, byte by byte."""
    state = GrammarState(grammar)
    for token in tokenizer.encode(text, add_special_tokens=False):
        if not state.accept(token):
            return False
    return state.finished or state.accept(end)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age"],
}
TREE = {
    "$defs": {
        "n/o~de": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/n~1o~0de"}}, "required": ["v"]}
    },
    "$ref": "#/$defs/n~1o~0de",
}
SHAPES = {
    "oneOf": [
        {"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required": ["kind"]},
        {"type": "object", "properties": {"kind": {"const": "b"}, "y": {"type": "string", "maxLength": 2}}, "required": ["kind", "y"]},
    ]
}

#: Schema, texts of it, texts that are not.
SCHEMAS: list[tuple[Any, list[str], list[str]]] = [
    (
        PERSON,
        ['{"name":"x","age":3}', '{ "name" : "é", "age": 150, "tags": ["a"] }'],
        ['{"name":"","age":3}', '{"age":3}', '{"name":"x","age":151}'],
    ),
    (TREE, ['{"v":1,"next":{"v":2}}'], ['{"next":{"v":2}}']),
    (SHAPES, ['{"kind":"a"}', '{"kind":"b","y":"z"}'], ['{"kind":"b"}', '{"kind":"c"}']),
    (True, ["3", '{"a":[1]}'], ["{", ""]),
    ({"type": "object"}, ["{}", '{"a":{"b":null}}'], ["[]"]),
    ({"type": "array"}, ["[]", '[1,"a"]'], ["{}"]),
    ({"type": ["string", "null"], "minLength": 2}, ["null", '"ab"'], ['"a"', "3"]),
    ({"minLength": 3}, ['"abc"'], ['"ab"']),
    ({"minimum": 3}, ["3", "4.5"], ["2"]),
    ({"enum": ['a"\\\n', "é", 1, None, {"k": [1]}]}, ['"a\\"\\\\\\n"', '"é"', "1", "null"], ["2", '"a"']),
    ({"type": "string", "enum": ["a", 1, None]}, ['"a"'], ["1", "null"]),
    ({"const": 0.1}, [], ["1"]),
    ({"type": "integer", "multipleOf": 3, "minimum": 4, "maximum": 20}, ["6", "18"], ["3", "7", "21"]),
    ({"type": "integer", "minimum": 1.5, "exclusiveMaximum": 3.5}, ["2", "3"], ["1", "4"]),
    ({"type": "number", "minimum": -1.5, "maximum": 10}, ["-1.5", "0", "9.99", "10"], ["-1.6", "10.1"]),
    ({"type": "number", "exclusiveMinimum": 1}, ["1.01", "2"], ["1", "1.0"]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-7}, ["0.0000001", "0.000000005"], ["0", "0.0", "-0", "0.0000002"]),
    ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, ["-0.5", "-0.01"], ["-0", "0", "-0.0", "-0.6"]),
    ({"type": "number", "exclusiveMinimum": 0, "allOf": [{"maximum": 0.5}]}, ["0.5", "0.001"], ["0", "0.0", "1"]),
    ({"type": "number", "exclusiveMinimum": 0}, ["0.1", "7"], ["0", "0.0", "-1"]),
    ({"type": "integer", "exclusiveMinimum": 0, "allOf": [{"maximum": 2}]}, ["1", "2"], ["0", "3"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"éé😀"'], ['"a"', '"abcd"', '"\x01\x02"']),
    ({"type": "string", "pattern": "^[0-9]{3}-[a-z]+$"}, ['"123-ab"'], ['"12-a"']),
    ({"type": "string", "pattern": 'a"\\\\\\n.'}, ['"a\\"\\\\\\nx"'], ['"a"\\"']),
    ({"type": "string", "pattern": '["\\\\\\n]+'}, ['"\\"\\\\\\n"'], ['"""', '"\n"']),
    ({"type": "string", "pattern": "é[^a]"}, ['"éb"'], ['"éa"', '"é""']),
    ({"type": "string", "pattern": "\\s\\S\\w?[^\\d\\s]"}, ['" xyz"'], ['"    "']),
    ({"type": "string", "format": "date"}, ['"2024-02-03"'], ['"2024-13-03"']),
    ({"type": "string", "format": "uuid"}, ['"123e4567-e89b-12d3-a456-426614174000"'], ['"1"']),
    ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]}, ['["a",1]', '["a"]'], ["[1]", '["a",1,2]']),
    ({"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "integer"}, "minItems": 3}, ["[null,1,2]"], ["[null,1]"]),
    ({"type": "array", "prefixItems": [{"type": "null"}], "minItems": 2}, ["[null,1]"], ["[null]"]),
    ({"type": "array", "items": False}, ["[]"], ["[1]"]),
    ({"type": "array", "prefixItems": [True, True], "items": False, "maxItems": 1}, ["[1]"], ["[1,2]"]),
    ({"type": "object", "required": ["a"]}, ['{"a":1}'], ["{}", '{"b":1}']),
    ({"type": "object", "properties": {"b": {"type": "null"}}, "required": ["a"]}, ['{"b":null,"a":1}'], ['{"b":null}']),
    (
        {"type": "object", "properties": {"b": True}, "required": ["a"], "additionalProperties": {"type": "null"}},
        ['{"a":null}'],
        ['{"a":1}'],
    ),
    ({"type": "object", "properties": {"a": {"type": "null"}}}, ["{}", '{"a":null}'], ['{"a":1}', '{"c":null}']),
    ({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": True}, ['{"c":1}', '{"a":null,"c":1}'], ['{"a":1}']),
    ({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1}, ['{"a":1}'], ["{}", '{"a":null}']),
    ({"type": "object", "additionalProperties": True, "maxProperties": 1}, ["{}", '{"a":1}'], ['{"a":1,"b":1}']),
    ({"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 2}, ['{"a":null,"b":null}'], ["{}", '{"a":null}']),
    ({"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 3}, ['"ab"', '"abc"'], ['"a"', '"abcd"', '"AB"']),
    ({"type": "string", "format": "date", "pattern": "2024.*"}, ['"2024-02-29"'], ['"2023-01-01"', '"2024-02-30"']),
    ({"enum": ["a", "bb", 3], "minLength": 2}, ['"bb"', "3"], ['"a"']),
    (
        {"allOf": [{"properties": {"a": {"type": "null"}}, "required": ["a"]}, {"properties": {"b": {"type": "null"}}}], "type": "object"},
        ['{"a":null}', '{"a":null,"b":null}'],
        ["{}", '{"a":null,"b":1}'],
    ),
    (
        {"type": "object", "properties": {"a": {"type": "null"}, "b": True}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        ['{"a":null}', '{"b":1}'],
        ["{}", "3"],
    ),
    ({"type": "object", "patternProperties": {"^x[a-z]+$": {"type": "null"}}}, ["{}", '{"xa":null}'], ['{"a":null}', '{"xa":1}']),
    ({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}}, ['{"ab":1}'], ['{"A":1}']),
    ({"type": "object", "propertyNames": {"maxLength": 1}}, ['{"a":1}'], ['{"ab":1}']),
    ({"type": "object", "propertyNames": {"enum": ["p", "q"]}}, ['{"q":1}'], ['{"r":1}']),
    ({"type": "object", "properties": {"a": True}, "unevaluatedProperties": False}, ['{"a":1}'], ['{"b":1}']),
    ({"anyOf": [{"type": "integer"}, {"$ref": "#/anyOf/0"}, {"type": "null"}]}, ["3", "null"], ['"a"']),
    ({"allOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "null"}}, "title": "x", "default": {"not": 1}}, ["null"], ["1"]),
    ({"oneOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#"}}]}, ['"a"', '[["a"]]'], ["[1]"]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS, ids=lambda v: json.dumps(v)[:60] if not isinstance(v, list) else "")
def test_every_text_of_a_schema_is_valid(
    tokenizer: Tokenizer, end: int, compile_: Callable[..., CompiledGrammar], schema: Any, good: list[str], bad: list[str]
) -> None:
    grammar = compile_(json=schema)
    assert {text: accepts(tokenizer, grammar, end, text) for text in good} == dict.fromkeys(good, True)
    assert {text: accepts(tokenizer, grammar, end, text) for text in bad} == dict.fromkeys(bad, False)
    validator = jsonschema.Draft202012Validator(schema)
    texts = [text for seed in range(25) if (text := walk(tokenizer, grammar, seed)) is not None]
    assert len(texts) > 15
    for text in texts:
        assert [e.message for e in validator.iter_errors(json.loads(text))] == [], text


COUNTS = st.integers(0, 3)
NUMBERS = st.one_of(st.integers(-20, 2000), st.floats(-3, 100).map(lambda x: round(x, 3)))
VALUES = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["a", "b", 'q"\\', "é"]), st.just([1]), st.just({"k": None}))
NAMES = st.sampled_from(["a", "ab", "b", 'c"', "é"])
KEYWORDS: dict[str, Callable[[st.SearchStrategy[Any]], st.SearchStrategy[Any]]] = {
    "type": lambda _: st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=3)),
    "enum": lambda _: st.lists(VALUES, min_size=1, max_size=4),
    "const": lambda _: VALUES,
    "minLength": lambda _: COUNTS,
    "maxLength": lambda _: COUNTS,
    "pattern": lambda _: st.sampled_from(["^[a-c]+$", "a.c", '"|x', "\\d{2}", "[^a]?\\n"]),
    "format": lambda _: st.sampled_from(["date", "uuid"]),
    "minimum": lambda _: NUMBERS,
    "maximum": lambda _: NUMBERS,
    "exclusiveMinimum": lambda _: NUMBERS,
    "exclusiveMaximum": lambda _: NUMBERS,
    "multipleOf": lambda _: st.integers(1, 7),
    "items": lambda inner: inner,
    "prefixItems": lambda inner: st.lists(inner, max_size=2),
    "minItems": lambda _: COUNTS,
    "maxItems": lambda _: COUNTS,
    "uniqueItems": lambda _: st.booleans(),
    "properties": lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    "required": lambda _: st.lists(NAMES, max_size=2),
    "additionalProperties": lambda inner: inner,
    "patternProperties": lambda inner: st.dictionaries(st.sampled_from(["^[x-z]+$", "a"]), inner, max_size=1),
    "propertyNames": lambda _: st.sampled_from([{"maxLength": 2}, {"pattern": "^[a-f]*$"}, {"enum": ["a", "z"]}]),
    "minProperties": lambda _: COUNTS,
    "maxProperties": lambda _: COUNTS,
    "anyOf": lambda inner: st.lists(inner, min_size=1, max_size=3),
    "oneOf": lambda inner: st.lists(inner, min_size=1, max_size=3),
    "allOf": lambda inner: st.lists(inner, min_size=1, max_size=1),
    "not": lambda inner: inner,
}
TYPES = st.sampled_from(["string", "number", "integer", "boolean", "null", "array", "object"])
#: What goes together, and anything that may not.
GROUPS = [
    ["type"],
    ["type", "minLength", "maxLength"],
    ["type", "pattern", "format"],
    ["type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
    ["type", "items", "prefixItems", "minItems", "maxItems"],
    ["type", "properties", "required", "additionalProperties", "minProperties", "maxProperties"],
    ["type", "patternProperties", "propertyNames", "additionalProperties", "minProperties"],
    ["type", "enum", "const"],
    ["anyOf"],
    ["oneOf"],
    ["allOf"],
    list(KEYWORDS),
]


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def of(names: list[str]) -> st.SearchStrategy[Any]:
        chosen = st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True)
        return chosen.flatmap(lambda some: st.fixed_dictionaries({name: KEYWORDS[name](inner) for name in some}))

    return st.sampled_from(GROUPS).flatmap(of)


def complaints(text: str, schema: Any) -> list[str]:
    """What is wrong with a text by somebody else's judgement."""
    return [e.message for e in jsonschema.Draft202012Validator(schema).iter_errors(json.loads(text))]


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.recursive(st.one_of(st.booleans(), schemas(st.just(True))), schemas, max_leaves=5))
def test_any_schema_that_is_not_refused_is_kept(tokenizer: Tokenizer, grammars: Grammars, schema: Any) -> None:
    try:
        grammar = grammars.compile(StructuredOutputsParams(json=schema))
    except RecordError as error:
        if error.code != "grammar_error":
            raise
        return
    for seed in range(4):
        text = walk(tokenizer, grammar, seed)
        if text is not None and problem_of(text, grammar.source.schema) is None:
            assert complaints(text, schema) == [], (schema, text)


REGEXES: list[tuple[str, list[str], list[str]]] = [
    ("yes|no", ["yes", "no"], ["yesno", ""]),
    ("^a|b$", ["a", "b"], ["ab"]),
    ("[a-f]{3}-\\d+", ["abc-1"], ["ab-1"]),
    ("(?:ab|c)*?d{2,}e?", ["dd", "abcddde"], ["d"]),
    ("(?P<n>x)(?<m>y)(z|)", ["xy", "xyz"], ["x"]),
    (".+", ['a"\\', "é😀"], ["\n", "\r"]),
    ("[^a]\\n", ["b\n", "\n\n"], ["a\n"]),
    ("[\\]\\-^\\[a-c]+", ["]-^[b"], ["d"]),
    ("[\\w.-]+@[\\w-]+\\.com", ["a.b-c@d-e.com"], ["a@b"]),
    ("\\x41\\u0042\\u{43}\\ud83d\\ude00", ["ABC😀"], ["ABC"]),
    ("\\$\\{\\}/\"'-&#\\t", ["${}/\"'-&#\t"], ["$"]),
    ("[é-ü]+", ["éü"], ["a"]),
    ("a{0}b{0,2}c{3}", ["ccc", "bbccc"], ["accc", "bbbccc"]),
]


@pytest.mark.parametrize(("pattern", "good", "bad"), REGEXES, ids=[r[0] for r in REGEXES])
def test_every_text_of_a_regex_matches(
    tokenizer: Tokenizer, end: int, compile_: Callable[..., CompiledGrammar], pattern: str, good: list[str], bad: list[str]
) -> None:
    grammar = compile_(regex=pattern)
    assert {text: accepts(tokenizer, grammar, end, text) for text in good} == dict.fromkeys(good, True)
    assert {text: accepts(tokenizer, grammar, end, text) for text in bad} == dict.fromkeys(bad, False)
    pythons = (
        re.sub(r"\\u\{(\w+)\}", lambda m: f"\\U{int(m[1], 16):08x}", pattern).replace("(?<m>", "(?P<m>").replace("\\ud83d\\ude00", "😀")
    )
    for seed in range(25):
        text = walk(tokenizer, grammar, seed)
        assert text is None or re.fullmatch(pythons, text, re.ASCII), text


def test_choices_are_taken_literally(tokenizer: Tokenizer, end: int, compile_: Callable[..., CompiledGrammar]) -> None:
    choices = ["yes", "y", 'say "a|b" \\ [x]* ', "zwei\nZeilen\t\x01", "é😀", "root ::= x", "$"]
    grammar = compile_(choice=[*choices, "y"])
    assert all(accepts(tokenizer, grammar, end, choice) for choice in choices)
    assert not any(accepts(tokenizer, grammar, end, text) for text in ("", "n", "yesy", "say"))
    assert {walk(tokenizer, grammar, seed) for seed in range(150)} == set(choices)


@pytest.mark.parametrize(
    "text",
    ['root ::= "x" [0-9]{2} ("y" | item+)\nitem ::= "," [a-z]\n', 'start: "x" /[0-9]{2}/ ("y" | item+)\nitem: "," /[a-z]/\n'],
    ids=["ebnf", "lark"],
)
def test_grammars(tokenizer: Tokenizer, end: int, compile_: Callable[..., CompiledGrammar], text: str) -> None:
    grammar = compile_(grammar=text)
    for seed in range(20):
        written = walk(tokenizer, grammar, seed)
        assert written is None or re.fullmatch("x[0-9]{2}(y|(,[a-z])+)", written)
    assert accepts(tokenizer, grammar, end, "x12,a,b")


def test_json_object_and_whitespace(tokenizer: Tokenizer, end: int, compile_: Callable[..., CompiledGrammar]) -> None:
    loose, tight = compile_(json_object=True), compile_(json_object=True, disable_any_whitespace=True)
    for seed in range(20):
        for grammar in (loose, tight):
            text = walk(tokenizer, grammar, seed)
            assert text is None or isinstance(json.loads(text), dict)
    assert accepts(tokenizer, loose, end, '{\n    "a" :1}')
    assert accepts(tokenizer, tight, end, '{"a": 1, "b": [2, 3]}')
    assert not accepts(tokenizer, tight, end, '{ "a": 1}')
    assert not accepts(tokenizer, loose, end, "{" + " " * 33 + '"a":1}'), "a model could go on with whitespace for ever"
    assert not accepts(tokenizer, loose, end, '{"a":1} ')


def test_closed_objects(tokenizer: Tokenizer, end: int, compile_: Callable[..., CompiledGrammar]) -> None:
    schema = {"type": "object", "properties": {"o": {"type": "object"}}}
    assert accepts(tokenizer, compile_(json=schema), end, '{"o":{"a":1}}')
    assert not accepts(tokenizer, compile_(json=schema, disable_additional_properties=True), end, '{"o":{"a":1}}')


def test_structural_tags(tokenizer: Tokenizer, end: int, compile_: Callable[..., CompiledGrammar]) -> None:
    schema = {"type": "object", "required": ["a"]}
    old = {"structures": [{"begin": "<f>", "schema": schema, "end": "</f>"}], "triggers": ["<f>"]}
    new = {
        "type": "structural_tag",
        "format": {
            "type": "triggered_tags",
            "triggers": ["<f>"],
            "tags": [{"begin": "<f>", "content": {"type": "json_schema", "json_schema": schema}, "end": "</f>"}],
        },
    }
    for tag in (old, new):
        grammar = compile_(structural_tag=tag)
        assert accepts(tokenizer, grammar, end, 'well <f>{"a":1}</f> then')
        assert not accepts(tokenizer, grammar, end, "well <f>{}</f>"), "the schema inside is normalized too"


def test_special_tokens_only_where_a_tag_names_them(tokenizer: Tokenizer, end: int, compile_: Callable[..., CompiledGrammar]) -> None:
    start = tokenizer.encode("<|im_start|>", add_special_tokens=False)[0]
    free = GrammarState(compile_(grammar="root ::= [^x]*"))
    assert not {0, start} & set(allowed(free, tokenizer.vocab_size + PADDING))
    assert not free.accept(start)
    tag = {
        "type": "structural_tag",
        "format": {"type": "sequence", "elements": [{"type": "token", "token": "<|im_start|>"}, {"type": "any_text"}]},
    }
    state = GrammarState(compile_(structural_tag=tag))
    assert allowed(state, tokenizer.vocab_size + PADDING) == [start]
    assert state.accept(start)
    assert 0 not in allowed(state, tokenizer.vocab_size + PADDING)


def test_a_state_follows_its_tokens(tokenizer: Tokenizer, end: int, compile_: Callable[..., CompiledGrammar]) -> None:
    grammar = compile_(regex="a[0-9]?")
    a, seven, b = (tokenizer.encode(c, add_special_tokens=False)[0] for c in "a7b")
    one, other = GrammarState(grammar), GrammarState(grammar)
    assert not one.accept(b)
    assert not one.accept(end), "not complete"
    assert not one.accept(tokenizer.vocab_size + 1)
    assert one.accept(a)
    assert not one.finished, "a digit may follow"
    assert end in allowed(one, tokenizer.vocab_size + PADDING)
    assert allowed(other, tokenizer.vocab_size + PADDING) == [a], "states are independent"
    assert one.accept(seven)
    assert one.finished, "nothing may follow"
    assert allowed(one, tokenizer.vocab_size + PADDING) == [end]
    assert other.accept(a)
    assert other.accept(end)
    assert other.finished
    assert not other.accept(a)


def test_without_end_tokens_an_output_ends_where_it_is_complete(tokenizer: Tokenizer) -> None:
    state = GrammarState(Grammars(tokenizer, set(), tokenizer.vocab_size).compile(StructuredOutputsParams(choice=["ab", "cd"])))
    for char in "cd":
        assert not state.finished
        assert state.accept(tokenizer.encode(char, add_special_tokens=False)[0])
    assert state.finished


def test_every_end_token_ends(tokenizer: Tokenizer) -> None:
    ends = {tokenizer.encode(text, add_special_tokens=False)[0] for text in ("<|endoftext|>", "<|im_end|>")}
    grammar = Grammars(tokenizer, ends, tokenizer.vocab_size + PADDING).compile(StructuredOutputsParams(regex="a*"))
    for end in ends:
        state = GrammarState(grammar)
        assert ends < set(allowed(state, tokenizer.vocab_size + PADDING))
        assert state.accept(end)
        assert state.finished


def test_a_fork_goes_its_own_way(tokenizer: Tokenizer, compile_: Callable[..., CompiledGrammar]) -> None:
    one = GrammarState(compile_(choice=["ab", "ac"]))
    a, b, c = (tokenizer.encode(char, add_special_tokens=False)[0] for char in "abc")
    assert one.accept(a)
    other = one.fork()
    assert one.accept(b)
    assert set(allowed(other, tokenizer.vocab_size + PADDING)) == {b, c}
    assert other.accept(c)


@pytest.mark.parametrize(
    "spec",
    [
        {"grammar": "root ::= [a-"},
        {"grammar": "root ::= nowhere"},
        {"grammar": "start: @"},
        {"grammar": "root ::= root"},
        {"json": {"$ref": "#"}},
        {"json": {"not": {}}},
        {"json": {"type": "integer", "minimum": 3, "maximum": 2}},
        {"json": {"type": "object", "properties": {"a": True, "b": True, "c": True}, "minProperties": 2}},
        {"json": {"allOf": [{"type": "string"}, {"type": "integer"}]}},
        {"regex": "[^\\s\\S]"},
        {"structural_tag": {}},
    ],
)
def test_what_cannot_be_compiled(grammars: Grammars, spec: dict[str, Any]) -> None:
    messages = []
    for _ in range(2):
        with pytest.raises(RecordError) as error:
            grammars.compile(StructuredOutputsParams(**spec))
        messages.append(error.value.message)
    assert (error.value.code, error.value.param, error.value.retryable) == ("grammar_error", "structured_outputs", False)
    assert messages[0] == messages[1]
    assert re.match(r"structured_outputs: \S.*\Z", messages[0]), "one line"


def test_no_tokenizer_and_no_bytes(tokenizer: Tokenizer) -> None:
    backend = tokenizers.Tokenizer(models.WordPiece(vocab={"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    for one in (None, Tokenizer(backend, {})):
        with pytest.raises(RecordError) as error:
            Grammars(one, {0}, 2).compile(StructuredOutputsParams(choice=["a"]))
        assert error.value.code == "unsupported"


def test_an_empty_text_can_only_end(tokenizer: Tokenizer, end: int, compile_: Callable[..., CompiledGrammar]) -> None:
    state = GrammarState(compile_(grammar='root ::= "a"{0}'))
    assert state.finished
    assert allowed(state, tokenizer.vocab_size + PADDING) == [end]


def test_whole_texts(compile_: Callable[..., CompiledGrammar]) -> None:
    grammar = compile_(json={"type": "object", "required": ["é"]})
    assert grammar.matches('{"é": [1]}')
    assert not grammar.matches('{"é": [1]')
    assert not grammar.matches('{"é": [1]}x')


# -- hostile constraints ------------------------------------------------------------------------------------------------
def chain(length: int) -> dict[str, Any]:
    """Definitions that each lead to the next."""
    steps = {f"d{i}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{(i + 1) % length}"}}} for i in range(length)}
    return {"$defs": steps, "$ref": "#/$defs/d0"}


HOSTILE: dict[str, dict[str, Any]] = {
    "a long chain of definitions": {"json": chain(2000)},
    "a long chain of rules": {"grammar": "".join(f'r{i} ::= r{i + 1} "x"\n' for i in range(4000)) + 'r4000 ::= "y"\nroot ::= r0\n'},
    "many items": {"json": {"type": "array", "minItems": 10**6, "maxItems": 10**9, "items": {"type": "null"}}},
    "many characters": {"json": {"type": "string", "minLength": 10**6, "maxLength": 10**9}},
    "many properties": {"json": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1000)}}},
    "many values": {"json": {"enum": [f"w{i}x{i * 7919 % 16000}" for i in range(16000)]}},
    "counts of counts": {"regex": "((((a{0,50}){0,50}){0,50}){0,50})"},
    "a class of states": {"regex": "[ab]*a[ab]{200}"},
    "an ambiguous grammar": {"grammar": 'root ::= s\ns ::= s s s | s s | [ab] | [bc] | ""'},
    "the product of choices": {
        "json": {"allOf": [{"anyOf": [{"type": "object", "properties": {f"p{i}_{k}": True}} for k in range(4)]} for i in range(8)]}
    },
    "a step": {"json": {"type": "integer", "multipleOf": 9973}},
    "steps of each other": {"json": {"allOf": [{"type": "integer", "multipleOf": n} for n in (99, 100, 101)]}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_constraints_are_followed_or_refused(grammars: Grammars, tokenizer: Tokenizer, name: str) -> None:
    try:
        grammar = grammars.compile(StructuredOutputsParams(**HOSTILE[name]))
    except RecordError as error:
        if error.code != "grammar_error":
            raise
        return
    state, rng = GrammarState(grammar), random.Random(0)
    for _ in range(30):
        choices = allowed(state, tokenizer.vocab_size + PADDING)
        if state.finished or not choices:
            break
        assert state.accept(rng.choice(choices))
    assert state.finished or choices or state.failure is not None


# -- the cache ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources compiled, one after the other."""
    made: list[str] = []
    real = CompiledGrammar._compile

    def compile_(self: CompiledGrammar, result: list[Any]) -> None:
        made.append(self.source.text)
        real(self, result)

    monkeypatch.setattr(CompiledGrammar, "_compile", compile_)
    return made


def test_equal_constraints_are_compiled_once(tokenizer: Tokenizer, end: int, compiled: list[str]) -> None:
    grammars = Grammars(tokenizer, {end}, tokenizer.vocab_size)
    first = grammars.compile(StructuredOutputsParams(json={"type": "integer"}))
    assert grammars.compile(StructuredOutputsParams(json='{"type": "integer"}')) is first
    assert grammars.compile(StructuredOutputsParams(json={"type": "integer"}, disable_any_whitespace=True)) is not first
    assert len(compiled) == 2


def test_settings_of_the_engine_hold_for_all(tokenizer: Tokenizer, end: int) -> None:
    spec = StructuredOutputsParams(json={"type": "object"})
    for settings_, open_, spaced in [
        ({}, True, True),
        ({"disable_any_whitespace": True}, True, False),
        ({"disable_additional_properties": True}, False, True),
    ]:
        grammar = Grammars(tokenizer, {end}, tokenizer.vocab_size, settings=settings_).compile(spec)
        assert accepts(tokenizer, grammar, end, '{"a": 1}') == open_
        assert accepts(tokenizer, grammar, end, "{ }") == spaced


def test_the_cache_is_bounded(tokenizer: Tokenizer, end: int, compiled: list[str]) -> None:
    grammars = Grammars(tokenizer, {end}, tokenizer.vocab_size, max_entries=2)
    for word in ("a", "b", "a", "c", "a", "b"):
        grammars.compile(StructuredOutputsParams(choice=[word]))
    assert [text.split("TEXT: ")[1][2] for text in compiled] == ["a", "b", "c", "b"], "the longest unused goes first"
    compiled.clear()
    small = Grammars(tokenizer, {end}, tokenizer.vocab_size, max_cached=1)
    for word in ("a", "a", "b", "a"):
        small.compile(StructuredOutputsParams(choice=[word]))
    assert len(compiled) == 3


def test_large_sources_are_compiled_on_a_deep_stack_like_small_ones(
    tokenizer: Tokenizer, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_module, "_SHALLOW", 0)
    grammars = Grammars(tokenizer, {end}, tokenizer.vocab_size)
    assert accepts(tokenizer, grammars.compile(StructuredOutputsParams(regex="a+")), end, "aa")
    with pytest.raises(RecordError):
        grammars.compile(StructuredOutputsParams(json={"$ref": "#"}))
