"""Calls of MiniMax M2: <invoke name="NAME"> with <parameter name="NAME"> for each argument, between <minimax:tool_call> tags, as its chat
template writes them."""

from __future__ import annotations

import re

from .parser import ToolCallParser
from .tags import Tags

_BLOCK = ("<minimax:tool_call>", "</minimax:tool_call>")

PARSER = ToolCallParser(
    None,
    _BLOCK,
    read_typed=Tags(
        _BLOCK,
        re.compile(r'<invoke name="?(?P<name>[^"<>\n]+)"?>'),
        "</invoke>",
        re.compile(r'<parameter name="?(?P<name>[^"<>\n]+)"?>'),
        "</parameter>",
        lines=False,
    ),
)
