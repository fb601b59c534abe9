"""Constraints that are refused without being compiled, and grammars for each kind of tokenizer."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
import torch

from infer.core.errors import RecordError
from infer.core.sampling.grammar.grammar import Grammars
from infer.core.sampling.grammar.grammar_state import GrammarState
from infer.core.sampling.grammar.source import MAX_BYTES, MAX_CHOICES, MAX_WHITESPACE, GrammarSource
from infer.core.text.detokenizer import decode_all
from infer.core.text.tokenizer import Tokenizer
from infer.core.types.structured import StructuredOutputsParams


def source(**spec: Any) -> GrammarSource:
    return GrammarSource.of(StructuredOutputsParams(**spec), {"<|start|>": 7})


def test_json_is_judged_by_the_schema_as_it_was_given() -> None:
    schema = {"type": "object", "required": ["é"]}
    made = source(json=schema)
    assert made.schema == schema
    written = json.loads(made.text)["grammars"][1]["json_schema"]
    assert written["additionalProperties"] is False
    assert f"{{1,{MAX_WHITESPACE}}}" in written["x-guidance"]["whitespace_pattern"]
    assert source(json_object=True).schema == {"type": "object"}
    for other in ({"regex": "a"}, {"choice": ["a"]}, {"grammar": 'root ::= "a"'}, {"structural_tag": {"format": {"type": "any_text"}}}):
        assert source(**other).schema is None


def test_without_whitespace_json_is_as_json_dumps_writes_it() -> None:
    options = json.loads(source(json_object=True, disable_any_whitespace=True).text)["grammars"][1]["json_schema"]["x-guidance"]
    assert options == {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def test_the_librarys_options_are_not_a_records_to_set() -> None:
    text = source(json={"x-guidance": {"lenient": True, "coerce_one_of": True}, "type": "null"}).text
    assert "lenient" not in text


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
        ({"regex": "\ud800"}, "grammar_error", "not a Unicode character"),
        ({"json": {"type": "string", "format": []}}, "grammar_error", "format"),
        ({"json": {"type": "string", "pattern": "\ud800"}}, "grammar_error", "not valid Unicode"),
        ({"json": {"enum": [10**400]}}, "grammar_error", "cannot be enforced exactly"),
        ({"json": {"type": "integer", "multipleOf": 10**400}}, "grammar_error", "multipleOf"),
        ({"json": {"minimum": 10**400}}, "grammar_error", "too large"),
        ({"grammar": "start: x\nx[temperature=0.5]: /a/"}, "unsupported", "temperature"),
        ({"grammar": "start: x\n//" + "[)" * 120_000 + "\nx[[stop='']: /a/"}, "unsupported", "stop"),  # looked at once, not once a bracket
        ({"grammar": "start: " + "(" * 65 + '"a"' + ")" * 65}, "grammar_error", "nested deeper than 64"),
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
    tokenizer = toys[kind]
    pattern = "(the| quick|Là){2} [éâ]?東?😀{1,2}"
    end = next(iter(sorted(tokenizer.special_ids)))
    grammars = Grammars(tokenizer, {end}, tokenizer.vocab_size + 3)
    if tokenizer.pieces(False) is None:
        with pytest.raises(RecordError, match="tokens have no bytes"):
            grammars.compile(StructuredOutputsParams(regex=pattern))
        return
    grammar = grammars.compile(StructuredOutputsParams(regex=pattern))
    prompt = tokenizer.encode("The quick", add_special_tokens=False)
    for seed in range(30):
        state, rng, tokens = GrammarState(grammar), random.Random(seed), []
        while not state.finished:
            bits = torch.zeros(1, -(-(tokenizer.vocab_size + 3) // 32), dtype=torch.int32)
            state.fill(bits.numpy(), 0)
            allowed = ((bits[0][:, None] >> torch.arange(32)) & 1).flatten().nonzero().flatten().tolist()
            tokens.append(rng.choice(allowed))
            assert state.accept(tokens[-1])
        text = decode_all(tokenizer, prompt, tokens, skip_special_tokens=True)
        assert re.fullmatch(pattern, text), (text, tokens)
