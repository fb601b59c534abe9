"""Repetition detection: when an output that goes round in circles is to end. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import RecordError, nearest

#: finish_reason and stop_reason of an output that ended so, as in vLLM.
REPETITION, DETECTED = "repetition", "repetition_detected"

_PARAM = "repetition_detection"


@dataclass(frozen=True)
class RepetitionDetectionParams:
    """End an output whose last tokens are one pattern of tokens, `min_count` times in a row. Names and meanings are vLLM's.

    Raises RecordError (invalid_type, invalid_value), param "repetition_detection".
    """

    max_pattern_size: int = 0
    """Most tokens of a pattern; 0 looks for none."""
    min_pattern_size: int = 0
    """Fewest tokens of a pattern; 0 means 1."""
    min_count: int = 0
    """Times that a pattern must stand there, one right after the other; at least 2."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if type(value) is not int:
                kind = type(value).__name__
                raise RecordError("invalid_type", f"{_PARAM}: {f.name} must be an integer, not {kind}", param=_PARAM)
            if value < 0:
                raise RecordError("invalid_value", f"{_PARAM}: {f.name} must be at least 0", param=_PARAM)
        if self.min_pattern_size > self.max_pattern_size:
            message = f"{_PARAM}: min_pattern_size {self.min_pattern_size} is above max_pattern_size {self.max_pattern_size}"
            raise RecordError("invalid_value", message, param=_PARAM)
        if self.max_pattern_size and self.min_count < 2:
            message = f"{_PARAM}: min_count must be at least 2; max_pattern_size 0 looks for no repetition"
            raise RecordError("invalid_value", message, param=_PARAM)

    @classmethod
    def of(cls, value: Any) -> RepetitionDetectionParams | None:
        """Reads a record's object (or one that is made already); None where it looks for nothing. Raises RecordError."""
        if not isinstance(value, cls):
            if not isinstance(value, Mapping):
                raise RecordError("invalid_type", f"{_PARAM} must be an object, not {type(value).__name__}", param=_PARAM)
            names = [f.name for f in fields(cls)]
            for name in value:
                if name not in names:
                    raise RecordError("invalid_value", f"{_PARAM} has no {name!r}{nearest(str(name), names)}", param=_PARAM)
            value = cls(**{name: number for name, number in value.items() if number is not None})
        return value if value.max_pattern_size else None
