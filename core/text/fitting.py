"""Texts and pairs of texts as a model reads them: special tokens around them, cut where too long.

What is cut off is text: the special tokens that the tokenizer's post-processor adds stay, and a pair loses tokens of its longer
text first. This is what the `tokenizers` library does when truncation is switched on; here it is off, since a tokenizer is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import tokenizers

#: One text, or two that are read together.
Piece = str | tuple[str, str]

#: Ends that can be cut off.
SIDES = ("left", "right")


class Fitted(NamedTuple):
    """The token ids of a text or pair and their types (empty for a single text, whose tokens are all of type 0); whether it was cut."""

    ids: list[int]
    types: list[int]
    cut: bool


class Fitting:
    """
    Args:
        backend: the tokenizer, with truncation and padding off.
        ids_of: the ids of an encoding of these texts, where they are not its own.
    """

    def __init__(self, backend: tokenizers.Tokenizer, ids_of: Callable[[Piece, tokenizers.Encoding], list[int]] | None = None) -> None:
        self._backend = backend
        self._ids_of = ids_of

    def encode(self, pieces: Sequence[Piece], *, limit: int | None = None, side: str = "right") -> list[Fitted]:
        """Each with at most `limit` tokens, special ones included; None: as long as they are.

        Where the special tokens alone are more than `limit` they are what is left.
        """
        encode = self._backend.encode_batch_fast if self._ids_of is None else self._backend.encode_batch  # the fast one has no offsets
        encodings = encode(list(pieces), add_special_tokens=True)
        fitted = [self._fitted(piece, encoding, cut=False) for piece, encoding in zip(pieces, encodings, strict=True)]
        if limit is not None:
            for i, one in enumerate(fitted):
                if len(one.ids) > limit:
                    fitted[i] = self._cut(pieces[i], limit, side)
        return fitted

    def _cut(self, piece: Piece, limit: int, side: str) -> Fitted:
        texts = (piece,) if isinstance(piece, str) else piece
        room = max(limit - self._backend.num_special_tokens_to_add(len(texts) == 2), 0)
        parts = [self._backend.encode(text, add_special_tokens=False) for text in texts]
        for part, length in zip(parts, longest_first([len(part.ids) for part in parts], room), strict=True):
            part.truncate(length, direction=side)
        whole = self._backend.post_process(parts[0], parts[1] if len(parts) == 2 else None, add_special_tokens=True)
        return self._fitted(piece, whole, cut=True)

    def _fitted(self, piece: Piece, encoding: tokenizers.Encoding, *, cut: bool) -> Fitted:
        ids = encoding.ids if self._ids_of is None else self._ids_of(piece, encoding)
        return Fitted(ids, [] if isinstance(piece, str) else encoding.type_ids, cut)


class SlowFitting(Fitting):
    """Fits texts through a tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._slow = tokenizer

    def encode(self, pieces: Sequence[Piece], *, limit: int | None = None, side: str = "right") -> list[Fitted]:
        return [self._one(piece, limit, side) for piece in pieces]

    def _one(self, piece: Piece, limit: int | None, side: str) -> Fitted:
        texts = (piece,) if isinstance(piece, str) else piece
        for text in texts:
            text.encode("utf-8")  # a lone surrogate would be taken for an unknown character
        ids, types = self._read(texts, truncation=False)
        cut = limit is not None and len(ids) > limit
        if cut:
            self._slow.truncation_side = side
            ids, types = self._read(texts, truncation="longest_first", max_length=limit)
        return Fitted(ids, types if len(texts) == 2 else [], cut)

    def _read(self, texts: Sequence[str], **how: Any) -> tuple[list[int], list[int]]:
        # As a batch of one: by itself an empty second text would be taken for none.
        read = self._slow(*([text] for text in texts), return_token_type_ids=True, padding=False, **how)
        return list(read["input_ids"][0]), list(read["token_type_ids"][0])


def longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """The lengths left of one text, or of two, in `room` tokens: the longer one is cut down to the other, then both."""
    if len(lengths) == 1 or sum(lengths) <= room:
        return [min(length, room) for length in lengths]
    short = min(lengths)
    if 2 * short <= room:
        kept = (short, room - short)
    else:
        kept = (room // 2, room - room // 2)
    return list(kept if lengths[0] <= lengths[1] else kept[::-1])
