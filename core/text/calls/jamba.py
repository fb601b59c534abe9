"""Calls of Jamba 1.5: a JSON list between <tool_calls> and </tool_calls>, as its chat template writes them."""

from __future__ import annotations

import re

from .marked import Marked
from .parser import ToolCallParser

PARSER = ToolCallParser(Marked(re.compile("<tool_calls>"), re.compile(r"\s*</tool_calls>")), ("<tool_calls>", "</tool_calls>"))
