"""Calls of Granite 3: a JSON list behind <|tool_call|> or <tool_call>, as its chat template asks for. (Granite 4 writes Hermes'.)"""

from __future__ import annotations

import re

from .marked import Marked
from .parser import ToolCallParser

PARSER = ToolCallParser(
    Marked(re.compile(r"<\|tool_call\|>|<tool_call>"), re.compile(r"\s*</tool_call>|")), ("<|tool_call|>", "<tool_call>", "</tool_call>")
)
