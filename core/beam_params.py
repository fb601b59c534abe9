"""What a beam search is asked for. Names and meanings are vLLM's; `LLM.beam_search` will take it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import RecordError


@dataclass
class BeamSearchParams:
    """Raises RecordError (invalid_type, invalid_value) naming the field."""

    beam_width: int
    """Beams kept at each step, and sequences returned."""
    max_tokens: int
    """Most output tokens."""
    ignore_eos: bool = False
    """Do not end a beam at the end-of-sequence token."""
    temperature: float = 0.0
    """Divides the logits before the candidates of a beam are taken; 0 leaves them."""
    length_penalty: float = 1.0
    """A beam's score is its cumulative log-probability divided by its length to this power."""
    include_stop_str_in_output: bool = False
    """Without effect, as in vLLM: beams know no stop strings."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""

    def __post_init__(self) -> None:
        for name in ("beam_width", "max_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise RecordError("invalid_type", f"{name} must be an integer, not {type(value).__name__}", param=name)
            if value < 1:
                raise RecordError("invalid_value", f"{name} must be at least 1, not {value}", param=name)
        for name in ("temperature", "length_penalty"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise RecordError("invalid_type", f"{name} must be a number, not {type(value).__name__}", param=name)
            if not math.isfinite(value) or (name == "temperature" and value < 0):
                wanted = "finite and at least 0" if name == "temperature" else "finite"
                raise RecordError("invalid_value", f"{name} must be {wanted}, not {value}", param=name)
        for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise RecordError("invalid_type", f"{name} must be true or false, not {type(getattr(self, name)).__name__}", param=name)
