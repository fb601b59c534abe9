"""Labels as token sequences: how a model may write each of some labels after a prompt.

A word begins with its blank in most vocabularies: after `Sentiment:` many a model writes ` positive`, one token, and others `positive`. So
a label counts in both spellings where the prompt ends without a blank, and as it is written where the prompt ends with one, or the label
begins with one. Its probability is the sum over its spellings: the probability that the text begins with it, a leading blank aside.

A label may begin another (`1` and `10`): what goes on as the longer one is taken off the shorter, so that no probability counts twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import RecordError

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

#: Most labels of a record.
MAX_LABELS = 1024
#: Text that others stand behind, so that they are not tokenized as the beginning of a text.
_BEFORE = "\n"
_PARAM = "labels"

Way = tuple[int, ...]


@dataclass(frozen=True)
class Ways:
    """All ways to write some labels.

    Args:
        tokens: each one's token ids.
        owners: the place of the label that each is of.
        longer: for each the places of those that go on where it ends, without any between them.
    """

    tokens: tuple[Way, ...]
    owners: tuple[int, ...]
    longer: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, spelled: Sequence[Sequence[Way]], labels: Sequence[str]) -> Ways:
        """Args: spelled: for each label its ways. Raises RecordError where two labels have one in common."""
        owners: dict[Way, int] = {}
        for place, ways in enumerate(spelled):
            for way in ways:
                if owners.setdefault(way, place) != place:
                    message = f"{labels[owners[way]]!r} and {labels[place]!r} are written with the same tokens: leave one out"
                    raise RecordError("invalid_value", f"labels: {message}", param=_PARAM)
        tokens = tuple(owners)
        places = {way: i for i, way in enumerate(tokens)}
        longer: list[list[int]] = [[] for _ in tokens]
        for way in tokens:
            shorter = next((way[:end] for end in range(len(way) - 1, 0, -1) if way[:end] in places), None)
            if shorter is not None:
                longer[places[shorter]].append(places[way])
        return cls(tokens, tuple(owners.values()), tuple(map(tuple, longer)))

    def logprobs(self, given: Sequence[float]) -> list[float]:
        """The log-probability of each label, from those of the ways to write them, in their order. -inf: it cannot be written."""
        found: list[list[float]] = [[] for _ in range(max(self.owners) + 1)]
        for own, owner, longer in zip(given, self.owners, self.longer, strict=True):
            found[owner].append(_less(own, [given[place] for place in longer]))
        return [log_sum(values) for values in found]


@dataclass(frozen=True)
class LabelSet:
    """Some labels, with the ways to write them after a prompt.

    Args:
        after_blank: where the prompt ends with a blank.
        otherwise: where it does not.
    """

    labels: tuple[str, ...]
    after_blank: Ways
    otherwise: Ways

    @classmethod
    def of(cls, labels: Sequence[str], tokenizer: Tokenizer, *, literal: bool = False) -> LabelSet:
        """Raises RecordError (invalid_type, invalid_value, invalid_encoding; param labels).

        Args:
            literal: a label that spells a special token is only text.
        """
        names = checked(labels)
        spelled: list[list[list[Way]]] = [[], []]
        for name in names:
            bare, blank = (_ids(text, tokenizer, literal=literal) for text in (name, f" {name}"))
            if not bare:
                raise RecordError("invalid_value", f"label {name!r} has no tokens", param=_PARAM)
            spelled[0].append([bare])
            spelled[1].append([bare] if name[0].isspace() else list(dict.fromkeys([bare, blank])))
        return cls(names, *(Ways.of(ways, names) for ways in spelled))

    @property
    def longest(self) -> int:
        """Tokens of the longest way to write one."""
        return max(map(len, self.otherwise.tokens))

    def ways(self, *, after_blank: bool) -> Ways:
        return self.after_blank if after_blank else self.otherwise


def checked(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that can be told apart. Raises RecordError (invalid_type, invalid_value; param labels)."""
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise RecordError("invalid_type", "labels must be a list of strings", param=_PARAM)
    if not labels:
        raise RecordError("invalid_value", "labels is empty: there is nothing to choose from", param=_PARAM)
    if len(labels) > MAX_LABELS:
        raise RecordError("invalid_value", f"labels has {len(labels):,} labels; at most {MAX_LABELS:,} are compared", param=_PARAM)
    seen: set[str] = set()
    for label in labels:
        if not label.strip():
            raise RecordError("invalid_value", f"label {label!r} is {'blank' if label else 'empty'}", param=_PARAM)
        if label.lstrip() in seen:
            raise RecordError("invalid_value", f"label {label[:100]!r} is there twice, a leading blank aside", param=_PARAM)
        seen.add(label.lstrip())
    return tuple(labels)


def ends_with_blank(ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    """True if the text of a prompt ends with a blank or a line break."""
    return tokenizer.token_text(ids[-1])[-1:].isspace()


def log_sum(values: Sequence[float]) -> float:
    """log(sum(exp(values))), in this order."""
    most = max(values)
    return most if most == -math.inf else most + math.log(sum(math.exp(value - most) for value in values))


def _less(logprob: float, others: Sequence[float]) -> float:
    """log(exp(logprob) - sum(exp(others)))"""
    if logprob == -math.inf or not others:
        return logprob
    rest = 1 - sum(math.exp(other - logprob) for other in others)
    return logprob + math.log(rest) if rest > 0 else -math.inf


def _ids(text: str, tokenizer: Tokenizer, *, literal: bool) -> Way:
    """The token ids of a text behind another."""

    def encode(one: str) -> list[int]:
        if literal:
            return tokenizer.encode_literal([one], add_special_tokens=False)[0]
        return tokenizer.encode(one, add_special_tokens=False)

    before, both = encode(_BEFORE), encode(_BEFORE + text)
    # Where the two are joined in one token, or blanks are not kept, it is tokenized by itself.
    return tuple(both[len(before) :] if both[: len(before)] == before and len(both) > len(before) else encode(text))
