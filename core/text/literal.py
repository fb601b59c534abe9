"""Literal text that only looks like a special token: `<|im_end|>` in a user's message must not end the user's turn.

The text of a prompt comes from two hands: the chat template, whose control tokens are meant, and the record, whose text is only
text. They are told apart by marks: `mark` puts them between the characters of every place in the record's text that spells a special token,
and where a string ends in the beginning of one (two strings side by side could spell it together). After the template has run,
`settle` takes a whole spelling for a control token, which it writes as a name of our own, and removes the marks. `encode` then
reads our names as those tokens and everything else as text.

Marks and names are random digits (which templates do not change), new in each process: nobody can write one into a record. They
are gone before anything is tokenized or mapped back to the real ids, so no result depends on them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, RecordError
from .fitting import Fitting, Piece

if TYPE_CHECKING:
    import tokenizers

_DIGITS = 30


class LiteralText:
    """One tokenizer's special tokens, and how to keep text from being taken for them.

    Raises ConfigError for a tokenizer that is not of the `tokenizers` library, which cannot do it.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        import tokenizers

        if not isinstance(backend, tokenizers.Tokenizer):
            raise ConfigError("literal special tokens need a tokenizer.json; this tokenizer is a slow one and has none")
        added = backend.get_added_tokens_decoder()
        special = {i: token for i, token in added.items() if token.special and token.content}
        self._spellings = {i: token.content for i, token in special.items()}
        self._mark, self._mark_single, name = _random_digits(), _random_digits(), _random_digits()
        self._names = {token.content: f"{name}{i:010d}" for i, token in special.items()}
        # The longest spelling wins, as in the library.
        longest_first = sorted(special.values(), key=lambda token: -len(token.content))
        never = "(?!)"
        self._anywhere = re.compile(f"(?=({'|'.join(re.escape(token.content) for token in longest_first) or never}))")
        self._meant = re.compile("|".join(map(self._pattern, longest_first)) or never)
        self._beginnings = frozenset(t.content[:n] for t in special.values() for n in range(1, len(t.content)))
        self._longest = max((len(t.content) for t in special.values()), default=0)
        try:
            self._backend = tokenizers.Tokenizer.from_str(backend.to_str())
        except Exception as e:  # a part written in Python has no JSON form
            raise ConfigError(f"literal special tokens are not possible with this tokenizer: {e}") from e
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True  # special tokens are text
        named = [
            tokenizers.AddedToken(self._names[t.content], special=False, normalized=False, lstrip=t.lstrip, rstrip=t.rstrip)
            for t in special.values()
        ]
        self._backend.add_tokens(named)
        #: Texts and pairs as `encode` reads them, cut where they are too long.
        self.fitting = Fitting(self._backend, self._ids)
        self._real_id = {self._backend.token_to_id(self._names[t.content]): i for i, t in special.items()}

    def mark(self, value: Any) -> Any:
        """A copy of a JSON value in which every string, keys included, is marked where it needs to be."""
        if isinstance(value, str):
            return self._mark_text(value)
        if isinstance(value, list):
            return [self.mark(item) for item in value]
        if isinstance(value, dict):
            return {self.mark(key): self.mark(item) for key, item in value.items()}
        return value

    def settle(self, text: str) -> str:
        """A rendered prompt for `encode`: unmarked spellings named, marks removed."""
        named = self._meant.sub(lambda match: self._names[match.group()], text)
        return named.replace(self._mark, "").replace(self._mark_single, "")

    def plain(self, text: str) -> str:
        """A settled prompt as one would read it."""
        for spelling, name in self._names.items():
            text = text.replace(name, spelling)
        return text

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """The ids of settled prompts, or of texts in which nothing is a control token.

        Raises RecordError (unsupported) where the tokenizer has no other way to write a text than with a special token.
        """
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [self._ids(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def _ids(self, piece: Piece, encoding: tokenizers.Encoding) -> list[int]:
        # Some models (Unigram) have their special tokens among the pieces that text is made of.
        if not self._spellings.keys().isdisjoint(encoding.ids):
            texts = (piece,) if isinstance(piece, str) else piece
            added, of = encoding.special_tokens_mask, encoding.sequence_ids
            for i, token_id in enumerate(encoding.ids):
                start, end = encoding.offsets[i]
                text = texts[of[i] or 0]
                if not added[i] and token_id in self._spellings and text[start:end].strip() == self._spellings[token_id].strip():
                    raise RecordError("unsupported", f"this tokenizer cannot write {self._spellings[token_id]!r} as plain text")
        return [self._real_id.get(i, i) for i in encoding.ids]

    def _pattern(self, token: tokenizers.AddedToken) -> str:
        """A regular expression for the token where a template means it."""
        spelling = re.escape(token.content)
        if len(token.content) == 1:  # no room for a mark inside
            spelling = f"(?<!{self._mark_single}){spelling}"
        return rf"(?<!\w){spelling}(?!\w)" if token.single_word else spelling

    def _mark_text(self, text: str) -> str:
        inside: set[int] = set()
        singles: set[int] = set()
        for match in self._anywhere.finditer(text):
            # All tokens that begin here are broken with the longest, but for one of a single character.
            inside.update(range(match.start() + 1, match.start() + len(match.group(1))))
            if match.group(1)[0] in self._names:
                singles.add(match.start())
        tail = next((n for n in range(min(self._longest, len(text)), 0, -1) if text[-n:] in self._beginnings), 0)
        inside.update(range(len(text) - tail + 1, len(text) + 1) if tail else ())
        if not inside and not singles:
            return text
        marks = (self._mark * (i in inside) + self._mark_single * (i in singles) for i in range(len(text) + 1))
        return "".join(mark + char for mark, char in zip(marks, [*text, ""], strict=True))


def _random_digits() -> str:
    return str(secrets.randbelow(9 * 10 ** (_DIGITS - 1)) + 10 ** (_DIGITS - 1))
