"""Calls of GLM 4.5 to 4.7: <tool_call>NAME and <arg_key>, <arg_value> for each argument, as their chat templates write them."""

from __future__ import annotations

import re

from .parser import ToolCallParser
from .tags import Tags

PARSER = ToolCallParser(
    None,
    ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    read_typed=Tags(
        None,
        re.compile(r"<tool_call>\s*(?P<name>[^\s<{]+)"),
        "</tool_call>",
        re.compile(r"<arg_key>(?P<name>[^<]*)</arg_key>\s*<arg_value>"),
        "</arg_value>",
        lines=False,
    ),
)
