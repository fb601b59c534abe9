"""Calls of Kimi K2: <|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>, all between
<|tool_calls_section_begin|> and <|tool_calls_section_end|>, as its chat template writes them."""

from __future__ import annotations

import re

from .marked import Marked
from .parser import ToolCallParser

SECTION = "<|tool_calls_section_begin|>"
_SECTIONS = (SECTION, "<|tool_calls_section_end|>")
_OPENING = re.compile(r"<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[^\s:<]+):\d+\s*<\|tool_call_argument_begin\|>")
_MARKERS = (*_SECTIONS, "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>")

PARSER = ToolCallParser(Marked(_OPENING, re.compile(r"\s*<\|tool_call_end\|>")), _MARKERS, dropped=_SECTIONS, named_ids=True)
