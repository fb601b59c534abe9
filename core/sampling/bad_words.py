"""Bad words: texts that are not produced, as the tokens that may not come next.

A word is tokenized as it is and with one space in front (its own leading space is not looked at), and each of the token sequences
that result is forbidden: a single token always, a longer one by forbidding its last token where the output ends with those before
it. Only the output is looked at, never the prompt. Like vLLM's, this bans ways of spelling a text, not the text itself:
other tokens may still add up to it. Unlike vLLM, the sequence with the space is always taken, not only where it is as long as the
other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import RecordError
from ..types.request import Sequence

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer

#: Most token sequences of one record.
MAX_SEQUENCES = 128
#: Lists of words that are remembered at a time.
CAPACITY = 1024


@dataclass(frozen=True)
class BadWords:
    """The token sequences of one list of words."""

    singles: frozenset[int]
    longer: dict[int, list[tuple[list[int], int]]]
    """The last token but one -> (all but the last, the last)."""

    @classmethod
    def of(cls, sequences: list[list[int]]) -> BadWords:
        longer: dict[int, list[tuple[list[int], int]]] = {}
        for tokens in sequences:
            if len(tokens) > 1:
                longer.setdefault(tokens[-2], []).append((tokens[:-1], tokens[-1]))
        return cls(frozenset(tokens[0] for tokens in sequences if len(tokens) == 1), longer)

    def banned(self, sequence: Sequence) -> frozenset[int]:
        """Tokens that may not come next. Costs a look at the newest token, and at more of them where it is part of a word."""
        if not self.longer or not sequence.num_output:
            return self.singles
        tokens, length = sequence.tokens, sequence.num_output
        candidates = self.longer.get(tokens[-1])
        if not candidates:
            return self.singles
        return self.singles.union(last for before, last in candidates if len(before) <= length and tokens[-len(before) :] == before)


class BadWordBook:
    """Lists of words, each tokenized once.

    Args:
        tokenizer: None where there is none: such lists are then refused.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[str, ...], BadWords] = {}

    def of(self, words: tuple[str, ...]) -> BadWords:
        """Raises RecordError (invalid_value) for too many words, and where there is no tokenizer."""
        known = self._known.get(words)
        if known is None:
            known = BadWords.of(token_sequences(words, self._tokenizer))
            if len(self._known) >= CAPACITY:
                self._known.clear()
            self._known[words] = known
        return known


def token_sequences(words: tuple[str, ...], tokenizer: Tokenizer | None) -> list[list[int]]:
    """The different token sequences of `words`, at most MAX_SEQUENCES. Raises RecordError (invalid_value, invalid_encoding)."""
    if tokenizer is None:
        raise RecordError("invalid_value", "bad_words need a tokenizer, and there is none", param="bad_words")
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        bare = word.lstrip()
        for text in (bare, f" {bare}") if bare else (word,):
            tokens = tokenizer.encode(text, add_special_tokens=False)
            if tokens:
                found[tuple(tokens)] = None
        if len(found) > MAX_SEQUENCES:
            raise RecordError("invalid_value", f"bad_words: more than {MAX_SEQUENCES} token sequences", param="bad_words")
    return [list(tokens) for tokens in found]
