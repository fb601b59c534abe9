"""MediaPolicy: where media may be read from, and how large they may be. Nothing but `data:` URLs is read unless it is named."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, RecordError
from ..types.media import MediaPart

if TYPE_CHECKING:
    from ..settings.config import EngineConfig

#: Hosts in --allowed-media-domains that stand for all public ones.
ANY_HOST = "*"
#: The settings that a policy is made of.
SETTINGS = (
    "allowed_local_media_path",
    "allowed_media_domains",
    "limit_mm_per_prompt",
    "media_io_kwargs",
    "max_media_bytes",
    "max_image_pixels",
    "max_audio_seconds",
    "media_timeout",
)
#: Frames that are taken of a video, as in vLLM.
_VIDEO_FRAMES = 32


@dataclass(frozen=True)
class MediaPolicy:
    """
    Args:
        local_path: the folder, links resolved, in which files may be read; "": none may.
        domains: hosts, "host:port" or "*", that may be asked; none: the network is not touched.
        most: kind -> most items of a prompt.
        max_bytes: of one file.
        max_pixels: of one image, or one frame.
        max_seconds: of one sound.
        timeout: seconds for one file over the network, from the first packet to the last.
        num_frames: of one video; -1: all of them.
    """

    local_path: str = ""
    domains: tuple[str, ...] = ()
    most: Mapping[str, int] = field(default_factory=dict)
    max_bytes: int = 64 << 20
    max_pixels: int = 1 << 26
    max_seconds: float = 3600.0
    timeout: float = 10.0
    num_frames: int = _VIDEO_FRAMES

    @classmethod
    def of(cls, config: EngineConfig) -> MediaPolicy:
        """What the settings say. Raises ConfigError where the folder is not there."""
        root = config.allowed_local_media_path
        if root:
            if not os.path.isdir(root):  # noqa: PTH112
                raise ConfigError(f"allowed_local_media_path: there is no folder {root!r}")
            root = os.path.realpath(root)
        video = config.media_io_kwargs.get("video", {})
        return cls(
            local_path=root,
            domains=tuple(config.allowed_media_domains),
            most=most_of_each(config.limit_mm_per_prompt),
            max_bytes=config.max_media_bytes,
            max_pixels=config.max_image_pixels,
            max_seconds=config.max_audio_seconds,
            timeout=config.media_timeout,
            num_frames=video.get("num_frames", _VIDEO_FRAMES),
        )

    def check_count(self, parts: Sequence[MediaPart]) -> None:
        """Raises RecordError (media_refused) where a prompt has more of one kind than it may."""
        for kind, count in Counter(part.kind for part in parts).items():
            if kind in self.most and count > self.most[kind]:
                first_over = [part for part in parts if part.kind == kind][self.most[kind]]
                told = "none may be used" if not self.most[kind] else f"at most {self.most[kind]} may be used"
                message = f"the prompt has {count} of {kind}, and {told} (limit_mm_per_prompt)"
                raise RecordError("media_refused", message, param=first_over.param or None)


def most_of_each(limits: Mapping[str, Any]) -> dict[str, int]:
    """Kind -> number, of limits as vLLM takes them: a number, or an object with `count`."""
    return {kind: limit["count"] if isinstance(limit, Mapping) else limit for kind, limit in limits.items()}


def fingerprint(config: EngineConfig) -> dict[str, Any]:
    """What of the media settings can change an answer, where the model takes media. Not where media come from: that decides which
    records fail, and those are answered again by --retry-errors."""
    names = ("limit_mm_per_prompt", "media_io_kwargs", "mm_processor_kwargs", "max_image_pixels", "max_audio_seconds", "max_media_bytes")
    return {name: getattr(config, name) for name in names}
