"""Frames out of videos: so many of them, evenly spaced from the first to the last, each as an image."""

from __future__ import annotations

import importlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RecordError
from .images import as_rgb, check_pixels, opened
from .signatures import described

if TYPE_CHECKING:
    from PIL.Image import Image

#: Files that Pillow reads frame by frame.
_ANIMATIONS = ("a GIF image", "a WebP image", "a PNG image", "an AVIF image")
#: Frames of a video that are counted, where all of them have to be decoded to find out: an hour at 60 a second.
_MOST_FRAMES = 216_000


def chosen(count: int, wanted: int) -> list[int]:
    """The places of the frames that are taken of `count`; `wanted` -1: all. As vLLM takes them."""
    if wanted == -1 or wanted >= count:
        return list(range(count))
    return np.linspace(0, count - 1, wanted, dtype=int).tolist()


def decode_video(
    data: bytes, *, num_frames: int, max_pixels: int, max_bytes: int, what: str, param: str
) -> tuple[list[Image], tuple[float, ...] | None]:
    """(frames in RGB, their times in seconds if the file says so).

    Args:
        num_frames: how many are taken; -1: all.
        max_bytes: of all frames that are taken, decoded.

    Raises RecordError: media_refused for more pixels or bytes than may be, media_error for what cannot be decoded, unsupported where that
    needs PyAV and it is not installed.
    """
    kind = described(data)
    if kind in _ANIMATIONS:
        return _animation(data, num_frames, max_pixels, max_bytes, what, param)
    if "video" not in kind and "no known" not in kind:
        raise RecordError("media_error", f"{what} is no video that can be read, but {kind}", param=param)
    try:
        av = importlib.import_module("av")
    except ImportError:
        message = f"{what} is {kind}, and without PyAV only animated GIF and WebP are read: pip install 'infer-jsonl[video]'"
        raise RecordError("unsupported", message, param=param) from None
    try:
        return _file(av, data, num_frames, max_pixels, max_bytes, what, param)
    except RecordError:
        raise
    except Exception as error:  # PyAV raises what FFmpeg says
        told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RecordError("media_error", f"{what} is damaged, or no video that can be read ({kind}): {told}", param=param) from None


def _animation(
    data: bytes, num_frames: int, max_pixels: int, max_bytes: int, what: str, param: str
) -> tuple[list[Image], tuple[float, ...] | None]:
    image = opened(data, max_pixels=max_pixels, what=what, param=param)
    try:
        count = min(getattr(image, "n_frames", 1), _MOST_FRAMES)
        places = chosen(count, num_frames)
        check_frames(len(places), image.width, image.height, max_bytes, what, param)
        frames, times, now, last = [], [], 0.0, -1
        for place in places:
            for one in range(last + 1, place + 1):  # those between are decoded too: each is drawn over the one before it
                times.append(now)
                image.seek(one)
                image.load()  # a WebP file says no sooner how long it is shown
                now += image.info.get("duration", 0) / 1000
            last = place
            check_pixels(image.width, image.height, max_pixels, what, param)
            frames.append(as_rgb(image.copy()))
    except RecordError:
        raise
    except Exception as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RecordError("media_error", f"{what} is damaged: {told}", param=param) from None
    return frames, tuple(times[place] for place in places) if now > 0 else None


def _file(
    av: Any, data: bytes, num_frames: int, max_pixels: int, max_bytes: int, what: str, param: str
) -> tuple[list[Image], tuple[float, ...] | None]:
    """Two passes: frames are counted, since what a header says of their number is often wrong, and then those that are wanted are kept."""
    with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
        if not container.streams.video:
            raise RecordError("media_error", f"{what} has no pictures, only sound", param=param)
        stream = container.streams.video[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        check_pixels(width, height, max_pixels, what, param)
        rate = float(stream.average_rate) if stream.average_rate else None
        count = sum(1 for packet in container.demux(stream) if packet.size)
    if not 0 < count <= _MOST_FRAMES:
        raise RecordError("media_error", f"{what} has {count:,} frames", param=param)
    places = chosen(count, num_frames)
    check_frames(len(places), width, height, max_bytes, what, param)
    wanted, frames, shown = set(places), [], []
    with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
        for place, frame in enumerate(container.decode(video=0)):
            if place in wanted:
                check_pixels(frame.width, frame.height, max_pixels, what, param)
                frames.append(frame.to_image().convert("RGB"))
                shown.append(place)
    if not frames:
        raise RecordError("media_error", f"{what} has no frames that can be decoded", param=param)
    return frames, None if rate is None else tuple(place / rate for place in shown)


def check_frames(count: int, width: int, height: int, max_bytes: int, what: str, param: str) -> None:
    """Raises RecordError (media_refused) where frames need more memory than may be."""
    if 3 * count * width * height > max_bytes:
        message = (
            f"{what} has {count:,} frames of {width:,} x {height:,} pixels, which are more than {max_bytes:,} bytes decoded; "
            'take fewer with --media-io-kwargs \'{"video": {"num_frames": N}}\''
        )
        raise RecordError("media_refused", message, param=param)
