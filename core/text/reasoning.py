"""Reasoning parsers: split a model's reasoning from its answer (`<think>…</think>` and its relatives).

Plain text in, plain text out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import ConfigError, nearest
from .calls import ernie45, gemma4, harmony, kimi_k2
from .json_spans import outside


@dataclass(frozen=True)
class ReasoningParser:
    """One way of marking reasoning; the names are vLLM's.

    Args:
        start, end: around the reasoning.
        always: an output without `start` is reasoning from its first character, as such a model's template or habit leaves it out.
        also: other spellings of `start` and of `end`.
        stops: what ends the reasoning too and belongs to what follows, as the start of a call.
        wrapper: around the answer, and left out of it.
    """

    start: str
    end: str
    always: bool = False
    also: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    stops: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that the reasoning, and the answer, may begin and end with as special tokens."""
        return self.start, self.end, *self.stops, *self.wrapper

    def opened_by(self, prompt: str) -> bool | None:
        """True if a prompt ends with the start of the reasoning, so that the output is inside; False if with the end, else None."""
        tail = prompt.rstrip()
        return True if tail.endswith(self.start.rstrip()) else False if tail.endswith(self.end) else None

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
        opening = next((start for start in (self.start, *self.also[0]) if text.lstrip().startswith(start)), None)
        if opening is not None:
            text = text.lstrip().removeprefix(opening)
        elif inside is None and not self.always:
            first, _ = self._first_end(text, stops=False)
            if first < 0 or self.start in text[:first]:
                return None, self._unwrapped(text)
        elif inside is False:
            return None, self._unwrapped(text)
        place, length = self._first_end(text, stops=True)
        if place < 0:
            return text or None, None
        return text[:place] or None, self._unwrapped(text[place + length :]) or None

    def _first_end(self, text: str, *, stops: bool) -> tuple[int, int]:
        """Where the reasoning ends, and the length of what ends it and is dropped; (-1, 0) if nowhere."""
        found = [(place, len(end)) for end in (self.end, *self.also[1]) if (place := next(outside(text, end), -1)) >= 0]
        found += [(place, 0) for stop in self.stops if stops and (place := next(outside(text, stop), -1)) >= 0]
        return min(found, default=(-1, 0))

    def _unwrapped(self, text: str) -> str:
        if not self.wrapper or not text.lstrip().startswith(self.wrapper[0]):
            return text
        inner = text.lstrip().removeprefix(self.wrapper[0]).lstrip("\n")
        end = max(outside(inner, self.wrapper[1]), default=-1)
        return inner if end < 0 else inner[:end].rstrip("\n") + inner[end + len(self.wrapper[1]) :].rstrip()


@dataclass(frozen=True)
class HarmonyReasoning(ReasoningParser):
    """gpt-oss's: messages in the channel `analysis` are reasoning. Calls stay in their form, for the parser that reads them."""

    @property
    def markers(self) -> tuple[str, ...]:
        return harmony.MARKERS

    def split(self, text: str, *, inside: bool | None = None) -> tuple[str | None, str | None]:
        """As `ReasoningParser.split`; a text without messages is content."""
        reasoning = [one.content for one in harmony.messages(text) if one.channel == "analysis" and one.recipient is None]
        content = "".join(self._content(text))
        return "\n".join(reasoning) or None, content or (None if reasoning else text)

    def _content(self, text: str) -> Iterator[str]:
        done = 0
        for one in harmony.messages(text):
            yield text[done : one.start]
            done = one.end
            if one.recipient is not None:
                yield text[one.start : one.end]
            elif one.channel != "analysis":
                yield one.content
        yield text[done:]


_THINK, _THOUGHT = "<think>", "</think>"
_GRANITE = "Here is my thought process:", "Here is my response:"

PARSERS: Mapping[str, ReasoningParser] = {
    "deepseek_r1": ReasoningParser(_THINK, _THOUGHT, always=True),
    "deepseek_v3": ReasoningParser(_THINK, _THOUGHT),
    "ernie45": ReasoningParser(_THINK, _THOUGHT, always=True, wrapper=ernie45.RESPONSE),
    "gemma4": ReasoningParser("<|channel>thought\n", "<channel|>", also=(("<|channel>thought", "<|channel>"), ()), stops=(gemma4.OPEN,)),
    "glm45": ReasoningParser(_THINK, _THOUGHT),
    "granite": ReasoningParser(*_GRANITE, also=(("Here's my thought process:",), ("Here's my response:",))),
    "hunyuan_a13b": ReasoningParser(_THINK, _THOUGHT, wrapper=("<answer>", "</answer>")),
    "kimi_k2": ReasoningParser(_THINK, _THOUGHT, stops=(kimi_k2.SECTION,)),
    "minimax_m2": ReasoningParser(_THINK, _THOUGHT, always=True),
    "mistral": ReasoningParser("[THINK]", "[/THINK]"),
    "nemotron_v3": ReasoningParser(_THINK, _THOUGHT),
    "olmo3": ReasoningParser(_THINK, _THOUGHT, always=True),
    "openai_gptoss": HarmonyReasoning("<|channel|>analysis<|message|>", "<|end|>"),
    "qwen3": ReasoningParser(_THINK, _THOUGHT),
    "seed_oss": ReasoningParser("<seed:think>", "</seed:think>", always=True),
    "step3": ReasoningParser(_THINK, _THOUGHT, always=True),
}


def reasoning_parser(name: str) -> ReasoningParser:
    """The parser of that name. Raises ConfigError naming those there are."""
    if name not in PARSERS:
        raise ConfigError(f"unknown reasoning parser {name!r}{nearest(name, PARSERS)}; available: {', '.join(PARSERS)}")
    return PARSERS[name]
