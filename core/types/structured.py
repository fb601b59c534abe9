"""Structured output parameters: one constraint on the text of a record's choices.

Plain data; `sampling/grammar` compiles it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import RecordError, nearest

#: The fields of which exactly one is given.
CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
#: Backends that may be named, in vLLM's words; "xgrammar" so that files written for it go on working.
BACKENDS = ("auto", "guidance", "xgrammar")
#: Deepest nesting of a JSON schema.
MAX_SCHEMA_DEPTH = 64


@dataclass(frozen=True)
class StructuredOutputsParams:
    """One constraint, and how JSON is written. Names and meanings are vLLM's.

    Raises RecordError (invalid_type, invalid_value), param "structured_outputs", unless exactly one constraint is given.
    """

    json: str | None = None
    """A JSON schema: text, or an object, or a class with `model_json_schema` (pydantic); kept as text."""
    regex: str | None = None
    """A regular expression that the whole output matches."""
    choice: tuple[str, ...] | None = None
    """The output is one of these."""
    grammar: str | None = None
    """An EBNF grammar (GBNF notation) with a rule `root`."""
    json_object: bool | None = None
    """Any JSON object."""
    structural_tag: str | None = None
    """A structural tag as xgrammar defines it: JSON text or an object; kept as text."""
    disable_any_whitespace: bool = False
    """JSON without optional whitespace."""
    disable_additional_properties: bool = False
    """Objects of a JSON schema have the properties it lists and no others, unless it says otherwise."""
    whitespace_pattern: str | None = None
    """A regular expression for the whitespace between parts of JSON."""
    backend: str | None = None
    """None, or one of BACKENDS, which all mean the same here."""

    def __post_init__(self) -> None:
        for name in ("json", "structural_tag"):
            object.__setattr__(self, name, _as_json_text(name, getattr(self, name)))
        if isinstance(self.choice, list):
            object.__setattr__(self, "choice", tuple(self.choice))
        if self.json_object is False:
            object.__setattr__(self, "json_object", None)
        self.validate()

    @property
    def kind(self) -> str:
        """The one of CONSTRAINTS that is given."""
        return next(name for name in CONSTRAINTS if getattr(self, name) is not None)

    def validate(self) -> None:
        """Raises RecordError."""
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) != 1:
            what = "none is given" if not given else f"{' and '.join(given)} are given"
            raise _invalid(f"exactly one of {', '.join(CONSTRAINTS)} must be given; {what}")
        for name in ("regex", "grammar", "whitespace_pattern"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise _wrong_type(name, "a string", value)
            if value == "":
                raise _invalid(f"{name} is empty")
        for name in ("disable_any_whitespace", "disable_additional_properties"):
            if not isinstance(getattr(self, name), bool):
                raise _wrong_type(name, "true or false", getattr(self, name))
        if self.json_object is not None and self.json_object is not True:
            raise _wrong_type("json_object", "true or false", self.json_object)
        if self.choice is not None:
            if not isinstance(self.choice, tuple) or not all(isinstance(c, str) for c in self.choice):
                raise _wrong_type("choice", "a list of strings", self.choice)
            if not self.choice or "" in self.choice:
                raise _invalid("choice is empty" if not self.choice else "a choice cannot be empty")
        if self.backend is not None and self.backend not in BACKENDS:
            raise _invalid(f"backend {str(self.backend)[:100]!r} is not there; structured output is llguidance's: {', '.join(BACKENDS)}")

    @classmethod
    def of(cls, value: Any) -> StructuredOutputsParams:
        """Reads a record's object (or one that is made already). Raises RecordError."""
        if isinstance(value, cls):
            return value
        if isinstance(value, GuidedDecodingParams):
            return value.structured()
        if not isinstance(value, Mapping):
            raise RecordError(
                "invalid_type", f"structured_outputs must be an object, not {type(value).__name__}", param="structured_outputs"
            )
        names = [f.name for f in fields(cls)]
        for name in value:
            if name not in names:
                raise RecordError(
                    "invalid_value", f"structured_outputs has no {name!r}{nearest(str(name), names)}", param="structured_outputs"
                )
        return cls(**{name: v for name, v in value.items() if v is not None})


@dataclass(frozen=True)
class GuidedDecodingParams:
    """vLLM's former name of `StructuredOutputsParams`; more than one constraint raises RecordError."""

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    backend: str | None = None
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        self.structured()

    def structured(self) -> StructuredOutputsParams:
        """These fields as StructuredOutputsParams."""
        return StructuredOutputsParams(**{f.name: getattr(self, f.name) for f in fields(self)})


def _as_json_text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if hasattr(value, "model_json_schema"):
        value = value.model_json_schema()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise _invalid(f"{name} is not valid JSON: {error}") from None
    if not isinstance(value, (Mapping, bool)):
        raise _wrong_type(name, "a JSON object", value)
    if _depth(value) > MAX_SCHEMA_DEPTH:
        raise _invalid(f"{name} is nested deeper than {MAX_SCHEMA_DEPTH}")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _depth(value: Any) -> int:
    """Levels of objects and lists, counted no further than they may go."""
    level, depth = [value], 0
    while level and depth <= MAX_SCHEMA_DEPTH:
        inner = [v for v in level if isinstance(v, (Mapping, list))]
        if not inner:
            break
        depth += 1
        level = [child for v in inner for child in (v.values() if isinstance(v, Mapping) else v)]
    return depth


def _invalid(message: str) -> RecordError:
    return RecordError("invalid_value", f"structured_outputs: {message}", param="structured_outputs")


def _wrong_type(name: str, wanted: str, value: Any) -> RecordError:
    return RecordError(
        "invalid_type", f"structured_outputs: {name} must be {wanted}, not {type(value).__name__}", param="structured_outputs"
    )
