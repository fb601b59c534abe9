"""The tree of errors: exit codes, what a record's error looks like, suggestions."""

from __future__ import annotations

import pytest

from infer.core import errors
from infer.core.errors import (
    MOST_CHARACTERS,
    RECORD_ERROR_CODES,
    ConfigError,
    EngineError,
    InferError,
    ModelError,
    OutputError,
    RecordError,
    nearest,
)

#: The output format: readers of our files depend on it.
CODES = """
    invalid_json line_too_long invalid_type missing_field unknown_field prompt_too_long kv_capacity template_error grammar_error
    adapter_not_found adapter_invalid
    media_refused media_error non_finite_logits invalid_encoding too_deep invalid_value unsupported deadline internal
"""


@pytest.mark.parametrize(("cls", "code"), [(ConfigError, 2), (ModelError, 1), (EngineError, 1), (OutputError, 74)])
def test_exit_codes(cls: type[InferError], code: int) -> None:
    assert cls("x").exit_code == code


def test_every_error_is_in_the_drawn_tree_with_its_exit_code() -> None:
    for cls in InferError.__subclasses__():
        line = next(line for line in (errors.__doc__ or "").splitlines() if f" {cls.__name__} " in line)
        assert f" {cls.exit_code} " in line


def test_user_errors_can_be_caught_as_value_errors() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(RecordError, ValueError)


def test_record_error_as_json() -> None:
    error = RecordError("invalid_type", "n must be an integer", param="n")
    assert str(error) == "n must be an integer"
    assert error.to_json() == {"code": "invalid_type", "message": "n must be an integer", "param": "n", "retryable": False}


def test_what_a_record_has_makes_its_message_neither_long_nor_several_lines() -> None:
    message = RecordError("invalid_value", "no lora " + "y\r\nError: made up\u2028" * 100_000 + "; give --lora").message
    assert len(message) == MOST_CHARACTERS
    assert message.startswith("no lora y Error: made up y")
    assert message.endswith("; give --lora")
    assert len(message.splitlines()) == 1
    assert RecordError("invalid_value", message).message == message


def test_codes_are_a_closed_list() -> None:
    assert set(CODES.split()) == RECORD_ERROR_CODES
    with pytest.raises(AssertionError):
        RecordError("oops", "not a code")


@pytest.mark.parametrize(
    ("name", "told"), [("max_token", "; did you mean 'max_tokens'?"), ("max_tokens", "; did you mean 'max_tokens'?"), ("zzz", "")]
)
def test_nearest(name: str, told: str) -> None:
    assert nearest(name, ["max_tokens", "min_p"]) == told
