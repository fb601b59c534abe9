"""Thinking budgets: after so many tokens of reasoning the text that ends it is forced.

Reasoning is found in the text, so a marker may be one special token or several plain ones. Where an output stands is a function of its
tokens alone, and what is forced is the only token that may come next: no schedule has a say in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..text.detokenizer import Detokenizer, decode_all
from ..text.reasoning import reasoning_parser

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Thinking:
    """The marks of a model's reasoning.

    Args:
        starts, ends: texts, any of which begins it, or ends it.
        forced: token ids that end it once the budget is spent.
        always: an output whose prompt says neither is reasoning from its first token.
        borders: ids of special tokens that are no marks: what stands before one is another message.
    """

    tokenizer: Tokenizer
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    forced: tuple[int, ...]
    always: bool
    borders: frozenset[int]

    @classmethod
    def of(cls, config: Mapping[str, Any], tokenizer: Tokenizer | None) -> Thinking | None:
        """The marks that the setting `reasoning_config` says; None where it says nothing, or there is no tokenizer.

        Raises ConfigError.
        """
        if not config or tokenizer is None:
            return None
        starts, ends, end, always = list[str](), list[str](), "", False
        if (name := config.get("reasoning_parser")) is not None:
            parser = reasoning_parser(name)
            starts, ends = [parser.start, *parser.also[0]], [parser.end, *parser.also[1], *parser.stops]
            end, always = parser.end, parser.always
        if (start := config.get("reasoning_start_str")) is not None:
            starts = [start]
        if (text := config.get("reasoning_end_str")) is not None:
            end = text
            ends = ends or [text]
        marks = {*starts, *ends}
        borders = frozenset(i for i in tokenizer.special_ids if not any(tokenizer.token_text(i) in mark for mark in marks))
        forced = tuple(tokenizer.encode(end, add_special_tokens=False))
        if not starts or not forced:
            raise ConfigError("reasoning_config: reasoning_start_str and reasoning_end_str go together, or name a reasoning_parser")
        return cls(tokenizer, tuple(starts), tuple(ends), forced, always, borders)

    def last_mark(self, text: str) -> tuple[bool | None, int]:
        """(True if the last mark in a text begins reasoning, False if it ends it, None if there is none; where it ends)."""
        start = max((place + len(mark) for mark in self.starts if (place := text.rfind(mark)) >= 0), default=-1)
        end = max((place + len(mark) for mark in self.ends if (place := text.rfind(mark)) >= 0), default=-1)
        return (None, 0) if start == end == -1 else (start > end, max(start, end))


class ThinkingPlace:
    """The place of one output in its reasoning: how much of its budget it has spent.

    Reasoning that the prompt leaves open, as one that is to be continued does, counts too. Where reasoning begins again after its end
    it has the whole budget again, as in vLLM.
    """

    __slots__ = ("_budget", "_count", "_fresh", "_inside", "_marks", "_next", "_num_seen", "_tail", "_text")

    def __init__(self, marks: Thinking, budget: int, prompt_ids: Sequence[int]) -> None:
        self._marks = marks
        self._budget = budget
        self._num_seen = len(prompt_ids)
        self._count = 0
        """Tokens since the reasoning began."""
        self._next = -1
        """The forced token that is due; -1: none is."""
        self._tail = ""
        """The end of the text in which a mark may have begun."""
        begin = next((place + 1 for place in range(len(prompt_ids) - 1, -1, -1) if prompt_ids[place] in marks.borders), 0)
        message = prompt_ids[begin:]
        said, _ = marks.last_mark(decode_all(marks.tokenizer, (), message, skip_special_tokens=False))
        self._inside = marks.always if said is None else said
        self._fresh = said is None and marks.always
        """Nothing but a start may have come, which then begins what is counted."""
        if said:
            self._text = Detokenizer(marks.tokenizer, prompt_ids[:begin], skip_special_tokens=False)
            self._inside = False
            for token in message:
                self._fresh = True  # of a prompt the last start counts, of an output the first: none is a way out of the budget
                self._push(token)
            self._fresh = False
        else:
            self._text = Detokenizer(marks.tokenizer, prompt_ids, skip_special_tokens=False)

    def due(self, tokens: Sequence[int]) -> int | None:
        """The token that must come after prompt and output, if the budget is spent."""
        for token in tokens[self._num_seen :]:
            self._push(token)
        self._num_seen = len(tokens)
        forced = self._marks.forced
        if self._next < 0:
            if not self._inside or self._count < self._budget or self._may_begin():
                return None
            # What the model has begun to say by itself is not said again.
            most = min(len(forced) - 1, self._count)
            self._next = next((n for n in range(most, 0, -1) if tuple(tokens[len(tokens) - n :]) == forced[:n]), 0)
        return forced[self._next]

    def _may_begin(self) -> bool:
        """True if the output so far is a part of the mark that reasoning may begin with: it is not cut in two."""
        seen = self._tail.lstrip() if self._fresh else ""
        return bool(seen) and any(mark.startswith(seen) for mark in self._marks.starts)

    def _push(self, token: int) -> None:
        text = self._text.push([token])
        if self._next >= 0:
            self._next += 1
            if self._next == len(self._marks.forced):
                self._inside, self._next, self._tail = False, -1, ""
            return
        self._count += 1
        self._tail += text
        said, end = self._marks.last_mark(self._tail)
        if said is not None:
            if said and (not self._inside or self._fresh):
                self._count = 0
            self._inside, self._fresh, self._tail = said, False, self._tail[end:]
        elif self._fresh and self._tail.strip() and not self._may_begin():
            self._fresh = False
        longest = max(map(len, (*self._marks.starts, *self._marks.ends)))
        self._tail = self._tail[-longest:]
