"""Errors that a user can be told of.

    InferError                 shown as one message on stderr; ends the run with `exit_code`
    ├── ConfigError        2   a flag, environment variable, YAML key or argument is wrong or contradicts another
    │   ├── UnfinishedOutput  2   what another run left is neither to be resumed nor to be overwritten
    │   └── UnknownArgument  2   `LLM(...)` has no such argument; also a TypeError
    ├── ModelError         1   the model cannot be found, read or is not supported
    │   └── VariantError   1   a variant of an architecture that our code lacks, and transformers' code may have
    ├── EngineError        1   the run cannot go on (out of memory, dead worker)
    ├── TooManyErrors      1   more records failed than --max-errors allows
    ├── OutputError       74   the output cannot be written (disk full, I/O error)
    │   └── LockedError   75   another run is writing it
    └── RecordError        3   one record failed; becomes an error line at its own place and never ends the run

Anything else that reaches the top is a bug in `infer` and is reported as such.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Every code a record's error can carry (`error.code` in the output). Adding one changes the output format.
RECORD_ERROR_CODES = frozenset(
    {
        "invalid_json",  # the line is not JSON, or not a JSON object
        "line_too_long",  # longer than --max-line-bytes
        "invalid_type",  # a field has the wrong JSON type
        "missing_field",  # a required field is absent
        "unknown_field",  # --strict only
        "prompt_too_long",  # prompt does not fit max_model_len
        "kv_capacity",  # one choice (prompt + max_tokens) can never fit the KV cache
        "template_error",  # the chat template or --template raised
        "grammar_error",  # structured output: the grammar cannot be compiled
        "media_refused",  # an image or audio reference that is not allowed
        "non_finite_logits",  # the model produced NaN or infinity for this record
        "invalid_encoding",  # invalid UTF-8 or a lone surrogate
        "too_deep",  # JSON nested deeper than 200
        "invalid_value",  # right type, value out of range
        "unsupported",  # belongs to another command, or is not supported yet
        "deadline",  # the record's time ran out
        "internal",  # our fault
    }
)


class InferError(Exception):
    """Base of everything a user is shown. The message says what happened and what to try next."""

    exit_code = 1


class ConfigError(InferError, ValueError):
    """A setting is wrong: unknown name, bad value, or a contradiction between two given values."""

    exit_code = 2


class UnfinishedOutput(ConfigError):
    """Files that another run left, which are neither to be resumed nor to be overwritten."""


class UnknownArgument(ConfigError, TypeError):
    """A keyword argument that there is not: what Python itself would call a TypeError."""


class ModelError(InferError):
    """The model cannot be found, is damaged, or needs something `infer` does not support."""


class VariantError(ModelError):
    """A variant of an architecture that our code of it lacks, and transformers' code may have."""


class EngineError(InferError):
    """The engine cannot go on."""


class TooManyErrors(InferError):
    """More records failed than --max-errors allows."""


class OutputError(InferError):
    """The output cannot be written."""

    exit_code = 74


class LockedError(OutputError):
    """Another run is writing this output."""

    exit_code = 75


class RecordError(InferError, ValueError):
    """One record cannot be answered.

    Args:
        code: one of `RECORD_ERROR_CODES`.
        message: what is wrong, for a person.
        param: the field that is to blame, if one is.
        retryable: whether the same line may succeed in another run.
    """

    exit_code = 3

    def __init__(self, code: str, message: str, *, param: str | None = None, retryable: bool = False) -> None:
        assert code in RECORD_ERROR_CODES, code
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retryable = retryable

    def to_json(self) -> dict[str, object]:
        """The `error` object of an output line."""
        return {"code": self.code, "message": self.message, "param": self.param, "retryable": self.retryable}


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
