"""Detokenizer: token ids to text, a few at a time or all at once, with the same result.

The text of an output is the text of prompt and output together, less what the two have in common with the text of the prompt
alone. So a leading space that the tokenizer would strip at the beginning of a text stays when a prompt stands before
it, and a character the prompt left half written belongs to the output that completes it.

Bytes that are no UTF-8 become U+FFFD, one per ill-formed piece as in Python and WHATWG; valid characters beside them stay. (The
`tokenizers` library turns a whole run of byte-fallback tokens into U+FFFD when any of it is ill-formed, also characters
already given out; taking text back is not possible for an incremental decoder.)
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pieces import Pieces
    from .tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
UTF8 = codecs.getincrementaldecoder("utf-8")

#: Kept tokens of context before the ones being decoded (general way).
_CONTEXT = 5
#: A UTF-8 character has at most 4 bytes, hence 4 tokens: text still ending in U+FFFD after as many tokens holds a real one.
_HOLD_BYTES = 4
#: Tokens that add no text, or change earlier text, are waited for no longer than this.
_HOLD = 8


class Detokenizer:
    """The text of one choice as its tokens come; O(1) amortized per token.

    Args:
        tokenizer: spells the ids.
        prompt_ids: what stands before the output; only its tail is looked at.
        skip_special_tokens: leave special tokens out of the text.
        spaces_between_special_tokens: what a slow tokenizer writes around them; others are not asked.
    """

    __slots__ = ("_parts", "_stream")

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, skip_special_tokens: bool, spaces_between_special_tokens: bool = True
    ) -> None:
        pieces = tokenizer.pieces(skip_special_tokens)
        self._stream: _ByteStream | _WindowStream
        if pieces is not None:
            self._stream = _ByteStream(pieces, prompt_ids)
        else:
            self._stream = _WindowStream(tokenizer, prompt_ids, skip_special_tokens, spaces_between_special_tokens)
        self._parts: list[str] = []

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes more tokens; returns the text they completed ("" while a character is incomplete)."""
        text = self._stream.push(token_ids)
        if text:
            self._parts.append(text)
        return text

    def finish(self) -> str:
        """Returns what was held back; incomplete bytes become U+FFFD. No tokens may follow."""
        text = self._stream.finish()
        if text:
            self._parts.append(text)
        return text

    @property
    def text(self) -> str:
        """All text given out so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""


def decode_all(
    tokenizer: Tokenizer,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    *,
    skip_special_tokens: bool,
    spaces_between_special_tokens: bool = True,
) -> str:
    """The whole text of an output: what a Detokenizer gives for any split of it, in one go."""
    whole = Detokenizer(
        tokenizer,
        prompt_ids,
        skip_special_tokens=skip_special_tokens,
        spaces_between_special_tokens=spaces_between_special_tokens,
    )
    return whole.push(output_ids) + whole.finish()


def unfinished_bytes(pieces: Pieces, prompt_ids: Sequence[int]) -> bytes:
    """The bytes of the character that a prompt ends inside of; none where it ends with a whole one."""
    tail = b""
    for token_id in reversed(prompt_ids):
        if len(tail) >= 3:  # an incomplete character is at most 3 bytes long
            break
        tail = pieces[token_id] + tail
    decoder = UTF8("replace")
    decoder.decode(tail)
    return decoder.getstate()[0]


class _ByteStream:
    """Additive decoders: tokens are bytes, text is their UTF-8."""

    __slots__ = ("_at_start", "_decoder", "_half_prompt", "_pieces")

    def __init__(self, pieces: Pieces, prompt_ids: Sequence[int]) -> None:
        self._pieces = pieces
        self._at_start = pieces.rules.treats_start and not any(pieces[t] for t in reversed(prompt_ids))
        self._decoder = UTF8("replace")
        before = unfinished_bytes(pieces, prompt_ids)
        self._decoder.decode(before)
        #: The prompt ends inside a character; if the output does not complete it, its U+FFFD is the prompt's.
        self._half_prompt = bool(before)

    def push(self, token_ids: Sequence[int]) -> str:
        data = self._open(token_ids) if self._at_start else b"".join(map(self._pieces.__getitem__, token_ids))
        return self._given(self._decoder.decode(data))

    def finish(self) -> str:
        return self._given(self._decoder.decode(b"", True))

    def _open(self, token_ids: Sequence[int]) -> bytes:
        """The bytes of the first tokens of a text, the leading space stripped."""
        for i, token_id in enumerate(token_ids):
            if self._pieces[token_id]:
                self._at_start = False
                return self._pieces.first(token_id) + b"".join(map(self._pieces.__getitem__, token_ids[i + 1 :]))
        return b""

    def _given(self, text: str) -> str:
        if text and self._half_prompt:
            self._half_prompt = False
            return text.removeprefix(_REPLACEMENT)
        return text


class _WindowStream:
    """Any decoder: new text is what a token adds to the text of the few kept tokens before it.

    Skipped tokens never enter the window: decoders treat the first token of a list differently, and a window of nothing
    but skipped ones would make every next token a first one.
    """

    __slots__ = ("_decode", "_ids", "_keep", "_known", "_read")

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool, spaces: bool) -> None:
        skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._keep: Callable[[int], bool] = lambda t: t not in skipped and tokenizer.has(t)
        self._decode: Callable[[list[int]], str] = lambda ids: tokenizer.decode(
            ids, skip_special_tokens=False, spaces_between_special_tokens=spaces
        )
        self._ids = self._tail(prompt_ids)
        self._read = len(self._ids)  # ids[:read] have been given out as text `known`
        self._known = self._decode(self._ids)

    def push(self, token_ids: Sequence[int]) -> str:
        return "".join([self._push_one(t) for t in token_ids if self._keep(t)])

    def finish(self) -> str:
        if self._read == len(self._ids):
            return ""
        return self._advance(self._decode(self._ids))

    def _tail(self, prompt_ids: Sequence[int]) -> list[int]:
        tail: list[int] = []
        for token_id in reversed(prompt_ids):
            if len(tail) == _CONTEXT:
                break
            if self._keep(token_id):
                tail.append(token_id)
        return tail[::-1]

    def _push_one(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._decode(self._ids)
        held = len(self._ids) - self._read
        if text.endswith(_REPLACEMENT) and held < _HOLD_BYTES:
            return ""
        if held < _HOLD and (len(text) <= len(self._known) or not text.startswith(self._known)):
            return ""
        return self._advance(text)

    def _advance(self, text: str) -> str:
        """Gives out what `text` (of all ids in the window) has beyond the known text, and moves the window on."""
        common = len(self._known)
        while not text.startswith(self._known[:common]):
            common -= 1
        self._ids = self._ids[-max(_CONTEXT, len(self._ids) - self._read) :]
        self._read = len(self._ids)
        self._known = self._decode(self._ids)
        return text[common:]
