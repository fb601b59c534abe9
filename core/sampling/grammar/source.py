"""Sources of grammars: constraints, checked and bounded, in the language of the grammar library.

Everything that can be said of a constraint without compiling it is said here. Never imports the library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import RecordError
from ...types.structured import StructuredOutputsParams
from . import descent, ebnf, regex, schema
from .structural_tag import StructuralTag

#: Most bytes of a schema, grammar, structural tag or all choices together.
MAX_BYTES = 256 * 1024
MAX_CHOICES = 10_000
#: Most whitespace in one place of JSON: enough to indent seven levels by four, and a model cannot go on with it for ever.
MAX_WHITESPACE = 32

_PARAM = "structured_outputs"
#: A forced text could be cut into tokens in one way only; what the model prefers is for the model to say.
_OPTIONS = '%llguidance {"no_forcing": true}\n'
#: What a grammar in the library's own language may ask of whoever draws tokens, and nobody here does.
_ASKED = re.compile(r"\[[^\[\]\n]*\b(temperature|stop|max_tokens)\s*=")


@dataclass(frozen=True)
class GrammarSource:
    """The input of the library's compiler. Equal sources give equal grammars."""

    text: str
    """In the library's JSON."""
    schema: Any = None
    """The schema that a finished output has to be valid by, parsed; None if the output is not JSON as a whole."""

    @property
    def size(self) -> int:
        """Characters, which memory and work grow with."""
        return len(self.text)

    @classmethod
    def of(cls, spec: StructuredOutputsParams, specials: Mapping[str, int]) -> GrammarSource:
        """
        Args:
            specials: text of a special token -> its id.

        Raises RecordError: grammar_error if it cannot be compiled, unsupported for what there is no way to enforce.
        """
        try:
            return cls._of(spec, specials)
        except RecordError as error:
            raise RecordError(error.code, f"{_PARAM}: {error.message}", param=_PARAM) from None
        except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:  # of a schema that is none
            raise RecordError("grammar_error", f"{_PARAM}: it cannot be read ({type(error).__name__})", param=_PARAM) from None

    @classmethod
    def _of(cls, spec: StructuredOutputsParams, specials: Mapping[str, int]) -> GrammarSource:
        if spec.whitespace_pattern is not None:
            raise RecordError("unsupported", "whitespace_pattern is not supported; see disable_any_whitespace")

        def json_grammar(content: Any) -> dict[str, Any]:
            return {**schema.normalized(content, closed=spec.disable_additional_properties), "x-guidance": _spacing(spec)}

        if spec.json_object or spec.json is not None:
            _check_bytes("the schema", spec.json or "")
            content = {"type": "object"} if spec.json is None else json.loads(spec.json)
            return cls(_dumps("start: @json", [{"name": "json", "json_schema": json_grammar(content)}]), content)
        if spec.regex is not None:
            return cls(_dumps(f"start: TEXT\nTEXT: /{regex.normalized(spec.regex)}/"))
        if spec.choice is not None:
            return cls(_dumps(_choices(spec.choice)))
        if spec.structural_tag is not None:
            _check_bytes("the structural tag", spec.structural_tag)
            tag = StructuralTag(json.loads(spec.structural_tag), specials, json_grammar)
            return cls(_dumps(tag.lark, tag.parts))
        assert spec.grammar is not None
        _check_bytes("the grammar", spec.grammar)
        if "::=" in spec.grammar:
            return cls(_dumps(f"start: root\n{ebnf.to_lark(spec.grammar)}"))
        return cls(_dumps(_checked(spec.grammar)))


def _dumps(lark: str, parts: list[dict[str, Any]] | None = None) -> str:
    whole = {"grammars": [{"lark_grammar": _OPTIONS + lark}, *(parts or [])]}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":"))


def _spacing(spec: StructuredOutputsParams) -> dict[str, Any]:
    """Up to MAX_WHITESPACE of whitespace wherever JSON allows it, or exactly what json.dumps writes."""
    if spec.disable_any_whitespace:
        return {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return {"whitespace_pattern": rf"[\x20\x0a\x0d\x09]{{1,{MAX_WHITESPACE}}}"}


def _check_bytes(what: str, text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise RecordError("grammar_error", f"{what} is not valid Unicode") from None
    if size > MAX_BYTES:
        raise RecordError("grammar_error", f"{what} has {size} bytes; at most {MAX_BYTES} are allowed")
    if "\0" in text:
        raise RecordError("grammar_error", f"{what} contains the NUL character")


def _choices(choices: tuple[str, ...]) -> str:
    """One terminal: its alternatives are told apart character by character."""
    if len(choices) > MAX_CHOICES:
        raise RecordError("grammar_error", f"{len(choices)} choices; at most {MAX_CHOICES} are allowed")
    _check_bytes("choice", "".join(choices))
    return "start: TEXT\nTEXT: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in dict.fromkeys(choices))


def _checked(grammar: str) -> str:
    """A grammar in the library's own language. Brackets in strings count, which the bound has room for."""
    depth = 0
    for char in grammar:
        depth = max(0, depth + (char in "([{") - (char in ")]}"))
        if depth > descent.MAX_DEPTH:
            raise RecordError("grammar_error", f"the grammar is nested deeper than {descent.MAX_DEPTH}")
    if grammar.count("\n") > ebnf.MAX_RULES:
        raise RecordError("grammar_error", f"the grammar has more than {ebnf.MAX_RULES} lines")
    if asked := _ASKED.search(grammar):
        raise RecordError("unsupported", f"{asked[1]} of a grammar's rule is not supported")
    return grammar
