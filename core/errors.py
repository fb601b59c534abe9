"""Errors that a user can be told of.

    InferError                 shown as one message on stderr; ends the run with `exit_code`
    ├── ConfigError        2   a flag, environment variable, YAML key or argument is wrong or contradicts another
    │   ├── UnfinishedOutput  2   what another run left is neither to be resumed nor to be overwritten
    │   └── UnknownArgument  2   `LLM(...)` has no such argument; also a TypeError
    ├── ModelError         1   the model cannot be found, read or is not supported
    │   ├── VariantError   1   a variant of an architecture that our code lacks, and transformers' code may have
    │   └── AdapterError   1   an adapter cannot be found, read or is not supported; also a ValueError
    ├── EngineError        1   the run cannot go on (out of memory, dead worker)
    ├── Absent             1   a file elsewhere (an object of a store) is not there
    ├── TooManyErrors      1   more records failed than --max-errors allows
    ├── OutputError       74   the output cannot be written (disk full, I/O error)
    │   └── LockedError   75   another run is writing it
    └── RecordError        3   one record failed; becomes an error line at its own place and never ends the run

Anything else that reaches the top is a bug in `infer` and is reported as such.
"""

from __future__ import annotations

import re
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
        "adapter_not_found",  # the record names an adapter that is not there
        "adapter_invalid",  # the adapter's files are broken, do not fit the model or need something we do not have
        "grammar_error",  # structured output: the grammar cannot be compiled
        "media_refused",  # an image, audio or video that the options do not allow: its place, its size, or how many there are
        "media_error",  # an image, audio or video that is missing, damaged or not what it is said to be
        "non_finite_logits",  # the model produced NaN or infinity for this record
        "invalid_encoding",  # invalid UTF-8 or a lone surrogate
        "too_deep",  # JSON nested deeper than 200
        "invalid_value",  # right type, value out of range
        "unsupported",  # belongs to another command, or is not supported yet
        "deadline",  # the record's time ran out
        "internal",  # our fault
    }
)


#: Of the message of a record's error: a field of 64 MB would otherwise stand in its row again, on stderr and in the journal.
MOST_CHARACTERS = 1000
#: Of them, those of its beginning where it is longer.
_KEPT = 700


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


class AdapterError(ModelError, ValueError):
    """An adapter cannot be found, is damaged, does not fit the model or needs something `infer` does not support.

    `code` is that of the records that name it: "adapter_not_found" or "adapter_invalid".
    """

    def __init__(self, message: str, *, code: str = "adapter_invalid") -> None:
        assert code in RECORD_ERROR_CODES, code
        super().__init__(message)
        self.code = code

    def of_record(self, param: str | None = "lora") -> RecordError:
        """The same as the error of a record. `param`: the field that names the adapter."""
        return RecordError(self.code, str(self), param=param)


class EngineError(InferError):
    """The engine cannot go on."""


class Absent(InferError):
    """A file elsewhere is not there."""


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
        message: what is wrong, for a person. It may quote the record: it is made one line of at most `MOST_CHARACTERS`, beginning and end.
        param: the field that is to blame, if one is.
        retryable: whether the same line may succeed in another run.
    """

    exit_code = 3

    def __init__(self, code: str, message: str, *, param: str | None = None, retryable: bool = False) -> None:
        assert code in RECORD_ERROR_CODES, code
        message = _one_line(message.encode(errors="backslashreplace").decode())  # half a surrogate pair, of a file or a path, is no JSON
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retryable = retryable

    def to_json(self) -> dict[str, object]:
        """The `error` object of an output line."""
        return {"code": self.code, "message": self.message, "param": self.param, "retryable": self.retryable}


def _one_line(message: str) -> str:
    text = " ".join(message.splitlines())  # or a record could write lines of its own into a log
    return text if len(text) <= MOST_CHARACTERS else f"{text[:_KEPT]} … {text[_KEPT + 3 - MOST_CHARACTERS :]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known name that `name` misspells, `'x' or 'y'` where there are two or three, or an empty string.
    Another word is no misspelling: nothing is suggested that may mean something else."""
    found = [(slips, one) for one in known if (slips := _slips(name, one)) is not None]
    fewest = min(found)[0] if found else 0
    best = sorted({one for slips, one in found if slips == fewest or min(slips, fewest) >= 2})  # several may begin so: none is likelier
    return f"; did you mean {' or '.join(map(repr, best))}?" if 0 < len(best) < 4 else ""


def _slips(name: str, known: str) -> int | None:
    """The distance of a name from a known one: 0 if only separators differ, 1 for each wrong letter, 2 or more if words are cut short or
    missing at the end; None if it is not a misspelling of it."""
    given, meant = (re.findall(r"[^\W_]+", text.lower()) for text in (name, known))
    if "".join(given) == "".join(meant):
        return 0
    if len(given) == len(meant):
        letters = [_wrong_letters(one, other) for one, other in zip(given, meant, strict=True)]
        if None not in letters:
            return sum(filter(None, letters))
    if given and len(given) <= len(meant) and len(given[0]) > 2 and all(m.startswith(g) for g, m in zip(given, meant, strict=False)):
        return 2 + len(meant) - len(given)
    return None


def _wrong_letters(one: str, other: str) -> int | None:
    """0 for the same word, 1 for one letter (in long words 2) that is another, missing, too many or changed places with the next one;
    None for another word. A digit is never a slip, nor is a letter of a word of one or two."""
    if one == other:
        return 0
    if min(len(one), len(other)) < 3 or re.sub(r"\D", "", one) != re.sub(r"\D", "", other):
        return None
    most = 1 if min(len(one), len(other)) < 8 else 2
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(row[-1] + 1, rows[-1][j] + 1, rows[-1][j - 1] + (a != b)))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1] if rows[-1][-1] <= most else None
