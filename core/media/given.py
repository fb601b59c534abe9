"""Media given in Python: `multi_modal_data` of a prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from ..errors import RecordError
from ..types.media import Medium


def given_media(data: Mapping[str, Any]) -> tuple[Medium, ...]:
    """The media in the order of their placeholders. Raises RecordError (unsupported, invalid_type)."""
    found: list[Medium] = []
    for kind, value in data.items():
        if kind not in ("image", "images"):
            raise RecordError("unsupported", f"multi_modal_data: {kind!r} is not supported here; image is", param="multi_modal_data")
        found += [_image(one) for one in (value if isinstance(value, (list, tuple)) else [value])]
    return tuple(found)


def _image(value: Any) -> Medium:
    if not hasattr(value, "convert") or not hasattr(value, "tobytes"):
        message = f"multi_modal_data: an image is a PIL image, not {type(value).__name__}"
        raise RecordError("invalid_type", message, param="multi_modal_data")
    image = value.convert("RGB")
    digest = hashlib.blake2b(f"{image.size} ".encode() + image.tobytes(), digest_size=16).hexdigest()
    return Medium("image", image, digest, "PIL image", num_bytes=3 * image.width * image.height)
