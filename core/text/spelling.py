"""Spelling of outputs: the bytes that each token adds to the text, and names for tokens.

A token is no text: it may be part of a character, be left out of the text (special ones), look like another token, or be spelled
differently where it stands. Log-probabilities are told of tokens, so they go by what is worked out here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING

from .detokenizer import UTF8, Detokenizer, decode_all, unfinished_bytes
from .pieces import escaped, name_of

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

#: Kept tokens before one that are looked at for what it adds, where a decoder is not additive.
_CONTEXT = 5


class Spelling:
    """The tokens of one output where they stand. Joined, `pieces` are the bytes of the text, and of what a stop string cut off it.

    Args:
        tokenizer: None: tokens have numbers only.
        prompt_ids: what stands before the output.
        text: the output's, if it was made: it shows whether a last token that ended the output is part of it.
        ended: the output ended at a token or at its grammar's end, not at a stop string and not at its length.
        skip_special_tokens, spaces_between_special_tokens: as the text was made.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        prompt_ids: Sequence[int],
        token_ids: Sequence[int],
        *,
        text: str | None = None,
        ended: bool = False,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt_ids
        self._ids = token_ids
        self._text = text
        self._skip, self._spaces = skip_special_tokens, spaces_between_special_tokens
        self._bytes = None if tokenizer is None else tokenizer.pieces(skip_special_tokens)
        #: Output tokens before which nothing of the text is written, where a text's beginning is spelled in another way.
        self._first = 0
        self.pieces = self._drawn()
        if ended and text is not None and self.pieces and self.pieces[-1] and text == self._text_without_last():
            self.pieces[-1] = b""

    @cached_property
    def offsets(self) -> list[int]:
        """For each token the place in the text, in characters, of the character in which it begins."""
        before = b"" if self._bytes is None else unfinished_bytes(self._bytes, self._prompt)
        return offsets_of(self.pieces, before)

    def without(self, tokens: frozenset[int]) -> str:
        """The text without what some tokens wrote. Text that only looks like them stays."""
        assert self._text is not None
        begins = [0, *self.offsets[1:]][: len(self._ids)]
        spans = zip(self._ids, begins, [*begins[1:], len(self._text)][: len(self._ids)], strict=True)
        return "".join([self._text[start:end] for token, start, end in spans if token not in tokens])

    def adds(self, place: int, token: int) -> bytes:
        """The bytes that `token` adds, or would have added, at a place of the output."""
        if token == self._ids[place]:
            return self.pieces[place]
        if self._tokenizer is None:
            return b""
        if self._bytes is not None:
            return self._bytes.first(token) if place < self._first else self._bytes[token]
        if not self._keeps(token):
            return b""
        context = self._context(place)
        before, after = self._decode(context), self._decode([*context, token])
        if "\ufffd" in after:
            return self._tokenizer.token_bytes(token)
        common = len(before)
        while not after.startswith(before[:common]):
            common -= 1
        return after[common:].encode("utf-8", "replace")

    def names(self, place: int, tokens: Iterable[int]) -> dict[int, str]:
        """Token -> its name at a place of the output; no two have the same.

        A name is the text that the token adds, or by itself is where it adds none. What is no text, or a name that an earlier token
        has, is spelled as bytes (`bytes:\\xf0\\x9f`); where that too is taken, and for tokens without any text, as `token_id:5`.
        """
        names: dict[int, str] = {}
        taken: set[str] = set()
        if self._bytes is not None and place >= self._first:  # what a token adds is what it is alone, or nothing
            assert self._tokenizer is not None
            name_of_token = self._tokenizer.token_name
            names = {token: name_of_token(token) for token in tokens}
            taken = {"", *names.values()}
            if len(taken) > len(names):
                return names
            tokens, names, taken = list(names), {}, set()
        for token in tokens:
            data = self.adds(place, token) or self._alone(token)
            name = name_of(data) if data else f"token_id:{token}"
            if name in taken:
                name = escaped(data)
            if name in taken:
                name = f"token_id:{token}"
            taken.add(name)
            names[token] = name
        return names

    def _alone(self, token: int) -> bytes:
        return b"" if self._tokenizer is None else self._tokenizer.token_bytes(token)

    def _drawn(self) -> list[bytes]:
        if self._tokenizer is None:
            return [b""] * len(self._ids)
        pieces = self._bytes
        if pieces is None:
            return self._drawn_in_windows(self._tokenizer)
        drawn = [pieces[token] for token in self._ids]
        if pieces.rules.treats_start and not any(pieces[token] for token in reversed(self._prompt)):
            first = next((i for i, piece in enumerate(drawn) if piece), len(drawn))
            self._first = first + 1
            if first < len(drawn):
                drawn[first] = pieces.first(self._ids[first])
        return drawn

    def _drawn_in_windows(self, tokenizer: Tokenizer) -> list[bytes]:
        """The pieces if the decoder is not additive: the text that came with each token. Tokens that came to text only together have each
        their own bytes, if that is what the text is made of; else it belongs to the last of them."""
        stream = Detokenizer(tokenizer, self._prompt, skip_special_tokens=self._skip, spaces_between_special_tokens=self._spaces)
        drawn = [b""] * len(self._ids)
        waiting: list[int] = []
        for place, token in enumerate(self._ids):
            if not self._keeps(token):
                continue
            waiting.append(place)
            if text := stream.push([token]):
                self._share(text, waiting, drawn)
                waiting = []
        if waiting:
            self._share(stream.finish(), waiting, drawn)
        return drawn

    def _share(self, text: str, places: list[int], drawn: list[bytes]) -> None:
        own = [self._alone(self._ids[place]) for place in places]
        if b"".join(own).decode("utf-8", "replace") != text:
            own = [*[b""] * (len(places) - 1), text.encode("utf-8", "replace")]
        for place, piece in zip(places, own, strict=True):
            drawn[place] = piece

    def _context(self, place: int) -> list[int]:
        """The last kept tokens before a place."""
        before = chain((self._ids[i] for i in range(place - 1, -1, -1)), reversed(self._prompt))
        return list(islice(filter(self._keeps, before), _CONTEXT))[::-1]

    def _keeps(self, token: int) -> bool:
        assert self._tokenizer is not None
        return not (self._skip and token in self._tokenizer.special_ids) and self._tokenizer.has(token)

    def _decode(self, ids: Sequence[int]) -> str:
        assert self._tokenizer is not None
        return self._tokenizer.decode(ids, skip_special_tokens=False, spaces_between_special_tokens=self._spaces)

    def _text_without_last(self) -> str:
        assert self._tokenizer is not None
        return decode_all(
            self._tokenizer,
            self._prompt,
            self._ids[:-1],
            skip_special_tokens=self._skip,
            spaces_between_special_tokens=self._spaces,
        )


def offsets_of(pieces: Iterable[bytes], before: bytes) -> list[int]:
    """For each piece the number of the character that its first byte belongs to; `before` is the beginning of a character that the
    prompt left half written. What is no UTF-8 counts as in `bytes.decode` with "replace"."""
    decoder = UTF8("replace")
    decoder.decode(before)
    inside = of_prompt = bool(before)
    count, offsets = 0, []
    for piece in pieces:
        start = count
        if not inside:
            try:
                count += len(piece.decode("utf-8"))
            except UnicodeDecodeError:
                pass
            else:
                offsets.append(start)
                continue
        for i, byte in enumerate(piece):
            given, is_open = len(decoder.decode(bytes((byte,)))), bool(decoder.getstate()[0])
            own = not is_open  # a character that this byte completes
            if inside and given > own:  # what was begun before is no character, and this byte begins the next
                count += given - own - of_prompt
            if i == 0:
                start = count
            count += own
            inside, of_prompt = is_open, of_prompt and not given
        offsets.append(start)
    return offsets
