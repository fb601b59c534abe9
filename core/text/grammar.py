"""What a grammar is compiled from: a constraint, checked and bounded, as text of one of the languages the library reads.

Everything that can be said of a constraint without compiling it is said here, so that `infer check` and a run agree and an
absurd one costs nothing. Never imports the grammar library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RecordError
from ..structured import StructuredOutputsParams
from . import regex, schema

#: Most bytes of a schema, grammar, structural tag or all choices together.
MAX_BYTES = 256 * 1024
MAX_CHOICES = 10_000
#: Deepest nesting of brackets in a grammar, and of a structural tag's JSON.
MAX_DEPTH = 64
#: Most whitespace in one place of JSON: enough to indent seven levels by four, and a model cannot go on with it for ever.
MAX_WHITESPACE = 32

_PARAM = "structured_outputs"


@dataclass(frozen=True)
class GrammarSource:
    """What the library compiles. Equal sources give equal grammars."""

    language: str
    """"json_schema", "regex", "ebnf", "lark" or "structural_tag"."""
    text: str
    any_whitespace: bool = True
    """JSON only: up to MAX_WHITESPACE of whitespace wherever it is allowed, or exactly what json.dumps writes."""

    @property
    def key(self) -> str:
        """A hash of all of it."""
        parts = f"{self.language}\n{self.any_whitespace}\n{self.text}"
        return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()

    @classmethod
    def of(cls, spec: StructuredOutputsParams) -> GrammarSource:
        """Raises RecordError: grammar_error if it cannot be compiled, unsupported for what this backend has not."""
        try:
            return cls._of(spec)
        except RecordError as error:
            raise RecordError(error.code, f"{_PARAM}: {error.message}", param=_PARAM) from None
        except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:  # of a schema that is none
            raise RecordError("grammar_error", f"{_PARAM}: it cannot be read ({type(error).__name__})", param=_PARAM) from None

    @classmethod
    def _of(cls, spec: StructuredOutputsParams) -> GrammarSource:
        if spec.whitespace_pattern is not None:
            raise RecordError("unsupported", "whitespace_pattern is not supported by xgrammar; see disable_any_whitespace")
        spaces = not spec.disable_any_whitespace
        if spec.json_object:
            return cls("json_schema", _dumps(schema.normalized({"type": "object"})), spaces)
        if spec.json is not None:
            _check_bytes("the schema", spec.json)
            return cls("json_schema", _dumps(schema.normalized(json.loads(spec.json), closed=spec.disable_additional_properties)), spaces)
        if spec.regex is not None:
            return cls("regex", regex.normalized(spec.regex))
        if spec.choice is not None:
            return cls("ebnf", _choice_rule(spec.choice))
        if spec.structural_tag is not None:
            _check_bytes("the structural tag", spec.structural_tag)
            tag = _walked(_modern(json.loads(spec.structural_tag)), 0, spec)
            return cls("structural_tag", _dumps(tag), spaces)
        assert spec.grammar is not None
        _check_bytes("the grammar", spec.grammar)
        _check_brackets(spec.grammar)
        return cls("ebnf" if "::=" in spec.grammar else "lark", spec.grammar)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _check_bytes(what: str, text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise RecordError("grammar_error", f"{what} is not valid Unicode") from None
    if size > MAX_BYTES:
        raise RecordError("grammar_error", f"{what} has {size} bytes; at most {MAX_BYTES} are allowed")
    if "\0" in text:
        raise RecordError("grammar_error", f"{what} contains the NUL character")


def _choice_rule(choices: tuple[str, ...]) -> str:
    """One rule of string literals. JSON escapes are those of the language, but for halves of characters, so there are none."""
    if len(choices) > MAX_CHOICES:
        raise RecordError("grammar_error", f"{len(choices)} choices; at most {MAX_CHOICES} are allowed")
    _check_bytes("choice", "".join(choices))
    return "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in dict.fromkeys(choices))


def _check_brackets(grammar: str) -> None:
    """Bounds the depth of a parser that descends recursively. Brackets in strings count, which the bound has room for."""
    depth = 0
    for char in grammar:
        depth += (char == "(") - (char == ")")
        if depth > MAX_DEPTH:
            raise RecordError("grammar_error", f"the grammar is nested deeper than {MAX_DEPTH}")
        depth = max(depth, 0)


def _modern(tag: Any) -> Any:
    """The older form, {"structures": [{begin, schema, end}], "triggers": [...]}, in today's words."""
    if not isinstance(tag, Mapping) or "structures" not in tag:
        return tag
    try:
        tags = [
            {"type": "tag", "begin": s["begin"], "content": {"type": "json_schema", "json_schema": s["schema"]}, "end": s["end"]}
            for s in tag["structures"]
        ]
        triggered = {"type": "triggered_tags", "triggers": tag["triggers"], "tags": tags}
    except (KeyError, TypeError) as error:
        raise RecordError("grammar_error", f"the structural tag's structures need begin, schema and end, and triggers: {error!r}") from None
    return {"type": "structural_tag", "format": triggered}


def _walked(part: Any, depth: int, spec: StructuredOutputsParams) -> Any:
    """A structural tag with its schemas and regular expressions normalized, and whitespace bounded."""
    if depth > MAX_DEPTH:
        raise RecordError("grammar_error", f"the structural tag is nested deeper than {MAX_DEPTH}")
    if isinstance(part, list):
        return [_walked(inner, depth + 1, spec) for inner in part]
    if not isinstance(part, Mapping):
        return part
    kind = part.get("type")
    if kind == "json_schema" and "json_schema" in part:
        content = schema.normalized(part["json_schema"], closed=spec.disable_additional_properties)
        return {"max_whitespace_cnt": MAX_WHITESPACE, **part, "json_schema": content}
    if kind == "regex" and isinstance(part.get("pattern"), str):
        return {**part, "pattern": regex.normalized(part["pattern"])}
    if kind == "grammar" and isinstance(part.get("grammar"), str):
        _check_brackets(part["grammar"])
    return {name: _walked(inner, depth + 1, spec) for name, inner in part.items()}
