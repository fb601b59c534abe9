"""Function calls in the text of a model: a parser for each form, by the name that vLLM gives it."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import ConfigError, nearest
from . import (
    deepseek,
    ernie45,
    gemma4,
    glm45,
    granite,
    harmony,
    hermes,
    internlm,
    jamba,
    kimi_k2,
    llama3,
    minimax_m2,
    mistral,
    olmo3,
    phi4_mini,
    pythonic,
    qwen3_coder,
    xlam,
)
from .parser import ToolCallParser

PARSERS: Mapping[str, ToolCallParser] = {
    "deepseek_v3": deepseek.V3,
    "deepseek_v31": deepseek.V31,
    "ernie45": ernie45.PARSER,
    "gemma4": gemma4.PARSER,
    "glm45": glm45.PARSER,
    "glm47": glm45.PARSER,
    "granite": granite.PARSER,
    "hermes": hermes.PARSER,
    "internlm": internlm.PARSER,
    "jamba": jamba.PARSER,
    "kimi_k2": kimi_k2.PARSER,
    "llama3_json": llama3.PARSER,
    "llama4_json": llama3.PARSER,
    "llama4_pythonic": pythonic.PARSER,
    "minimax_m2": minimax_m2.PARSER,
    "mistral": mistral.PARSER,
    "olmo3": olmo3.PARSER,
    "openai": harmony.PARSER,
    "phi4_mini_json": phi4_mini.PARSER,
    "pythonic": pythonic.PARSER,
    "qwen3_coder": qwen3_coder.PARSER,
    "qwen3_xml": qwen3_coder.PARSER,
    "seed_oss": qwen3_coder.SEED_OSS,
    "xlam": xlam.PARSER,
}
#: What the chat template of a model says about calls -> its parser, None where we have none; the first that is found counts.
_SIGNS: Mapping[str, str | None] = {
    "]<]minimax[>[": None,  # M3's form, which looks like others
    "<｜tool▁sep｜>": "deepseek_v31",
    "<|tool_calls_section_begin|>": "kimi_k2",
    "<minimax:tool_call>": "minimax_m2",
    "<seed:tool_call>": "seed_oss",
    "<function=": "qwen3_coder",
    "<arg_key>": "glm45",
    "<|action_start|>": "internlm",
    "<function_calls>": "olmo3",
    "<|tool_call>": "gemma4",
    "<|tool_call|>": "granite",
    "<tool_calls>": "jamba",
    "functools": "phi4_mini_json",
    "<response>": "ernie45",
    "<tool_call>": "hermes",
    "[TOOL_CALLS]": "mistral",
    "<|channel|>": "openai",
    "<|python_start|>": "llama4_pythonic",
    "<|python_tag|>": "llama3_json",
    '"parameters": dictionary of argument name': "llama3_json",
}
#: Takes the parser that the chat template points to.
AUTO = "auto"


def tool_call_parser(name: str) -> ToolCallParser:
    """The parser of that name. Raises ConfigError naming those there are."""
    if name not in PARSERS:
        raise ConfigError(f"unknown tool-call parser {name!r}{nearest(name, PARSERS)}; available: {AUTO}, {', '.join(PARSERS)}")
    return PARSERS[name]


def parser_of(template: str) -> str | None:
    """The name of the parser for a model with this chat template; None where the template does not say how calls are written."""
    for sign, name in _SIGNS.items():
        if sign in template:
            return "deepseek_v3" if name == "deepseek_v31" and "```json" in template else name
    return None
