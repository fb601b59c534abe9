"""Values of options as they are typed: each type turns text into what it means, or says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from infer.core.errors import ConfigError
from infer.core.jobs.input.selection import Shard
from infer.core.jobs.options import CHANGED
from infer.core.settings.setting import parse_bytes

#: Why an output can have ended.
FINISH_REASONS = ("length", "stop")


class SizeType(click.ParamType):
    """Bytes, such as 64MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            size = value if isinstance(value, int) else parse_bytes(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        if size < 1:
            self.fail("must be at least 1 byte", param, ctx)
        return size


class ShardType(click.ParamType):
    """I/N."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        if isinstance(value, Shard):
            return value
        try:
            return Shard.parse(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class MaxErrorsType(click.ParamType):
    """N records (an int), or P% of them (a float share)."""

    name = "n|p%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        share = isinstance(value, str) and value.endswith("%")
        try:
            number = float(value[:-1]) / 100 if share else int(value)
        except ValueError:
            number = -1
        if not (0 <= number <= 1 if share else number >= 0):
            self.fail(f"{value!r} is neither a number of records, such as 10, nor a share of them, such as 5%", param, ctx)
        return number


class RedoType(click.ParamType):
    """finish_reason=VALUE, as VALUE, or CHANGED."""

    name = "field=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == CHANGED:
            return CHANGED
        name, _, wanted = value.partition("=")
        if name != "finish_reason" or wanted not in FINISH_REASONS:
            forms = " or ".join(f"finish_reason={reason}" for reason in FINISH_REASONS)
            self.fail(f"{value!r} is not {forms} or {CHANGED}", param, ctx)
        return str(wanted)


class NumberType(click.ParamType):
    """A number of SamplingParams; `none` where the field may be None. The range is SamplingParams' business."""

    def __init__(self, kind: type, *, none: bool) -> None:
        self.kind, self.none = kind, none
        self.name = "int" if kind is int else "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self.none and str(value).lower() == "none":
            return None
        try:
            return self.kind(value)
        except ValueError:
            self.fail(f"{value!r} is not {'an integer' if self.kind is int else 'a number'}", param, ctx)


class TokenIdsType(click.ParamType):
    """Token ids with commas between them, as a tuple."""

    name = "id[,id...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is neither a token id nor several, separated by commas", param, ctx)


class BiasType(click.ParamType):
    """ID=BIAS, or a JSON object of token ids and numbers. SamplingParams checks ids and numbers."""

    name = "id=bias|json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[Any, Any]:
        if isinstance(value, dict):
            return value
        try:
            if value.lstrip().startswith("{"):
                return dict(json.loads(value))
            token, _, bias = value.partition("=")
            return {str(int(token)): float(bias)}
        except ValueError:
            self.fail(f"{value!r} is neither ID=BIAS, such as 42=-100, nor a JSON object of them", param, ctx)


class TextOrFileType(click.ParamType):
    """The content of a file, or JSON written out. Always text."""

    def __init__(self, name: str) -> None:
        self.name = name.lower()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if "json" in self.name and value.lstrip().startswith("{"):
            return str(value)
        try:
            return Path(value).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            self.fail(f"{value!r} cannot be read: {getattr(error, 'strerror', None) or error}", param, ctx)
