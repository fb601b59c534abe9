"""Images among the texts of requests: from what a record names to what a request holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InferError, RecordError
from ..types.media import MediaPart
from ..types.placed import Placed, media_key
from ..types.pooling_request import TextIds

if TYPE_CHECKING:
    from ..media.store import MediaStore

#: The one row of an image's vector.
_ROW = np.zeros(1, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class GivenImage:
    """An image as a record names it, and what the model's processor is told of it (`mm_processor_kwargs`)."""

    part: MediaPart
    options: Mapping[str, Any] = field(default_factory=dict)


class ImageReader:
    """
    Args:
        store: reads images and keeps what was made of them; the engine has the same.
        num_tokens: what an image counts as.
        options: of the model's processor, where a record says nothing else.
    """

    def __init__(self, store: MediaStore, num_tokens: int, options: Mapping[str, Any] | None = None) -> None:
        self.store = store
        self._ids = (0,) * num_tokens
        self._options = dict(options or {})

    def ahead(self, images: Iterable[GivenImage]) -> AbstractContextManager[None]:
        """Inside, these images are loaded before `read` is called for them, in this order."""
        return self.store.loader.ahead([image.part for image in images if image.part.kind == "image"])

    def check(self, images: list[GivenImage]) -> None:
        """Before any image of a record is loaded. Raises RecordError (unsupported, media_refused)."""
        for image in images:
            if image.part.kind != "image":
                raise RecordError("unsupported", f"the model reads images, and no {image.part.kind}", param=image.part.param or None)
        self.store.loader.policy.check_count([image.part for image in images])

    def read(self, image: GivenImage) -> TextIds:
        """Loads an image, and has the model's processor look at it. Raises RecordError (media_error, media_refused, unsupported)."""
        options = {**self._options, **image.options}
        try:
            medium = self.store.loader.load(image.part)
            self.store.look(medium, options)
        except RecordError:
            raise
        except InferError as error:
            raise RecordError("unsupported", str(error), param=image.part.param or None) from error
        key = media_key(medium, options)
        source = image.part.source
        fetched = isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))
        return TextIds(self._ids, image_key=key.hex(), image=Placed(key, _ROW, image.part, medium if fetched else None, options))
