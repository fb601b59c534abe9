"""Tasks chosen by the first record: for input of which nobody says what command it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .completion import CompletionOptions
from .embed import EmbedOptions
from .pooling_spec import EmbedSpec, ScoreSpec
from .spec import WritingSpec

if TYPE_CHECKING:
    from ...build.plan import Plan
    from ..record import Record
    from .base import Task


@dataclass(frozen=True)
class AutoWriting(WritingSpec):
    """`by_field`: the task of records that have that field; `make` makes that of the others."""

    by_field: Mapping[str, Callable[[CompletionOptions, Plan], Task[Any]]] = field(default_factory=dict)

    def _make(self, options: CompletionOptions, plan: Plan, first: Record | None) -> Task[Any]:
        make = next((make for name, make in self.by_field.items() if _has(first, name)), self.make)
        return make(options, plan)


@dataclass(frozen=True)
class AutoPooling(EmbedSpec):
    """`score`: what becomes of records that `infer score` is for."""

    score: ScoreSpec | None = None

    def _make(self, options: EmbedOptions, plan: Plan, first: Record | None) -> Task[Any]:
        if self.score is not None and (_has(first, "documents") or _has(first, "text_1")):
            return self.score.make_task(plan, warn=options.warn)
        return EmbedSpec._make(self, options, plan, first)


def _has(record: Record | None, name: str) -> bool:
    """True if a record, or the OpenAI Batch line it is, has a field."""
    if record is None:
        return False
    body = record.fields.get("body")
    return name in (body if isinstance(body, dict) else record.fields)
