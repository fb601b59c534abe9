"""MediaLoader: from what a record names to the decoded medium, within a policy. May be used from several threads at once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import RecordError
from ..types.media import MediaKind, MediaPart, Medium
from .ahead import Ahead
from .audio import decode_audio, sound_of_array
from .data_urls import read_data_url
from .images import as_rgb, check_pixels, decode_image, image_of_array, upright
from .kept import Kept
from .local_files import read_file
from .policy import MediaPolicy
from .video import check_frames, chosen, decode_video
from .web import fetch

#: What a hash says of how a file was read: another number where the same file is decoded to something else.
_VERSION = b"1"
#: Memory of a video's frames.
_MOST_FRAME_BYTES = 1 << 30
#: Bytes of decoded media, and of what was fetched, that are kept for records that name them again.
_MOST_DECODED, _MOST_FETCHED = 256 << 20, 64 << 20


class MediaLoader:
    """Loads media. Of one that several records name, the last used are kept, up to a few hundred MB.

    Args:
        policy: what may be read.
    """

    def __init__(self, policy: MediaPolicy) -> None:
        self.policy = policy
        self._decoded: Kept[str, Medium] = Kept(_MOST_DECODED)
        self._fetched: Kept[str, bytes] = Kept(_MOST_FETCHED)
        self._busy: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._ahead = threading.local()

    @contextmanager
    def ahead(self, parts: Iterable[MediaPart]) -> Iterator[None]:
        """Inside, `load` finds these parts loaded, or nearly so, if it is asked for them in this order by this thread."""
        self._ahead.one = one = Ahead(self._load, parts)
        try:
            yield
        finally:
            self._ahead.one = None
            one.close()

    def load(self, part: MediaPart) -> Medium:
        """The medium, decoded.

        Raises RecordError: media_refused for what the policy does not allow, media_error for what is missing or damaged (`retryable` where
        it may go well another time), unsupported for what needs a library that is not installed.
        """
        one: Ahead | None = getattr(self._ahead, "one", None)
        return self._load(part) if one is None else one.take(part)

    def _load(self, part: MediaPart) -> Medium:
        source = part.source
        if isinstance(source, (bytes, bytearray)):
            self._check_size(len(source), part)
            return self._of_bytes(part, bytes(source), f"the {part.kind}")
        if isinstance(source, str):
            return self._of_text(part, source)
        return self._of_python(part, source)

    def sealed(self, part: MediaPart, medium: Medium) -> MediaPart:
        """A part that was loaded, with the file that was fetched for it in the place of its URL, where that is still kept: loaded again, it
        gives the same, whatever its host then says. Otherwise the part itself."""
        if not isinstance(part.source, str):
            return part
        with self._lock:
            file = self._fetched.get(part.source)
        if file is None or self._key(part.kind, file) != medium.hash:
            return part
        return replace(part, source=file)

    def check(self, part: MediaPart) -> None:
        """Finds out whether a medium may be read and can be, as `load` does, but asks no other machine."""
        if isinstance(part.source, str) and _scheme(part.source) in ("http", "https"):
            from .addresses import target_of

            target_of(part.source, self.policy.domains, part.param)
        else:
            self.load(part)

    # --- files

    def _of_text(self, part: MediaPart, source: str) -> Medium:
        scheme, policy = _scheme(source), self.policy
        if scheme == "data":
            if part.kind == "video" and source[:16].lower().startswith("data:video/jpeg;"):
                return self._of_jpegs(part, source)
            data, _ = read_data_url(source, max_bytes=policy.max_bytes, param=part.param)
            return self._of_bytes(part, data, f"the {part.kind} of a data: URL", "data URL")
        if scheme in ("http", "https"):
            return self._of_bytes(part, self._fetch(source, part.param), shown(source), source)
        if scheme not in ("file", ""):
            message = f"{part.param} begins with {scheme}:, which is not read; data:, file:, http: and https: are, and paths"
            raise RecordError("media_refused", message, param=part.param)
        data = read_file(source, root=policy.local_path, max_bytes=policy.max_bytes, param=part.param)
        return self._of_bytes(part, data, repr(shown(source)), source)

    def _fetch(self, url: str, param: str) -> bytes:
        """The bytes at a URL, asked for once where several records want them at the same time."""
        with self._lock:
            mine = self._busy.setdefault(url, threading.Lock())
        try:
            with mine:
                with self._lock:
                    found = self._fetched.get(url)
                if found is None:
                    policy = self.policy
                    found = fetch(url, domains=policy.domains, max_bytes=policy.max_bytes, timeout=policy.timeout, param=param)
                    with self._lock:
                        self._fetched.put(url, found, len(found))
                return found
        finally:
            with self._lock:
                self._busy.pop(url, None)

    def _of_bytes(self, part: MediaPart, data: bytes, what: str, source: str = "") -> Medium:
        policy, kind, param = self.policy, part.kind, part.param
        if not data:
            raise RecordError("media_error", f"{what} is empty: it has no bytes", param=param)
        key = self._key(kind, data)
        with self._lock:
            kept = self._decoded.get(key)
        if kept is not None:
            return kept
        source = source or "bytes"
        try:
            if kind == "image":
                image = decode_image(data, max_pixels=policy.max_pixels, what=what, param=param)
                found = Medium(kind, image, key, source, num_bytes=3 * image.width * image.height)
            elif kind == "audio":
                sound = decode_audio(data, max_seconds=policy.max_seconds, what=what, param=param)
                found = Medium(kind, sound.samples, key, source, float(sound.rate), sound.samples.nbytes)
            else:
                limits: dict[str, Any] = {"num_frames": policy.num_frames, "max_pixels": policy.max_pixels, "max_bytes": _MOST_FRAME_BYTES}
                frames, times = decode_video(data, **limits, what=what, param=param)
                rate = (len(times) - 1) / (times[-1] - times[0]) if times is not None and times[-1] > times[0] else None
                found = Medium(kind, frames, key, source, rate, sum(3 * one.width * one.height for one in frames), times)
        except MemoryError:
            raise RecordError("media_error", f"{what} needs more memory than there is", param=param, retryable=True) from None
        except RecordError as error:
            error.param = error.param or param or None
            raise
        with self._lock:
            self._decoded.put(key, found, found.num_bytes)
        return found

    def _key(self, kind: MediaKind, data: bytes) -> str:
        """The hash of what a file is read as."""
        return _hash(kind, _VERSION, b"%d" % self.policy.num_frames if kind == "video" else b"", data)

    def _of_jpegs(self, part: MediaPart, source: str) -> Medium:
        """vLLM's own form of a video: `data:video/jpeg;base64,` and the base64 of each frame, with commas between."""
        header, _, rest = source.partition(",")
        frames = rest.split(",")
        frames = [frames[place] for place in chosen(len(frames), self.policy.num_frames)]
        images = [
            self._of_text(MediaPart("image", f"{header.replace('video/', 'image/', 1)},{one}", part.param), f"data:image/jpeg;base64,{one}")
            for one in frames
        ]
        return self._video(part, images, "data URL")

    # --- what Python hands in

    def _of_python(self, part: MediaPart, source: Any) -> Medium:
        param, what = part.param, f"the {part.kind}"
        if part.kind == "audio":
            samples, rate = source if isinstance(source, tuple) else (source, None)
            sound = sound_of_array(samples, rate, max_seconds=self.policy.max_seconds, what=what, param=param)
            key = _hash("audio", b"samples", b"%d" % sound.rate, sound.samples.tobytes())
            return Medium("audio", sound.samples, key, "array", float(sound.rate), sound.samples.nbytes)
        if part.kind == "video":
            frames = list(source) if not isinstance(source, list) else source
            places = chosen(len(frames), self.policy.num_frames)
            images = [self._load(MediaPart("image", frames[place], f"{param}[{place}]")) for place in places]
            return self._video(part, images, "frames")
        if hasattr(source, "convert") and hasattr(source, "getexif"):
            check_pixels(source.width, source.height, self.policy.max_pixels, what, param)
            try:
                image = as_rgb(upright(source))
            except RecordError as error:
                error.param = param
                raise
            except Exception as error:  # an image that Pillow has only opened is decoded now
                told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise RecordError("media_error", f"{what} is damaged: {told}", param=param) from None
            source_name = "PIL image"
        else:
            values = np.asarray(source)
            image, source_name = image_of_array(values, what=what, param=param), "array"
            check_pixels(image.width, image.height, self.policy.max_pixels, what, param)
        key = _hash("image", b"pixels", b"%d %d" % image.size, image.tobytes())
        return Medium("image", image, key, source_name, num_bytes=3 * image.width * image.height)

    def _video(self, part: MediaPart, images: list[Medium], source: str) -> Medium:
        if not images:
            raise RecordError("media_error", "the video has no frames", param=part.param)
        pixels = max(image.num_bytes for image in images) // 3
        check_frames(len(images), pixels, 1, _MOST_FRAME_BYTES, "the video", part.param)
        key = _hash("video", b"frames", "".join(image.hash for image in images).encode())
        return Medium("video", [image.data for image in images], key, source, num_bytes=sum(image.num_bytes for image in images))

    def _check_size(self, size: int, part: MediaPart) -> None:
        if size > self.policy.max_bytes:
            message = f"the {part.kind} has {size:,} bytes, more than the {self.policy.max_bytes:,} of max_media_bytes"
            raise RecordError("media_refused", message, param=part.param)


def shown(source: str) -> str:
    """A URL or a path in messages: short, and a URL without its query, which may hold a secret."""
    text = source.partition("?")[0] if _scheme(source) in ("http", "https") else source
    return text if len(text) <= 200 else text[:200] + "…"


def _scheme(source: str) -> str:
    """The scheme of a URL, in small letters; "" of a path."""
    scheme, colon, rest = source.partition(":")
    if not colon or not scheme.isascii() or not scheme.replace("+", "").replace("-", "").replace(".", "").isalnum():
        return ""
    return scheme.lower() if rest.startswith("//") or scheme.lower() in ("data", "file", "http", "https", "javascript") else ""


def _hash(kind: MediaKind, *parts: bytes) -> str:
    hasher = hashlib.blake2b(kind.encode(), digest_size=16)
    for part in parts:
        hasher.update(b"%d:" % len(part))
        hasher.update(part)
    return hasher.hexdigest()
