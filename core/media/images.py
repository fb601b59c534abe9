"""Images out of files and arrays: upright, in RGB, and never decoded before their size is known to be allowed."""

from __future__ import annotations

import importlib
import io
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RecordError
from .signatures import described

if TYPE_CHECKING:
    from PIL.Image import Image

#: The formats that are read, and the modules of Pillow that read them. Pillow knows forty more, some of which start other programs (EPS),
#: and none of which a data set needs.
_FORMATS = {
    "PNG": "Png",
    "JPEG": "Jpeg",
    "MPO": "Mpo",
    "GIF": "Gif",
    "WEBP": "WebP",
    "BMP": "Bmp",
    "TIFF": "Tiff",
    "AVIF": "Avif",
    "PPM": "Ppm",
}
#: The colour behind what is transparent, as in vLLM.
_WHITE = (255, 255, 255)


def pillow() -> Any:
    """The module PIL.Image. Raises RecordError (unsupported) where Pillow is not installed."""
    return _pillow()[0]


@cache
def _pillow() -> tuple[Any, tuple[str, ...]]:
    """The module, and which of the formats this build of it reads."""
    try:
        module = importlib.import_module("PIL.Image")
        for plugin in _FORMATS.values():
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
    except ImportError:
        raise RecordError("unsupported", "images need Pillow, 11 or later: pip install 'infer-jsonl[media]'") from None
    return module, tuple(name for name in _FORMATS if name in module.OPEN)


def decode_image(data: bytes, *, max_pixels: int, what: str, param: str) -> Image:
    """The first (or only) image of a file. Of an animation that is its first frame, of a TIFF its first page.

    Args:
        what: what the file is called in messages.

    Raises RecordError: media_refused for more pixels than may be, media_error for what cannot be decoded.
    """
    return as_rgb(_loaded(opened(data, max_pixels=max_pixels, what=what, param=param), what, param))


def opened(data: bytes, *, max_pixels: int, what: str, param: str) -> Image:
    """The image of a file before its pixels are decoded, of an allowed size. Raises RecordError."""
    module, formats = _pillow()
    try:
        image = module.open(io.BytesIO(data), formats=formats)
    except (module.DecompressionBombError, module.DecompressionBombWarning) as error:  # a warning, where those are to be errors
        raise RecordError("media_refused", f"{what} is far too large an image ({_first_line(error)})", param=param) from None
    except module.UnidentifiedImageError:
        is_one = "image" in (kind := described(data)) and not kind.startswith(("an HEI", "an SVG"))
        why = f"is damaged: it begins as {kind} and cannot be read" if is_one else f"is no image that can be read, but {kind}"
        raise RecordError("media_error", f"{what} {why}", param=param) from None
    except Exception as error:  # Pillow's decoders raise what they like
        raise _damaged(what, error, param) from None
    check_pixels(image.width, image.height, max_pixels, what, param)
    return image


def check_pixels(width: int, height: int, max_pixels: int, what: str, param: str) -> None:
    """Raises RecordError (media_refused, media_error)."""
    if width * height > max_pixels:
        message = f"{what} has {width:,} x {height:,} pixels, more than the {max_pixels:,} of max_image_pixels"
        raise RecordError("media_refused", message, param=param)
    if width < 1 or height < 1:
        raise RecordError("media_error", f"{what} has no pixels: it is {width} x {height}", param=param)


def _loaded(image: Image, what: str, param: str) -> Image:
    """The same with its pixels decoded, turned as its EXIF data say. Raises RecordError."""
    try:
        image.load()
    except Exception as error:
        raise _damaged(what, error, param) from None
    return upright(image)


def upright(image: Image) -> Image:
    """An image turned as its EXIF data say. Of EXIF data that cannot be read nothing is known, and the image stays as it is."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:
        return image


def as_rgb(image: Image) -> Image:
    """In mode RGB: what is transparent is laid on white, 16 bits a channel become 8, CMYK and palettes their colours.

    Raises RecordError (media_error) for pixels that are floating-point numbers, which have no agreed white.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        top = 0xFFFF if image.mode.startswith("I;16") or int(wide.max()) > 0xFF else 0xFF
        return pillow().fromarray((wide.clip(0, top) * 255 // top).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise RecordError("media_error", "an image whose pixels are floating-point numbers cannot be shown to a model; save it with 8 bits")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        under = pillow().new("RGBA", clear.size, (*_WHITE, 255))
        return pillow().alpha_composite(under, clear).convert("RGB")
    return image.convert("RGB")


def image_of_array(values: NDArray[Any], *, what: str, param: str) -> Image:
    """An image of numbers: uint8 [height, width], [height, width, 1, 3 or 4]; or floats of 0 to 1. Raises RecordError (media_error)."""
    shape = list(values.shape)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)) or not values.size:
        raise RecordError("media_error", f"{what} has the shape {shape}; an image is [height, width, 3], 4 or none", param=param)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise RecordError("media_error", f"{what} holds floating-point numbers outside of 0 to 1; give uint8", param=param)
        values = (values * 255).round().astype(np.uint8)
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.dtype != np.uint8:
        raise RecordError(
            "media_error", f"{what} holds {values.dtype}; an image holds uint8, or floating-point numbers of 0 to 1", param=param
        )
    return as_rgb(pillow().fromarray(np.ascontiguousarray(values)))


def _damaged(what: str, error: Exception, param: str) -> RecordError:
    return RecordError("media_error", f"{what} is damaged: {_first_line(error)}", param=param)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
