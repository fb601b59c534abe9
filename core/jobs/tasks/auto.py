"""Tasks of input of which nobody says what command it is for: the first record that is a JSON object tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .spec import TaskSpec

if TYPE_CHECKING:
    from ..record import Record


@dataclass(frozen=True)
class Auto:
    """
    Args:
        otherwise: the task where no field tells.
        by_field: that of records which have such a field.
    """

    otherwise: TaskSpec
    by_field: Mapping[str, TaskSpec] = field(default_factory=dict)

    def of(self, first: Record) -> TaskSpec:
        """The task, by the first record, or the OpenAI Batch line it is."""
        body = first.fields.get("body")
        fields = body if isinstance(body, dict) else first.fields
        return next((task for name, task in self.by_field.items() if name in fields), self.otherwise)
