"""Texts as a pooling model reads them: prefix, lower case, special tokens, and a cut or an error where they are too long. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import RecordError
from ..text.fitting import SIDES, Fitted, Piece
from ..types.pooling_request import TextIds
from .recipe import Recipe
from .template import PairTemplate

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer

#: What is said of a text where there is no tokenizer.
NO_TOKENIZER = "without a tokenizer (skip_tokenizer_init) a prompt is token ids"
#: More characters than this per token that fits is not a text that fits; saves tokenizing megabytes to find out.
_CHARS_PER_TOKEN = 256
#: But texts up to this long are always looked at.
_FEW_CHARS = 1 << 16


class TextEncoder:
    """
    Args:
        tokenizer: None where texts can only be token ids.
        max_len: most tokens of a text or pair, special ones included.
        prefix: text put before each text; not before those of pairs.
        truncate: the end ("left" or "right") that is cut off what is longer than `max_len`; None: it stays as it is, and who
            computes with it refuses it.
        literal: text that spells a special token is only text; that of `prefix` is meant.
        side: of late interaction, what texts are read as, "query" or "document"; not what came as token ids.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        recipe: Recipe,
        max_len: int,
        *,
        prefix: str = "",
        truncate: str | None = None,
        literal: bool = False,
        side: str = "",
    ) -> None:
        assert truncate is None or truncate in SIDES
        self.max_len = max_len
        self.truncate = truncate
        self._tokenizer = tokenizer
        self._lower_case, self._template = recipe.lower_case, recipe.template
        self._literal, self._late, self._side = literal, recipe.late if side else None, side
        self._filled_to, token = recipe.filled_to, None if tokenizer is None else tokenizer.pad_token_id
        self._padding = (recipe.padding if token is None else token,) * recipe.filled_to
        self._max_chars = max(_CHARS_PER_TOKEN * max_len, _FEW_CHARS)
        self._prefix = tokenizer.literal.settle(prefix) if literal and tokenizer is not None else prefix
        self._skips = bool(prefix) and not recipe.include_prompt

    def fit(self, texts: Sequence[Piece | list[int]]) -> list[tuple[TextIds, bool]]:
        """The tokens of each text, pair of texts, or text that came as token ids, and whether something was cut off.

        "" is its special tokens alone. Nothing is put around token ids, and what is cut off them is whatever tokens are there. One bad
        text raises its RecordError for all (prompt_too_long for more characters than can be tokens, invalid_encoding for a lone
        surrogate).
        """
        singles = iter(self._singles([text for text in texts if isinstance(text, str)]))
        pairs = iter(self._fit([(self.checked(text[0]), self.checked(text[1])) for text in texts if isinstance(text, tuple)]))
        found = [next(singles) if isinstance(text, str) else next(pairs) if isinstance(text, tuple) else self._cut(text) for text in texts]
        if not self._filled_to:
            return found
        return [(replace(text, ids=text.ids + self._padding[len(text.ids) :]), cut) for text, cut in found]

    def _singles(self, texts: Sequence[str]) -> list[tuple[TextIds, bool]]:
        fitted = self._fit([self._prefix + self.checked(text) for text in texts])
        if (late := self._late) is not None:
            return [(late.dressed(text, self._side, self.max_len), cut) for text, cut in fitted]
        if self._skips:
            return [(replace(text, skip=min(self._prefix_length, len(text.ids) - 1)), cut) for text, cut in fitted]
        return fitted

    def _cut(self, ids: Sequence[int]) -> tuple[TextIds, bool]:
        if self.truncate is None or len(ids) <= self.max_len:
            return TextIds(tuple(ids)), False
        return TextIds(tuple(ids[-self.max_len :] if self.truncate == "left" else ids[: self.max_len])), True

    def checked(self, text: str) -> str:
        """`text`, or of one that cannot fit the end that matters. Raises RecordError (prompt_too_long) where nothing may be cut;
        (unsupported) where there is no tokenizer."""
        if self._tokenizer is None:
            raise RecordError("unsupported", NO_TOKENIZER, param="prompt")
        if len(text) <= self._max_chars:
            return text
        if self.truncate is None:
            message = f"{len(text):,} characters are far more than fit {self.max_len} tokens; --truncate right cuts texts off"
            raise RecordError("prompt_too_long", message, param="input")
        return text[-self._max_chars :] if self.truncate == "left" else text[: self._max_chars]

    @cached_property
    def _prefix_length(self) -> int:
        """Tokens of the prefix and of the special ones before it, as sentence-transformers counts them: in the prefix alone."""
        ((prefix, _),) = self._fit([self._prefix])
        ends = self._tokenizer is not None and bool(prefix.ids) and prefix.ids[-1] in self._tokenizer.special_ids
        return len(prefix.ids) - ends

    def _filled(self, template: PairTemplate, pairs: Sequence[tuple[str, str]]) -> list[tuple[TextIds, bool]]:
        """Pairs in a template, of which what stands between its ends is cut."""
        assert self._tokenizer is not None
        first, last = (tuple(self._tokenizer.encode(end, add_special_tokens=False)) for end in (template.prefix, template.suffix))
        encode = self._tokenizer.encode_literal if self._literal else self._tokenizer.encode_batch
        found, room = [], max(self.max_len - len(first) - len(last), 0)
        for ids in encode([template.fill(*pair) for pair in pairs], add_special_tokens=False):
            cut = self.truncate is not None and len(ids) > room
            kept = ids if not cut else ids[len(ids) - room :] if self.truncate == "left" else ids[:room]
            found.append((TextIds((*first, *kept, *last)), cut))
        return found

    def _fit(self, pieces: Sequence[Piece]) -> list[tuple[TextIds, bool]]:
        if not pieces:
            return []
        assert self._tokenizer is not None
        if self._lower_case:
            pieces = [piece.lower() if isinstance(piece, str) else (piece[0].lower(), piece[1].lower()) for piece in pieces]
        longest = self.max_len if self._late is None else self._late.room(self._side, self.max_len)
        limit = None if self.truncate is None else longest
        if self._template is not None and isinstance(pieces[0], tuple):
            return self._filled(self._template, [piece for piece in pieces if isinstance(piece, tuple)])
        fitted = self._tokenizer.encode_fitted(pieces, limit=limit, side=self.truncate or "right", literal=self._literal)
        return [(_text(one), one.cut) for one in fitted]


def _text(one: Fitted) -> TextIds:
    return TextIds(tuple(one.ids), tuple(one.types) if any(one.types) else ())
