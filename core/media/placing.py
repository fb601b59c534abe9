"""Placing: media into a prompt, as the model's processor does it: text for each placeholder, and then the tokens that stand for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InferError, RecordError
from ..spec.vision import Images
from ..types.media import MediaPart, Medium
from ..types.placed import Placed, media_key
from ..types.spans import Spans, runs_of
from .store import Look, MediaStore

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer


@dataclass(slots=True)
class PromptMedia:
    """The media of one prompt on its way to a request.

    Args:
        parts: in the order of their placeholders.
        options: what the model's processor is told of them (`mm_processor_kwargs`).
    """

    parts: tuple[MediaPart, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    media: tuple[tuple[bytes, Medium | None], ...] = ()
    """Of each, once it was looked at, its key and itself where that is to be held."""
    looks: tuple[Look, ...] = ()
    placed: tuple[Placed, ...] = ()
    """Once the prompt is tokens."""
    merge: int = 1
    sees: str = ""
    """See `Vision.sees`."""

    @classmethod
    def of(cls, parts: Sequence[MediaPart], options: Any) -> PromptMedia | None:
        """With a prompt's own `mm_processor_kwargs`, or None; None where there are no media. Raises RecordError (invalid_type)."""
        if options is not None and not isinstance(options, Mapping):
            name = "mm_processor_kwargs"
            raise RecordError("invalid_type", f"{name} must be an object, not {type(options).__name__}", param=name)
        return cls(tuple(parts), dict(options or {})) if parts else None

    def behind(self, count: int, length: int) -> dict[str, Any]:
        """What a `Request` says of media, behind `count` virtual tokens, in a prompt of `length` tokens with them: `media`, `positions` and
        `spans`."""
        moved = tuple(replace(one, rows=one.rows + count) for one in self.placed) if count else self.placed
        found: dict[str, Any] = {"media": moved}
        grids = [look.grid for look in self.looks]
        if moved and not any(grid is None for grid in grids):
            each = [(one, grid) for one, grid in zip(moved, grids, strict=True) if grid is not None]
            found["positions"] = grid_positions(each, length, self.merge)
        if moved and self.sees:
            bounds = runs_of(one.rows for one in moved) if self.sees == "image" else ((0, length),) if length > 1 else ()
            found["spans"] = Spans(bounds, windowed=self.sees == "image") if bounds else None
        return found


