"""Placing: media into a prompt, as the model's processor does it: text for each placeholder, and then the tokens that stand for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InferError, RecordError
from ..spec.vision import Images
from ..types.media import MediaKind, MediaPart, Medium
from ..types.placed import Placed, media_key
from ..types.spans import Spans, runs_of
from .store import Look, MediaStore

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer


@dataclass(slots=True)
class PromptMedia:
    """The media of one prompt on its way to a request.

    Args:
        parts: in the order of their placeholders, once the prompt was looked at; before, those of each kind are.
        options: what the model's processor is told of them (`mm_processor_kwargs`).
    """

    parts: tuple[MediaPart, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    media: tuple[tuple[bytes, Medium | None], ...] = ()
    """Of each, once it was looked at, its key and itself where that is to be held."""
    looks: tuple[Look, ...] = ()
    placed: tuple[Placed, ...] = ()
    """Once the prompt is tokens."""
    images: Images | None = None
    """What the model takes, once they were looked at."""

    @classmethod
    def of(cls, parts: Sequence[MediaPart], options: Any) -> PromptMedia | None:
        """With a prompt's own `mm_processor_kwargs`, or None; None where there are no media. Raises RecordError (invalid_type)."""
        if options is not None and not isinstance(options, Mapping):
            name = "mm_processor_kwargs"
            raise RecordError("invalid_type", f"{name} must be an object, not {type(options).__name__}", param=name)
        return cls(tuple(parts), dict(options or {})) if parts else None

    @property
    def num_held(self) -> int:
        """Bytes of what was fetched, which are held as long as it waits."""
        files = sum(len(part.source) for part in self.parts if isinstance(part.source, bytes))
        return files + sum(medium.num_bytes for _, medium in self.media if medium is not None)

    def behind(self, count: int, length: int) -> dict[str, Any]:
        """What a `Request` says of media, behind `count` virtual tokens, in a prompt of `length` tokens with them: `media`, `positions` and
        `spans`."""
        moved = tuple(replace(one, rows=one.rows + count) for one in self.placed) if count else self.placed
        found: dict[str, Any] = {"media": moved}
        if not moved or self.images is None:
            return found
        if all(look.grid is not None for look in self.looks):
            grids = [grid for one, look in zip(moved, self.looks, strict=True) for grid in _grids(one, look, self.images.pace)]
            found["positions"] = grid_positions(grids, length, self.images.merge)
        if sees := self.images.vision.sees:
            bounds = runs_of(one.rows for one in moved) if sees == "image" else ((0, length),) if length > 1 else ()
            found["spans"] = Spans(bounds, windowed=sees == "image") if bounds else None
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
            if part.kind == "audio" or (part.kind == "video" and not self._images.vision.video):
                reads = "images and videos" if self._images.vision.video else "images"
                raise RecordError("unsupported", f"the model reads {reads}, and no {part.kind}", param=part.param or None)
        self.store.loader.policy.check_count(given.parts)

    def expand(self, prompt: str | list[int], given: PromptMedia) -> str | list[int]:
        """The prompt with the text of each medium in the place of its placeholder. Raises RecordError (media_error, invalid_value,
        unsupported)."""
        self._check(given)
        given.options = {**self._options, **given.options}
        try:
            holders = {kind: self.store.placeholder(kind) for kind in dict.fromkeys(part.kind for part in given.parts)}
            media = [self.store.loader.load(part) for part in given.parts]
            if isinstance(prompt, str) and self.frames_text:
                prompt = self.store.framed(prompt, media)
            given.looks = tuple(self.store.look(medium, given.options) for medium in media)
        except RecordError:
            raise
        except InferError as error:
            raise RecordError("unsupported", str(error), param="messages") from error
        each = [(self.store.loader.sealed(part, one), one) for part, one in zip(given.parts, media, strict=True)]
        given.parts = tuple(part for part, _ in each)
        given.media = tuple((media_key(one, given.options), one if _may_change(part) else None) for part, one in each)
        given.images = self._images
        if isinstance(prompt, str):
            pattern = re.compile("|".join(re.escape(holder) for holder in holders.values()))
            _put_in_order(given, pattern.findall(prompt), holders)
            pieces, texts = pattern.split(prompt), [look.text for look in given.looks]
            return "".join(part for both in zip(pieces, [*texts, ""], strict=True) for part in both)
        return self._filled_ids(prompt, holders, given)

    def _filled_ids(self, ids: list[int], holders: Mapping[MediaKind, str], given: PromptMedia) -> list[int]:
        """Of a prompt of token ids, which may have one token for each medium or all of them."""
        if self._tokenizer is None:
            raise RecordError("unsupported", "images need a tokenizer (skip_tokenizer_init is set)", param="prompt_token_ids")
        texts = self._tokenizer.encode_batch([*holders.values(), *(look.text for look in given.looks)], add_special_tokens=False)
        firsts, filled = texts[: len(holders)], texts[len(holders) :]
        for holder, first in zip(holders.values(), firsts, strict=True):
            if len(first) != 1:
                message = f"{holder} is not one token, so {_several(holders, holder)} go with prompts that are text"
                raise RecordError("unsupported", message, param="prompt")
        pieces = {self._images.token_of(kind) for kind in holders}
        if sum(ids.count(one) for one in pieces) == sum(each.count(one) for each in filled for one in pieces) != len(filled):
            return ids
        tokens: dict[int, str] = {first[0]: holder for first, holder in zip(firsts, holders.values(), strict=True)}
        order = _put_in_order(given, [tokens[one] for one in ids if one in tokens], holders)
        found: list[int] = []
        following = iter([filled[i] for i in order])
        for one in ids:
            found += next(following) if one in tokens else [one]
        return found

    def place(self, ids: list[int], given: PromptMedia) -> None:
        """Finds the tokens of each medium in the prompt. Raises RecordError (invalid_value) where they are not all there."""
        tokens = {self._images.token_of(part.kind) for part in given.parts}
        rows = np.flatnonzero(np.isin(np.array(ids, dtype=np.int64), list(tokens)))
        each = zip(given.parts, given.looks, strict=True)
        counts = [self._num_tokens(look, self._images.token_of(part.kind)) for part, look in each]
        if len(rows) != sum(counts):
            message = f"the prompt has {len(rows)} tokens for images, and its images need {sum(counts)}"
            raise RecordError("invalid_value", message, param="prompt")
        ends = np.cumsum(counts)
        given.placed = tuple(
            Placed(key, rows[end - count : end], part, medium, given.options)
            for part, (key, medium), count, end in zip(given.parts, given.media, counts, ends, strict=True)
        )

    def _num_tokens(self, look: Look, token: int) -> int:
        assert self._tokenizer is not None
        if look.num_tokens is None:
            (ids,) = self._tokenizer.encode_batch([look.text], add_special_tokens=False)
            look.num_tokens = ids.count(token)
        return look.num_tokens


