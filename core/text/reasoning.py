"""Reasoning parsers: split a model's reasoning from its answer (`<think>…</think>` and its relatives).

Plain text in, plain text out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigError, nearest
from .json_spans import outside


@dataclass(frozen=True)
class ReasoningParser:
    """One way of marking reasoning; the names are vLLM's.

    Args:
        start, end: around the reasoning.
        always: an output without `start` is reasoning from its first character, as such a model's template or habit leaves it out.
    """

    start: str
    end: str
    always: bool = False

    @property
    def markers(self) -> tuple[str, str]:
        """Texts that the reasoning may begin and end with as special tokens."""
        return self.start, self.end

    def opened_by(self, prompt: str) -> bool | None:
        """True if a prompt ends with the start of the reasoning, so that the output is inside; False if with the end, else None."""
        tail = prompt.rstrip()
        return True if tail.endswith(self.start) else False if tail.endswith(self.end) else None

    def left_open(self, text: str) -> bool:
        """True if a message to be continued stops inside its reasoning."""
        return max(outside(text, self.start), default=-1) > max(outside(text, self.end), default=-1)

    def split(self, text: str, *, inside: bool | None = None) -> tuple[str | None, str | None]:
        """(reasoning, content) of an output, each as it was written (blank lines too), None where there is nothing.

        Reasoning begins at `start`, if that is the first thing in the output; at once if the prompt opened it (`inside`, as
        `opened_by` says). Where the prompt did not say, it also begins at once if the model is one that always reasons, or if there
        is an `end` with no `start` before it. Reasoning that never ends, cut by max_tokens for example, is the whole output.
        Everything else is content. An `end` in a string of JSON, or in quotation marks of its own, ends nothing.
        """
        if text.lstrip().startswith(self.start):
            text = text.lstrip().removeprefix(self.start)
        elif inside is None and not self.always:
            first = next(outside(text, self.end), -1)
            if first < 0 or self.start in text[:first]:
                return None, text
        elif inside is False:
            return None, text
        end = next(outside(text, self.end), len(text))
        return text[:end] or None, text[end + len(self.end) :] or None


PARSERS: Mapping[str, ReasoningParser] = {
    "deepseek_r1": ReasoningParser("<think>", "</think>", always=True),
    "glm45": ReasoningParser("<think>", "</think>"),
    "mistral": ReasoningParser("[THINK]", "[/THINK]"),
    "qwen3": ReasoningParser("<think>", "</think>"),
    "seed_oss": ReasoningParser("<seed:think>", "</seed:think>", always=True),
}


def reasoning_parser(name: str) -> ReasoningParser:
    """The parser of that name. Raises ConfigError naming those there are."""
    if name not in PARSERS:
        raise ConfigError(f"unknown reasoning parser {name!r}{nearest(name, PARSERS)}; available: {', '.join(PARSERS)}")
    return PARSERS[name]
