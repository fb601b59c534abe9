"""What a request may ask for. Plain data with its validation; knows nothing of engines or files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .errors import RecordError, nearest

#: Below this a temperature means greedy decoding (as in vLLM).
GREEDY_EPSILON = 1e-5
#: Temperatures between GREEDY_EPSILON and this are raised to it: smaller ones overflow the softmax.
MIN_TEMPERATURE = 1e-2

#: Other spellings of our fields.
ALIASES = {"max_completion_tokens": "max_tokens"}

#: Known to OpenAI's or vLLM's API, not built yet: refused by name, never ignored.
NOT_SUPPORTED_YET = frozenset(
    {
        "allowed_token_ids",
        "bad_words",
        "best_of",
        "echo",
        "guided_decoding",
        "logit_bias",
        "logits_processors",
        "priority",
        "prompt_logprobs",
        "repetition_detection",
        "response_format",
        "structured_outputs",
        "suffix",
        "thinking_token_budget",
        "top_logprobs",
        "truncate_prompt_tokens",
        "use_beam_search",
    }
)


def _bounds(kind: str, low: float, high: float | None = None, *, open_low: bool = False, none: bool = False) -> Any:
    """Field metadata read by `SamplingParams.validate`."""
    return {"kind": kind, "low": low, "high": high, "open_low": open_low, "none": none}


@dataclass(frozen=True)
class SamplingParams:
    """How one record's tokens are chosen and when its output ends. Names and meanings are vLLM's.

    Order of processing per token: min_tokens mask, repetition, frequency and presence penalty, temperature,
    min_p, top_k, top_p, then one draw. min_p comes before top-k/p as in today's vLLM, so it always looks at the
    whole distribution. Reported logprobs are of the raw distribution, before any of these.
    """

    n: int = field(default=1, metadata=_bounds("int", 1, 16384))
    """Outputs per prompt; greedy decoding allows one."""
    presence_penalty: float = field(default=0.0, metadata=_bounds("float", -2, 2))
    """Subtracted from the logit of every token already in the output."""
    frequency_penalty: float = field(default=0.0, metadata=_bounds("float", -2, 2))
    """Subtracted from a token's logit once per occurrence in the output."""
    repetition_penalty: float = field(default=1.0, metadata=_bounds("float", 0, None, open_low=True))
    """Divides positive and multiplies negative logits of tokens in the prompt or output."""
    temperature: float = field(default=1.0, metadata=_bounds("float", 0, None))
    """Divides the logits; 0 is greedy."""
    top_p: float = field(default=1.0, metadata=_bounds("float", 0, 1, open_low=True))
    """Keep the most likely tokens whose probabilities reach this sum; ties at the border are kept."""
    top_k: int = field(default=-1, metadata=_bounds("int", -1, None))
    """Keep the k most likely tokens (ties are kept); 0 or -1 keeps all."""
    min_p: float = field(default=0.0, metadata=_bounds("float", 0, 1))
    """Drop tokens less likely than this fraction of the most likely one."""
    seed: int | None = field(default=None, metadata=_bounds("int", -1, 2**63 - 1, none=True))
    """Makes the record's draws independent of its place in the input; choice i draws as seed + i. -1 means none."""
    stop: tuple[str, ...] = ()
    """The output ends before the first of these strings."""
    stop_token_ids: tuple[int, ...] = ()
    """The output ends after any of these tokens."""
    include_stop_str_in_output: bool = False
    """Keep the stop string (or stop token's text) at the end of the text."""
    ignore_eos: bool = False
    """Do not end at the end-of-sequence token(s)."""
    max_tokens: int | None = field(default=16, metadata=_bounds("int", 1, None, none=True))
    """Most output tokens; None is as many as `max_model_len` leaves."""
    min_tokens: int = field(default=0, metadata=_bounds("int", 0, None))
    """End-of-sequence and stop tokens cannot be drawn, and stop strings do not act, before this many tokens."""
    logprobs: int | None = field(default=None, metadata=_bounds("int", 0, None, none=True))
    """Report the log-probabilities of this many most likely tokens, and of the drawn one, at every position."""
    detokenize: bool = True
    """Make text of the tokens."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    return_token_ids: bool = False
    """Write the token ids of prompt and output beside the text."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("stop", "stop_token_ids"):
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, ())
            elif isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        if self.seed == -1:
            object.__setattr__(self, "seed", None)
        if self.logprobs is True:
            object.__setattr__(self, "logprobs", 1)
        elif self.logprobs is False:
            object.__setattr__(self, "logprobs", None)
        self.validate()

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_EPSILON

    def validate(self) -> None:
        """Raises RecordError (invalid_type, invalid_value) naming the field."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.metadata:
                _check_number(f.name, value, f.metadata)
            elif f.type == "bool" and not isinstance(value, bool):
                raise _wrong_type(f.name, "true or false", value)
        _check_list("stop", self.stop, str, "strings")
        _check_list("stop_token_ids", self.stop_token_ids, int, "token ids")
        if any(not s for s in self.stop):
            raise RecordError("invalid_value", "stop: a stop string cannot be empty", param="stop")
        if self.stop and not self.detokenize:
            raise RecordError("invalid_value", "stop: stop strings need detokenize=true", param="stop")
        if any(t < 0 for t in self.stop_token_ids):
            raise RecordError("invalid_value", "stop_token_ids: token ids cannot be negative", param="stop_token_ids")
        if self.greedy and self.n > 1:
            raise RecordError("invalid_value", f"n: greedy decoding (temperature 0) gives one output, not {self.n}", param="n")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RecordError("invalid_value", f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}", param="min_tokens")

    @classmethod
    def field_names(cls) -> frozenset[str]:
        return frozenset(f.name for f in fields(cls))

    def override(self, values: Mapping[str, Any]) -> SamplingParams:
        """These parameters with `values` (a record's own fields, our names or aliases) on top.

        A null keeps the default for that field, as OpenAI clients send nulls; `max_tokens` too.
        Raises RecordError for values that are wrong, contradict each other or are not supported yet.
        """
        changes: dict[str, Any] = {}
        for name, value in values.items():
            if name in NOT_SUPPORTED_YET:
                if value is not None:
                    raise RecordError("unsupported", f"{name} is not supported yet", param=name)
                continue
            own = ALIASES.get(name, name)
            if own not in self.field_names():
                raise RecordError("unknown_field", f"unknown sampling parameter {name!r}{nearest(name, self.field_names())}", param=name)
            if value is not None:
                changes[own] = value
        return replace(self, **changes) if changes else self


def _check_number(name: str, value: Any, bounds: Mapping[str, Any]) -> None:
    if value is None and bounds["none"]:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float) if bounds["kind"] == "float" else int):
        raise _wrong_type(name, "an integer" if bounds["kind"] == "int" else "a number", value)
    low, high = bounds["low"], bounds["high"]
    below = value <= low if bounds["open_low"] else value < low
    if below or (high is not None and value > high) or not math.isfinite(value):
        left = "above" if bounds["open_low"] else "at least"
        limit = f"{left} {low}" + (f" and at most {high}" if high is not None else "")
        raise RecordError("invalid_value", f"{name} must be {limit}, not {value}", param=name)


def _check_list(name: str, value: Any, kind: type, what: str) -> None:
    if not isinstance(value, tuple) or not all(isinstance(v, kind) and not isinstance(v, bool) for v in value):
        raise _wrong_type(name, f"a list of {what}", value)


def _wrong_type(name: str, wanted: str, value: Any) -> RecordError:
    return RecordError("invalid_type", f"{name} must be {wanted}, not {type(value).__name__}", param=name)
