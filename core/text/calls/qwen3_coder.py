"""Calls of Qwen3-Coder, Qwen 3.5 and Seed-OSS: <function=NAME> with a <parameter=NAME> for each argument, as their templates write."""

from __future__ import annotations

import re

from .parser import ToolCallParser
from .tags import Tags

_CALL, _ARGUMENT = re.compile(r"<function=(?P<name>[^<>\n]+)>"), re.compile(r"<parameter=(?P<name>[^<>\n]+)>")


def _between(start: str, end: str) -> ToolCallParser:
    tags = Tags((start, end), _CALL, "</function>", _ARGUMENT, "</parameter>")
    return ToolCallParser(None, (start, end), read_typed=tags)


PARSER = _between("<tool_call>", "</tool_call>")
SEED_OSS = _between("<seed:tool_call>", "</seed:tool_call>")
