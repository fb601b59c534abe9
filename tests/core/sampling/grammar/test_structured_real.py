"""Structured output on the real model: what it writes parses and validates, whatever it would rather have said."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from infer.core import LLM, SamplingParams, StructuredOutputsParams
from infer.core.sampling.grammar.grammar import Grammars
from infer.core.sampling.grammar.grammar_state import GrammarState
from infer.core.text.tokenizer import Tokenizer

pytestmark = [pytest.mark.real, pytest.mark.slow]

CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "population": {"type": "integer", "minimum": 0, "maximum": 40_000_000},
        "capital": {"type": "boolean"},
        "coordinates": {
            "type": "array",
            "prefixItems": [{"type": "number", "minimum": -90, "maximum": 90}, {"type": "number", "minimum": -180, "maximum": 180}],
            "items": False,
            "minItems": 2,
        },
        "tags": {"type": "array", "items": {"enum": ["port", "old", "large"]}, "maxItems": 2},
        "founded": {"anyOf": [{"type": "string", "pattern": "^[0-9]{3,4}$"}, {"type": "null"}]},
    },
    "required": ["name", "population", "capital", "coordinates", "founded"],
}
ITEM = {
    "$defs": {
        "item": {
            "type": "object",
            "properties": {"text": {"type": "string"}, "done": {"type": "boolean"}},
            "required": ["text", "done"],
        }
    },
    "type": "array",
    "items": {"$ref": "#/$defs/item"},
    "minItems": 1,
    "maxItems": 2,
}
DATE = r"(19|20)\d\d-[01]\d-[0-3]\d"
CHOICES = ["positive", "negative", "neither one"]
GRAMMAR = 'root ::= "SELECT " column (", " column)* " FROM " [a-z]{1,12} ";"\ncolumn ::= [a-z]{1,8}\n'


def fits(spec: dict[str, Any], text: str) -> bool:
    """Whether a complete text is one of a constraint, by somebody else's judgement."""
    if "json" in spec:
        return bool(jsonschema.Draft202012Validator(spec["json"]).is_valid(json.loads(text)))
    if "json_object" in spec:
        return isinstance(json.loads(text), dict)
    if "choice" in spec:
        return text in spec["choice"]
    pattern = spec.get("regex") or r"SELECT [a-z]{1,8}(, [a-z]{1,8})* FROM [a-z]{1,12};"
    return re.fullmatch(pattern, text) is not None


SPECS: list[dict[str, Any]] = [
    {"json": CITY},
    {"json": CITY, "disable_any_whitespace": True},
    {"json": ITEM},
    {"json_object": True},
    {"regex": DATE},
    {"choice": CHOICES},
    {"grammar": GRAMMAR},
]


def test_the_model_keeps_to_every_kind_of_constraint(smollm2: Path) -> None:
    llm = LLM(str(smollm2), device="cpu", max_model_len=512)
    prompts, params, specs = [], [], []
    for i, prompt in enumerate(["The city of Paris:", '{}[]"\n\n']):
        for spec in SPECS:
            prompts.append(prompt)
            specs.append(spec)
            params.append(
                SamplingParams(max_tokens=160, temperature=0 if i % 2 else 1, seed=i, structured_outputs=StructuredOutputsParams(**spec))
            )
    outputs = llm.generate(prompts, params, use_tqdm=False)
    complete = 0
    for spec, output in zip(specs, outputs, strict=True):
        (choice,) = output.outputs
        if choice.finish_reason == "length":
            continue
        assert choice.finish_reason == "stop"
        assert choice.stop_reason is None
        assert fits(spec, choice.text), (spec, choice.text)
        complete += 1
    assert complete > 0.7 * len(specs)
    alone = [llm.generate(prompts[i], params[i], use_tqdm=False)[0].outputs[0].token_ids for i in (0, 7)]
    assert alone == [outputs[i].outputs[0].token_ids for i in (0, 7)], "what a record gets does not depend on its neighbours"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: next(iter(spec)))
def test_any_walk_along_allowed_tokens_fits(smollm2: Path, spec: dict[str, Any]) -> None:
    """The real vocabulary, whose tokens cross every border in a grammar, and no model at all."""
    tokenizer = Tokenizer.load(lambda name: path.read_bytes() if (path := smollm2 / name).exists() else None)
    assert tokenizer.eos_token_id is not None
    grammar = Grammars(tokenizer, {tokenizer.eos_token_id}, tokenizer.vocab_size).compile(StructuredOutputsParams(**spec))
    bits = torch.zeros(1, -(-tokenizer.vocab_size // 32), dtype=torch.int32)
    closing = {i for text in ('"', "}", "]", '"}', '",', "],") for i in tokenizer.encode(text, add_special_tokens=False)}
    complete = 0
    for seed in range(8):
        state, rng, tokens = GrammarState(grammar), random.Random(seed), []
        while not state.finished and len(tokens) < 300:
            state.fill(bits.numpy(), 0)
            allowed = ((bits[0][:, None] >> torch.arange(32)) & 1).flatten()[: tokenizer.vocab_size].nonzero().flatten().tolist()
            ends = [t for t in allowed if t in closing or t == tokenizer.eos_token_id]
            tokens.append(rng.choice(ends if ends and rng.random() < 0.5 else allowed))
            assert state.accept(tokens[-1])
        if state.finished:
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            assert fits(spec, text), text
            complete += 1
    assert complete >= 4
