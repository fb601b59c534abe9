"""Media store: what a model makes of each medium, once for all records that have it.

    Medium ── look ──> Look: the text that stands for it, its grid        kept by content and options
           ── embeds ─> embeddings float32 [tokens, features]             kept likewise, the last used as far as they fit

What is let go is made again when it is wanted; the same comes out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..types.media import Medium
from ..types.placed import Placed, media_key

if TYPE_CHECKING:
    from torch import Tensor

    from .processor import Processed, Processor

V = TypeVar("V")

#: Bytes of embeddings, of tensors that wait for the tower, and of texts that are kept.
MOST_EMBEDS, MOST_INPUTS, MOST_TEXT = 512 << 20, 128 << 20, 32 << 20


@dataclass(slots=True)
class Look:
    """What a prompt needs to know of a medium.

    Args:
        text: what stands in the place of its placeholder.
        grid: see `Processed.grid`.
        num_tokens: of its text, how many stand for it; None until that was counted.
    """

    text: str
    grid: tuple[int, int, int] | None = None
    num_tokens: int | None = None


class Kept(Generic[V]):
    """The last used values up to a number of bytes; the newest is kept whatever its size."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[bytes, tuple[V, int]] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: bytes) -> V | None:
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: bytes, value: V, num_bytes: int) -> None:
        self.pop(key)
        self._values[key] = value, num_bytes
        self.num_bytes += num_bytes
        while self.num_bytes > self._most and len(self._values) > 1:
            self.pop(next(iter(self._values)))

    def pop(self, key: bytes) -> V | None:
        value, num_bytes = self._values.pop(key, (None, 0))
        self.num_bytes -= num_bytes
        return value


class MediaStore:
    """
    Args:
        make_processor, load_tower: called when the first medium comes: text alone needs neither. They raise ModelError.
    """

    def __init__(
        self,
        make_processor: Callable[[], Processor],
        load_tower: Callable[[], Callable[[Mapping[str, Tensor]], Tensor]],
        *,
        most_bytes: int = MOST_EMBEDS,
    ) -> None:
        self._make_processor, self._load_tower = make_processor, load_tower
        self._processor: Processor | None = None
        self._tower: Callable[[Mapping[str, Tensor]], Tensor] | None = None
        self._lock = threading.RLock()
        self._looks: Kept[Look] = Kept(MOST_TEXT)
        self._inputs: Kept[Processed] = Kept(MOST_INPUTS)
        self._embeds: Kept[NDArray[np.float32]] = Kept(most_bytes)
        self.num_encoded = 0
        """Times that the tower ran."""

    @property
    def placeholder(self) -> str:
        """What stands for an image in the text of a prompt."""
        return self._made().placeholder

    def look(self, medium: Medium, options: Mapping[str, Any]) -> Look:
        """Raises RecordError (media_error) for what the model's processor refuses."""
        key = media_key(medium, options)
        with self._lock:
            found = self._looks.get(key)
            if found is None:
                processed = self._made()(medium.data, options)
                if self._embeds.get(key) is None:
                    self._inputs.put(key, processed, processed.num_bytes)
                found = Look(processed.text, processed.grid)
                self._looks.put(key, found, len(found.text))
            return found

    def embeds(self, placed: Placed) -> NDArray[np.float32]:
        """[tokens, features], a row for each of the medium's tokens. Nobody writes to it."""
        with self._lock:
            found = self._embeds.get(placed.key)
            if found is None:
                processed = self._inputs.pop(placed.key) or self._made()(placed.medium.data, placed.options)
                if self._tower is None:
                    self._tower = self._load_tower()
                self.num_encoded += 1
                found = self._tower(processed.inputs).numpy()
                self._embeds.put(placed.key, found, found.nbytes)
            return found

    def prepare(self) -> None:
        """Loads the processor and the tower now. Raises ModelError."""
        with self._lock:
            self._made()
            if self._tower is None:
                self._tower = self._load_tower()

    def _made(self) -> Processor:
        with self._lock:
            if self._processor is None:
                self._processor = self._make_processor()
            return self._processor
