"""Calls of Phi-4-mini: `functools` and a JSON list, as its model card has them."""

from __future__ import annotations

import re

from .marked import Marked
from .parser import ToolCallParser

PARSER = ToolCallParser(Marked(re.compile(r"functools(?=\s*\[)"), re.compile("")))
