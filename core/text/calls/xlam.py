"""Calls of xLAM: a JSON list that is the whole output, or stands in a fence, behind [TOOL_CALLS], between <tool_call> tags or behind
</think>, as the model cards of its versions have it."""

from __future__ import annotations

import re

from .marked import Marked
from .parser import ToolCallParser

_OPENING = re.compile(r"(?:\A|```(?:json)?|\[TOOL_CALLS\]|<tool_call>|(?<=</think>))\s*(?=\[\s*\{)")

PARSER = ToolCallParser(Marked(_OPENING, re.compile(r"\s*(?:```|</tool_call>)|")), ("[TOOL_CALLS]", "<tool_call>", "</tool_call>"))
