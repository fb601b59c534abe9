"""Calls of InternLM 2.5: an object with `name` and `parameters` between <|action_start|><|plugin|> and <|action_end|>."""

from __future__ import annotations

import re

from .marked import Marked
from .parser import ToolCallParser

PARSER = ToolCallParser(
    Marked(re.compile(r"<\|action_start\|>\s*<\|plugin\|>"), re.compile(r"\s*<\|action_end\|>")),
    ("<|action_start|>", "<|plugin|>", "<|action_end|>"),
)
