"""Media of a prompt: images, audio and video, as a record names them and as a model takes them.

    record, prompt ── text.messages, media.parts ──> MediaPart ── media.loader ──> Medium ── the model's processor ──> tensors

Neither imports Pillow: what holds pixels is handed through.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

MediaKind: TypeAlias = Literal["image", "audio", "video"]

#: The kinds, in the order in which vLLM names them.
MEDIA_KINDS: tuple[MediaKind, ...] = ("image", "audio", "video")


@dataclass(frozen=True, eq=False)
class MediaPart:
    """A medium as a record or a prompt names it: nothing of it has been looked at.

    Args:
        kind: what it is to be.
        source: a `data:`, `file:`, `http:` or `https:` URL, a path, the bytes of a file, a PIL image, a numpy array (an image [height,
            width, 3 or 4] or [height, width] of uint8; samples [n] or [channels, n]; frames [n, height, width, 3]), an array with its
            rate (samples, samples a second), or for a video a list of images.
        param: the field it stands in, for messages: "messages[0].content[1].image_url".
        format: of audio in `input_audio`: "wav", "mp3"; only for messages.
        detail: OpenAI's `detail` of an image: it changes nothing, as in vLLM.
    """

    kind: MediaKind
    source: Any = field(repr=False)
    param: str = ""
    format: str | None = None
    detail: str | None = None


@dataclass(frozen=True, eq=False)
class Medium:
    """A decoded medium. Its data is shared between records that name the same file: nobody changes it.

    Args:
        kind: what it is.
        data: of an image a PIL image in mode RGB, upright; of audio float32 [samples], one channel, about -1 to 1; of a video the list of
            its frames, each such an image.
        hash: hexadecimal, the same for the same content wherever it came from: the hash of the file's bytes and of how they were read, or
            of the pixels or samples where there was no file.
        source: what it was read from, short, for messages: a URL, a path, "data URL" or "PIL image".
        rate: samples of audio a second; of a video frames a second, as they were taken, where that is known.
        times: of a video's frames, in seconds, where they are known.
        num_bytes: what `data` takes in memory.
    """

    kind: MediaKind
    data: Any = field(repr=False)
    hash: str
    source: str = ""
    rate: float | None = None
    num_bytes: int = 0
    times: tuple[float, ...] | None = None
