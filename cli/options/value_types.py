"""Values of options as they are typed: each type turns text into what it means, or says what is wrong with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from infer.core.errors import ConfigError
from infer.core.jobs.input.array_job import parse_shard
from infer.core.jobs.options import CHANGED
from infer.core.settings.setting import parse_bytes
from infer.core.types.params import AUTO

#: Why an output can have ended.
FINISH_REASONS = ("length", "repetition", "stop")


class Typed(click.ParamType):
    """A value that `parse` makes of a text; it raises ConfigError for one that it can make nothing of."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # it was converted before
            return value
        try:
            return self._parse(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def _size(text: str) -> int:
    size = parse_bytes(text)
    if size < 1:
        raise ConfigError("must be at least 1 byte")
    return size


def _max_errors(text: str) -> int | float:
    """N records (an int), or P% of them (a float share)."""
    share = text.endswith("%")
    try:
        number = float(text[:-1]) / 100 if share else int(text)
    except ValueError:
        number = -1
    if not (0 <= number <= 1 if share else number >= 0):
        raise ConfigError(f"{text!r} is neither a number of records, such as 10, nor a share of them, such as 5%")
    return number


def _redo(text: str) -> str:
    """VALUE of finish_reason=VALUE, or CHANGED."""
    name, _, wanted = text.partition("=")
    if text != CHANGED and (name != "finish_reason" or wanted not in FINISH_REASONS):
        forms = " or ".join(f"finish_reason={reason}" for reason in FINISH_REASONS)
        raise ConfigError(f"{text!r} is not {forms} or {CHANGED} (failed records: --retry-errors)")
    return wanted or text


def _token_ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{text!r} is neither a token id nor several, separated by commas") from None


def _bias(text: str) -> dict[Any, Any]:
    """ID=BIAS, or a JSON object of token ids and numbers. SamplingParams checks ids and numbers."""
    try:
        if text.lstrip().startswith("{"):
            return dict(json.loads(text))
        token, _, bias = text.partition("=")
        return {str(int(token)): float(bias)}
    except ValueError:
        raise ConfigError(f"{text!r} is neither ID=BIAS, such as 42=-100, nor a JSON object of them") from None


def json_object(text: str) -> dict[str, Any]:
    """A JSON object; its keys are checked by the option's user."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{text!r} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{text!r} is not a JSON object")
    return value


SIZE = Typed("size", _size)
SHARD = Typed("i/n", lambda text: parse_shard(text, os.environ))
MAX_ERRORS = Typed("n|p%", _max_errors)
REDO = Typed("field=value", _redo)
TOKEN_IDS = Typed("id[,id...]", _token_ids)
JSON_OBJECT = Typed("json", json_object)
BIAS = Typed("id=bias|json", _bias)


def number(kind: type, *, none: bool, auto: bool = False) -> Typed:
    """A number of SamplingParams; `none` where the field may be None, `auto` where that has this name too. The range is SamplingParams'
    business."""

    def parse(text: str) -> Any:
        if (none and text.lower() == "none") or (auto and text.lower() == AUTO):
            return None
        try:
            return kind(text)
        except ValueError:
            raise ConfigError(f"{text!r} is not {'an integer' if kind is int else 'a number'}") from None

    return Typed("int" if kind is int else "float", parse)


def text_or_file(name: str) -> Typed:
    """The content of a file, or where the name says so JSON written out. Always text."""

    def parse(text: str) -> str:
        if "JSON" in name and text.lstrip().startswith("{"):
            return text
        try:
            return Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{text!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None

    return Typed(name.lower(), parse)