def _may_change(part: MediaPart) -> bool:
    """True for what lies on another machine."""
    return isinstance(part.source, str) and part.source[:8].lower().startswith(("http://", "https://"))


def _put_in_order(given: PromptMedia, found: Sequence[str], holders: Mapping[MediaKind, str]) -> list[int]:
    """Puts media in the order of the placeholders `found`; returns which of those before are in each place. Raises RecordError."""
    of_each = {holder: [i for i, part in enumerate(given.parts) if part.kind == kind] for kind, holder in holders.items()}
    for holder, places in of_each.items():
        if (count := found.count(holder)) != len(places):
            what = _several(holders, holder)
            where = f"1 place for {_ONE[what]}" if count == 1 else f"{count} places for {what}"
            images = "1 is given" if len(places) == 1 else f"{len(places)} are given"
            raise RecordError("invalid_value", f"the prompt has {where} ({holder}), and {images}", param="prompt")
    order = [of_each[holder].pop(0) for holder in found]
    given.parts, given.media = tuple(given.parts[i] for i in order), tuple(given.media[i] for i in order)
    given.looks = tuple(given.looks[i] for i in order)
    return order


_ONE = {"images": "an image", "videos": "a video"}


def _several(holders: Mapping[MediaKind, str], holder: str) -> str:
    return "videos" if holders.get("video") == holder else "images"


def _grids(placed: Placed, look: Look, pace: float) -> list[Grid]:
    """Of one medium: several where its frames stand apart, each with the time before it."""
    assert look.grid is not None
    frames, height, width = look.grid
    apart = np.split(placed.rows, np.flatnonzero(np.diff(placed.rows) != 1) + 1)
    if len(apart) > 1:
        return [Grid(int(rows[0]), int(rows[-1]) + 1, (1, height, width)) for rows in apart]
    step = pace * (1.0 if look.seconds is None else look.seconds) if pace and placed.part.kind == "video" else 1.0
    return [Grid(placed.first, placed.end, (frames, height, width), step)]


class Grid(NamedTuple):
    """Tokens from `first` to before `end`, which stand for `frames` x `height` x `width` patches; `step`: positions from frame to frame."""

    first: int
    end: int
    size: tuple[int, int, int]
    step: float = 1.0


def grid_positions(grids: Sequence[Grid], length: int, merge: int) -> NDArray[np.int64]:
    """int64 [3, length]: positions in time, height and width (M-RoPE, arXiv 2409.12191).

    A token of text has three times the one after the greatest before it. Those of an image begin there, and count its frames, rows
    and columns.
    """
    found = np.empty((3, length), dtype=np.int64)
    at = following = 0
    for one in grids:
        frames, height, width = one.size
        found[:, at : one.first] = np.arange(following, following + one.first - at)
        following += one.first - at
        grid = np.indices((frames, height // merge, width // merge)).reshape(3, -1)
        grid[0] = np.floor(grid[0].astype(np.float32) * np.float32(one.step))
        found[:, one.first : one.end] = grid + following
        following += max(height, width) // merge
        at = one.end
    found[:, at:] = np.arange(following, following + length - at)
    return found
