"""What is said of a constraint without compiling it, and that grammars know how each kind of tokenizer spells."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
import torch

from infer.core.engine.grammar import Grammars
from infer.core.errors import RecordError
from infer.core.structured import StructuredOutputsParams
from infer.core.text.detokenizer import decode_all
from infer.core.text.grammar import MAX_BYTES, MAX_CHOICES, GrammarSource
from infer.core.text.tokenizer import Tokenizer


def source(**spec: Any) -> GrammarSource:
    return GrammarSource.of(StructuredOutputsParams(**spec))


@pytest.mark.parametrize(
    ("spec", "language", "text"),
    [
        ({"json": {"type": "null", "title": "é"}}, "json_schema", '{"type":"null"}'),
        ({"json_object": True}, "json_schema", '{"type":"object","additionalProperties":true}'),
        ({"regex": "^a.?$"}, "regex", "a[^\\x0a\\x0d\\u2028-\\u2029\\ud800-\\udfff]?"),
        ({"choice": ["a", 'b"\\\n', "a", "é"]}, "ebnf", 'root ::= "a" | "b\\"\\\\\\n" | "é"'),
        ({"grammar": 'root ::= "a"'}, "ebnf", 'root ::= "a"'),
        ({"grammar": 'start: "a"'}, "lark", 'start: "a"'),
    ],
)
def test_languages(spec: dict[str, Any], language: str, text: str) -> None:
    assert (source(**spec).language, source(**spec).text) == (language, text)


def test_structural_tags_are_brought_up_to_date_and_their_parts_normalized() -> None:
    old = {"structures": [{"begin": "<f>", "schema": {"title": "x", "type": "null"}, "end": "</f>"}], "triggers": ["<f>"]}
    content = {"max_whitespace_cnt": 32, "type": "json_schema", "json_schema": {"type": "null"}}
    tags = [{"type": "tag", "begin": "<f>", "content": content, "end": "</f>"}]
    expected = {"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": ["<f>"], "tags": tags}}
    assert json.loads(source(structural_tag=old).text) == expected
    assert json.loads(source(structural_tag={"format": {"type": "regex", "pattern": "^\\d$"}}).text)["format"]["pattern"] == "[0-9]"


def test_keys_tell_contents_apart() -> None:
    specs: list[dict[str, Any]] = [
        {"json": {"type": "integer"}},
        {"json": {"type": "integer"}, "disable_any_whitespace": True},
        {"json": {"type": "string"}},
        {"regex": "a"},
        {"choice": ["a"]},
    ]
    assert len({source(**spec).key for spec in specs}) == len(specs)
    assert source(json='{ "type" : "integer" }').key == source(json={"description": "x", "type": "integer"}).key


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        ({"json_object": True, "whitespace_pattern": " ?"}, "unsupported", "whitespace_pattern is not supported"),
        ({"json": {"enum": ["x" * MAX_BYTES]}}, "grammar_error", "the schema has"),
        ({"grammar": "root ::= " + "a" * MAX_BYTES}, "grammar_error", "the grammar has"),
        ({"grammar": 'root ::= "\0"'}, "grammar_error", "NUL"),
        ({"grammar": 'root ::= "\ud800"'}, "grammar_error", "not valid Unicode"),
        ({"grammar": "root ::= " + "(" * 65 + '"a"' + ")" * 65}, "grammar_error", "nested deeper than 64"),
        ({"choice": [str(i) for i in range(MAX_CHOICES + 1)]}, "grammar_error", "at most 10000"),
        ({"choice": ["x" * MAX_BYTES, "y"]}, "grammar_error", "choice has"),
        ({"structural_tag": {"structures": [{"begin": "<f>"}], "triggers": []}}, "grammar_error", "need begin, schema and end"),
        ({"structural_tag": {"format": {"type": "json_schema", "json_schema": {"not": {}}}}}, "grammar_error", "not cannot be enforced"),
        ({"regex": "(?=a)"}, "grammar_error", "lookahead"),
    ],
)
def test_refusals(spec: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(RecordError) as error:
        source(**spec)
    assert (error.value.code, error.value.param, error.value.retryable) == (code, "structured_outputs", False)
    assert error.value.message.startswith("structured_outputs: ")
    assert message in error.value.message


@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma", "wordpiece", "suffix"])
def test_every_kind_of_vocabulary(toys: dict[str, Tokenizer], kind: str) -> None:
    """Spaces, accents and what only single bytes can spell, in the ways that tokenizers write them; as the engine makes its texts."""
    pytest.importorskip("xgrammar")
    tokenizer = toys[kind]
    pattern = "(the| quick|Là){2} [éâ]?東?😀{1,2}"
    end = next(iter(sorted(tokenizer.special_ids)))
    compiling = Grammars(tokenizer, {end}, tokenizer.vocab_size + 3).begin(StructuredOutputsParams(regex=pattern))
    assert compiling.wait(60)
    if tokenizer.pieces(False) is None:
        with pytest.raises(RecordError, match="tokens have no bytes"):
            compiling.result()
        return
    prompt = tokenizer.encode("The quick", add_special_tokens=False)
    for seed in range(30):
        state, rng, tokens = compiling.result().state(), random.Random(seed), []
        while not state.finished:
            bits = torch.zeros(1, -(-(tokenizer.vocab_size + 3) // 32), dtype=torch.int32)
            state.fill(bits, 0)
            allowed = ((bits[0][:, None] >> torch.arange(32)) & 1).flatten().nonzero().flatten().tolist()
            tokens.append(rng.choice(allowed))
            assert state.accept(tokens[-1])
        text = decode_all(tokenizer, prompt, tokens, skip_special_tokens=True)
        assert re.fullmatch(pattern, text), (text, tokens)
