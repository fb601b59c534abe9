"""Media store: what a model makes of each medium, once for all records that have it.

    Medium ── look ──> Look: the text that stands for it, its grid        kept by content and options
           ── embeds ─> embeddings float32 [tokens, features]             kept likewise, the last used as far as they fit

What is let go is made again when it is wanted; the same comes out.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..containment import one_records_fault
from ..errors import RecordError
from ..types.media import MediaKind, MediaPart, Medium
from ..types.placed import Placed, media_key
from .kept import Kept

if TYPE_CHECKING:
    from torch import Tensor

    from .loader import MediaLoader
    from .processor import ImageProcessor, Processed, Processor

log = logging.getLogger(__name__)

#: Bytes of embeddings, of tensors that wait for the tower, and of texts that are kept.
MOST_EMBEDS, MOST_INPUTS, MOST_TEXT = 512 << 20, 128 << 20, 32 << 20
#: Media that could not be encoded of which the reason is kept.
MOST_FAULTS = 4096


@dataclass(slots=True)
class Look:
    """What a prompt needs to know of a medium.

    Args:
        text: what stands in the place of its placeholder.
        grid, seconds: see `Processed`.
        num_tokens: of its text, how many stand for it; None until that was counted.
    """

    text: str
    grid: tuple[int, int, int] | None = None
    seconds: float | None = None
    num_tokens: int | None = None


#: Pixels in a row of the images that are tried out, the first of them and the last.
_LARGEST, _SMALLEST = 4096, 64


class MediaStore:
    """
    Args:
        loader: reads media.
        width: features of an embedding.
        make_processor, load_tower: called when the first medium comes: text alone needs neither. They raise ModelError.
    """

    def __init__(
        self,
        loader: MediaLoader,
        width: int,
        make_processor: Callable[[], Processor | ImageProcessor],
        load_tower: Callable[[], Callable[[Mapping[str, Tensor]], Tensor]],
        *,
        most_bytes: int = MOST_EMBEDS,
    ) -> None:
        self.loader = loader
        self.kinds: tuple[MediaKind, ...] = ("image", "video")
        """Those that the model may read."""
        self._width = width
        self._make_processor, self._load_tower = make_processor, load_tower
        self._processor: Processor | ImageProcessor | None = None
        self._tower: Callable[[Mapping[str, Tensor]], Tensor] | None = None
        self._lock = threading.RLock()
        self._looks: Kept[bytes, Look] = Kept(MOST_TEXT)
        self._inputs: Kept[bytes, Processed] = Kept(MOST_INPUTS)
        self._embeds: Kept[bytes, NDArray[np.float32]] = Kept(most_bytes)
        self._faults: Kept[bytes, RecordError] = Kept(MOST_FAULTS)
        self.load: Callable[[MediaPart], Medium] = loader.load
        """Reads a medium that is wanted again."""
        self.encoded: Callable[[], None] = lambda: None
        """Called when the tower ran."""

    def placeholder(self, kind: MediaKind) -> str:
        """What stands for a medium of this kind in the text of a prompt."""
        return self._made().placeholder_of(kind)

    def framed(self, prompt: str, media: Sequence[Medium]) -> str:
        """See `Processor.framed`. Raises RecordError (media_error)."""
        return self._made().framed(prompt, [medium.data for medium in media])

    def look(self, medium: Medium, options: Mapping[str, Any]) -> Look:
        """Raises RecordError (media_error) for what the model's processor refuses."""
        key = media_key(medium, options)
        with self._lock:
            found = self._looks.get(key)
            if found is None:
                processed = self._made().of(medium, options)
                if self._embeds.get(key) is None:
                    self._inputs.put(key, processed, processed.num_bytes)
                found = Look(processed.text, processed.grid, processed.seconds)
                self._looks.put(key, found, len(found.text))
            return found

    def embeds(self, placed: Placed) -> NDArray[np.float32]:
        """[tokens, features], a row for each of the medium's tokens. Nobody writes to it.

        Where they cannot be made they are NaN, so that those who have the medium fail and nobody else: `fault` says why.
        """
        with self._lock:
            found = self._embeds.get(placed.key)
            if found is None:
                self.prepare()
                try:
                    found = self._encoded(placed)
                except BaseException as error:
                    if not one_records_fault(error):
                        raise
                    self._faults.put(placed.key, _fault(error, placed), 1)
                    return np.full((len(placed.rows), self._width), np.nan, dtype=np.float32)
                self._embeds.put(placed.key, found, found.nbytes)
            return found

    def fault(self, key: bytes) -> RecordError | None:
        """Why the medium with this key had no embeddings when they were last asked for; None if it had."""
        return None if self._embeds.get(key) is not None else self._faults.get(key)

    def _encoded(self, placed: Placed) -> NDArray[np.float32]:
        processed = self._inputs.get(placed.key) or self._made().of(self.again(placed), placed.options)
        assert self._tower is not None
        self.encoded()
        return self._tower(processed.inputs).numpy()

    def look_only(self) -> None:
        """Keeps no tensors for the tower from now on: it runs elsewhere."""
        self._inputs = Kept(0)

    def again(self, placed: Placed) -> Medium:
        """A medium that was looked at before. Raises RecordError where it is another by now, or cannot be read any more."""
        medium = placed.medium or self.load(placed.part)
        if media_key(medium, placed.options) != placed.key:
            raise RecordError("media_error", "the file has changed since it was read first", param=placed.part.param or None)
        return medium

    def prepare(self) -> None:
        """Loads the processor and the tower now. Raises ModelError."""
        with self._lock:
            self._made()
            if self._tower is None:
                self._tower = self._load_tower()

    def try_largest(self, most_tokens: int, options: Mapping[str, Any]) -> None:
        """Loads the tower and has it read the largest medium, to see how much memory that takes. Raises ModelError.

        Args:
            most_tokens: of a prompt.
            options: what the model's processor is told (`mm_processor_kwargs`).
        """
        self.prepare()
        if (inputs := self._largest(most_tokens, options)) is not None:
            assert self._tower is not None
            self._tower(inputs)

    def _largest(self, most_tokens: int, options: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
        """The tower's inputs for an image of many pixels whose tokens fit into a prompt; None where the processor takes none of them."""
        from PIL import Image

        most_pixels, side = self.loader.policy.max_pixels, _LARGEST
        while side >= _SMALLEST:
            if side * side <= most_pixels:
                try:
                    made = self._made().of(Medium("image", Image.new("RGB", (side, side)), ""), options)
                except RecordError as error:
                    log.debug("an image of %d x %d pixels: %s", side, side, error)
                else:
                    # At most four patches are one token, as far as families with a grid go.
                    if made.grid is None or math.prod(made.grid) <= 4 * most_tokens:
                        return made.inputs
            side //= 2
        return None

    def _made(self) -> Processor | ImageProcessor:
        with self._lock:
            if self._processor is None:
                self._processor = self._make_processor()
            return self._processor


def _fault(error: BaseException, placed: Placed) -> RecordError:
    if isinstance(error, RecordError):
        return error
    log.debug("the tower", exc_info=error)
    why = next(iter(str(error).strip().splitlines()), "")[:200]
    told = f"{type(error).__name__}: {why}" if why else type(error).__name__
    return RecordError("media_error", f"the model cannot read this {placed.part.kind} ({told})", param=placed.part.param or None)
