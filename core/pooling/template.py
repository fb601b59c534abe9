"""Template of a reranker that is a language model: the text around a query and a document. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ModelError, nearest
from ..spec.hf_values import is_text

_FIELDS = ("query", "document")
_FIELD = re.compile(r"\{(query|document|instruction)\}")


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """`prefix` and `suffix` are tokens of their own, never cut off, and spell special tokens; between them stands `pair`, with
    {query} and {document} in it. Each may have {instruction}."""

    prefix: str
    pair: str
    suffix: str
    instruction: str = ""

    @classmethod
    def of(cls, found: Any) -> PairTemplate | None:
        """From `score_template` of config.json (or hf_overrides); None where there is none. Raises ModelError."""
        if found is None:
            return None
        where = "config.json: score_template"
        if not isinstance(found, Mapping) or not all(is_text(value) for value in found.values()):
            raise ModelError(f"{where} is not an object of strings")
        for key in found:
            if key not in cls.__slots__:
                raise ModelError(f"{where} has no key {key!r}{nearest(key, cls.__slots__)} (known: {', '.join(cls.__slots__)})")
        made = cls(**{"prefix": "", "suffix": "", "pair": "", **found})
        if missing := [name for name in _FIELDS if f"{{{name}}}" not in made.pair]:
            raise ModelError(f"{where}: pair needs {' and '.join('{' + name + '}' for name in missing)}")
        ends = {name: getattr(made, name).replace("{instruction}", made.instruction) for name in ("prefix", "suffix")}
        return replace(made, **ends)

    def fill(self, query: str, document: str) -> str:
        """The text between prefix and suffix; what looks like a field in a text is only text."""
        values = {"query": query, "document": document, "instruction": self.instruction}
        return _FIELD.sub(lambda match: values[match[1]], self.pair)
