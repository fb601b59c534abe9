"""Media on the way to a replica, which asks for those that its tower has not seen: the driver alone reads files and addresses.

    replica  ── key ──────────────────────────────> driver      a frame whose head names it, see `replica.serve`
    replica <── pixels or samples, or an error ───  driver      `frame_of`

Nothing else holds what was decoded: neither a request that waits, nor the frame that it came in.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any

import numpy as np
import orjson

from ..errors import RecordError
from ..types.media import MediaPart, Medium
from ..types.placed import Placed

#: What such a frame begins with. All others are JSON, which begins with another letter.
MARK = b"M"
_LENGTH = struct.Struct("<I")


def frame_of(key: bytes, told: Medium | RecordError) -> bytes:
    """The medium with a key, or why there is none: MARK, the length of a head in JSON, the head, and the data as they are."""
    head: dict[str, Any] = {"key": key.hex()}
    data = b""
    if isinstance(told, RecordError):
        head["error"] = told.to_json()
    else:
        shape, data = _flat(told)
        head |= {"kind": told.kind, "hash": told.hash, "source": told.source[:200], "rate": told.rate, "shape": shape}
        head["times"] = told.times
    packed = orjson.dumps(head)
    return b"".join((MARK, _LENGTH.pack(len(packed)), packed, data))


def read(frame: bytes) -> tuple[bytes, Medium | RecordError]:
    """What `frame_of` was given."""
    start = len(MARK) + _LENGTH.size
    end = start + _LENGTH.unpack_from(frame, len(MARK))[0]
    head = orjson.loads(frame[start:end])
    key = bytes.fromhex(head["key"])
    if error := head.get("error"):
        return key, RecordError(error["code"], error["message"], param=error["param"], retryable=error["retryable"])
    data = memoryview(frame)[end:]
    decoded = _shaped(head["kind"], head["shape"], data)
    times = None if head["times"] is None else tuple(head["times"])
    return key, Medium(head["kind"], decoded, head["hash"], head["source"], head["rate"], len(data), times)


def _flat(medium: Medium) -> tuple[Any, bytes]:
    if medium.kind == "audio":
        return len(medium.data), np.ascontiguousarray(medium.data, dtype=np.float32).tobytes()
    images = medium.data if medium.kind == "video" else [medium.data]
    return [image.size for image in images], b"".join(image.tobytes() for image in images)


def _shaped(kind: str, shape: Any, data: memoryview) -> Any:
    if kind == "audio":
        return np.frombuffer(data, np.float32, shape).copy()
    from PIL import Image

    images = []
    for width, height in shape:
        size = 3 * width * height
        images.append(Image.frombytes("RGB", (width, height), bytes(data[:size])))
        data = data[size:]
    return images if kind == "video" else images[0]


def of_key(placed: Iterable[Placed], key: bytes) -> Placed | None:
    """The first with a key."""
    return next((one for one in placed if one.key == key), None)


class Asking:
    """Reads media in a replica, by asking for them.

    Args:
        ask: sends the wish for the medium with a key.
    """

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        self._ask = ask
        self._came: SimpleQueue[bytes | BaseException] = SimpleQueue()

    def load(self, part: MediaPart) -> Medium:
        """The medium of a part as the codec makes it, whose source is the key. For one thread at a time.

        Raises RecordError where the driver has it no more, and what `take` was given in place of a frame.
        """
        self._ask(part.source)
        while True:
            came = self._came.get()
            if isinstance(came, BaseException):
                self._came.put(came)  # whoever asks again is to know, too
                raise came
            key, told = read(came)
            if key != part.source:  # asked for by somebody who does not wait any more
                continue
            if isinstance(told, RecordError):
                raise told
            return told

    def take(self, came: bytes | BaseException) -> None:
        """A frame of `frame_of`, or what ended the wire, from any thread."""
        self._came.put(came)
