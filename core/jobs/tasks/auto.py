"""Tasks of input of which nobody says what command it is for: the first record that is a JSON object tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .openai_batch import is_batch
from .spec import TaskSpec

if TYPE_CHECKING:
    from ..record import Record

#: A line with one of these is none of a Batch file, whatever its other columns are called.
_COLUMNS = frozenset({"prompt", "prompt_token_ids", "messages", "input", "text", "query", "documents", "text_1", "text_2"})


@dataclass(frozen=True)
class Auto:
    """
    Args:
        otherwise: the task where no field tells.
        by_field: that of records which have such a field.
        batch: that of OpenAI Batch lines, whatever their url; None: that of what is in them.
    """

    otherwise: TaskSpec
    by_field: Mapping[str, TaskSpec] = field(default_factory=dict)
    batch: TaskSpec | None = None

    def of(self, first: Record) -> TaskSpec:
        """The task, by the first record, or the OpenAI Batch line it is."""
        if self.batch is not None and is_batch(first.fields, _COLUMNS):
            return self.batch
        body = first.fields.get("body")
        fields = body if isinstance(body, dict) else first.fields
        return next((task for name, task in self.by_field.items() if name in fields), self.otherwise)
