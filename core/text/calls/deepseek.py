"""Calls of DeepSeek V3, R1 and V3.1, as their chat templates write them.

V3 and R1: <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME, a fence of JSON, <｜tool▁call▁end｜>.
V3.1: <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜>.
All calls stand between <｜tool▁calls▁begin｜> and <｜tool▁calls▁end｜>.
"""

from __future__ import annotations

import re

from .marked import Marked
from .parser import ToolCallParser

_BEGIN, _SEP, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_ALL = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_V3 = Marked(re.compile(rf"{_BEGIN}\w*{_SEP}(?P<name>[^\n<]+)\n```json\n"), re.compile(rf"\s*```\s*{_END}"))
_V31 = Marked(re.compile(rf"{_BEGIN}(?P<name>[^\n<]+){_SEP}"), re.compile(rf"\s*{_END}"))

V3 = ToolCallParser(_V3, (*_ALL, _BEGIN, _SEP, _END), dropped=_ALL)
V31 = ToolCallParser(_V31, (*_ALL, _BEGIN, _SEP, _END), dropped=_ALL)
