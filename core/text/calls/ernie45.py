"""Calls of ERNIE 4.5: Hermes' form, and the text beside them between <response> tags, as its chat template writes them."""

from __future__ import annotations

from .hermes import CLOSE, OPEN, hermes
from .parser import ToolCallParser

RESPONSE = ("<response>", "</response>")

PARSER = ToolCallParser(hermes, (OPEN, CLOSE, *RESPONSE), dropped=RESPONSE)