class Placing:
    """
    Args:
        images: what the model takes.
        tokenizer: the one of prompts.
        options: what the model's processor is told of media where a prompt says nothing of it (`mm_processor_kwargs`).
    """

    def __init__(self, store: MediaStore, images: Images, tokenizer: Tokenizer | None, options: Mapping[str, Any] | None = None) -> None:
        self._options = dict(options or {})
        self.store = store
        self._images = images
        self._tokenizer = tokenizer

    @property
    def frames_text(self) -> bool:
        """True if `expand` gives texts with all their special tokens."""
        return self._images.vision.frames_text

    def ahead(self, many: Iterable[PromptMedia]) -> AbstractContextManager[None]:
        """Inside, the media of these prompts are loaded before `expand` is called for them, in this order."""
        return self.store.loader.ahead([part for given in many for part in given.parts if self._is_allowed(given)])

    def _is_allowed(self, given: PromptMedia) -> bool:
        """False of media that `expand` refuses before it loads them."""
        try:
            self._check(given)
        except RecordError:
            return False
        return True

    def _check(self, given: PromptMedia) -> None:
        """Raises RecordError (unsupported, media_refused)."""
        for part in given.parts:
            if part.kind != "image":
                raise RecordError("unsupported", f"the model reads images, and no {part.kind}", param=part.param or None)
        self.store.loader.policy.check_count(given.parts)

    def expand(self, prompt: str | list[int], given: PromptMedia) -> str | list[int]:
        """The prompt with the text of each medium in the place of its placeholder. Raises RecordError (media_error, invalid_value,
        unsupported)."""
        self._check(given)
        given.options = {**self._options, **given.options}
        try:
            placeholder = self.store.placeholder
            media = [self.store.loader.load(part) for part in given.parts]
            given.looks = tuple(self.store.look(medium, given.options) for medium in media)
        except RecordError:
            raise
        except InferError as error:
            raise RecordError("unsupported", str(error), param="messages") from error
        each = zip(given.parts, media, strict=True)
        given.media = tuple((media_key(one, given.options), one if _may_change(part) else None) for part, one in each)
        given.merge, given.sees = self._images.merge, self._images.vision.sees
        if isinstance(prompt, str):
            if self.frames_text:
                prompt = self.store.framed(prompt, media)
            return self._filled(prompt.split(placeholder), placeholder, given)
        return self._filled_ids(prompt, placeholder, given)

    def _filled(self, pieces: list[str], placeholder: str, given: PromptMedia) -> str:
        _check_count(len(pieces) - 1, placeholder, given)
        texts = [look.text for look in given.looks]
        return "".join(part for both in zip(pieces, [*texts, ""], strict=True) for part in both)

    def _filled_ids(self, ids: list[int], placeholder: str, given: PromptMedia) -> list[int]:
        """Of a prompt of token ids, which may have one token for each image or all of them."""
        if self._tokenizer is None:
            raise RecordError("unsupported", "images need a tokenizer (skip_tokenizer_init is set)", param="prompt_token_ids")
        texts = self._tokenizer.encode_batch([placeholder, *(look.text for look in given.looks)], add_special_tokens=False)
        (token, *more), *filled = texts
        if more:
            raise RecordError("unsupported", f"{placeholder} is not one token, so images go with prompts that are text", param="prompt")
        if ids.count(self._images.token) == sum(one.count(self._images.token) for one in filled) != len(filled):
            return ids
        _check_count(ids.count(token), placeholder, given)
        found: list[int] = []
        following = iter(filled)
        for one in ids:
            found += next(following) if one == token else [one]
        return found

    def place(self, ids: list[int], given: PromptMedia) -> None:
        """Finds the tokens of each medium in the prompt. Raises RecordError (invalid_value) where they are not all there."""
        rows = np.flatnonzero(np.array(ids, dtype=np.int64) == self._images.token)
        counts = [self._num_tokens(look) for look in given.looks]
        if len(rows) != sum(counts):
            message = f"the prompt has {len(rows)} tokens for images, and its images need {sum(counts)}"
            raise RecordError("invalid_value", message, param="prompt")
        ends = np.cumsum(counts)
        given.placed = tuple(
            Placed(key, rows[end - count : end], part, medium, given.options)
            for part, (key, medium), count, end in zip(given.parts, given.media, counts, ends, strict=True)
        )

    def _num_tokens(self, look: Look) -> int:
        assert self._tokenizer is not None
        if look.num_tokens is None:
            (ids,) = self._tokenizer.encode_batch([look.text], add_special_tokens=False)
            look.num_tokens = ids.count(self._images.token)
        return look.num_tokens


def _may_change(part: MediaPart) -> bool:
    """True for what lies on another machine."""
    return isinstance(part.source, str) and part.source[:8].lower().startswith(("http://", "https://"))


def _check_count(count: int, placeholder: str, given: PromptMedia) -> None:
    if count != len(given.parts):
        places = "1 place for an image" if count == 1 else f"{count} places for images"
        images = "1 is given" if len(given.parts) == 1 else f"{len(given.parts)} are given"
        raise RecordError("invalid_value", f"the prompt has {places} ({placeholder}), and {images}", param="prompt")


def grid_positions(placed: Sequence[tuple[Placed, tuple[int, int, int]]], length: int, merge: int) -> NDArray[np.int64]:
    """int64 [3, length]: positions in time, height and width (M-RoPE, arXiv 2409.12191).

    A token of text has three times the one after the greatest before it. Those of an image begin there, and count its frames, rows
    and columns.
    """
    found = np.empty((3, length), dtype=np.int64)
    at = following = 0
    for one, (frames, height, width) in placed:
        found[:, at : one.first] = np.arange(following, following + one.first - at)
        following += one.first - at
        grid = np.indices((frames, height // merge, width // merge)).reshape(3, -1)
        found[:, one.first : one.end] = grid + following
        following += max(height, width) // merge
        at = one.end
    found[:, at:] = np.arange(following, following + length - at)
    return found
