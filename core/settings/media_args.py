"""The settings of media, as part of `EngineArgs`."""

# ruff: noqa: RUF009 (the defaults are fields, made by `setting`)

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..types.media import MEDIA_KINDS
from . import media_rules as rules
from .setting import setting

_media = partial(setting, group="media")

#: Most of each kind in a record where nobody says otherwise, as in vLLM.
_MOST = dict.fromkeys(MEDIA_KINDS, 999)


@dataclass(kw_only=True)
class MediaArgs:
    """See `EngineArgs`."""

    allowed_local_media_path: str = _media(
        "", "Folder whose files records may name as media (file:// or a path, which begins there); default: none may be."
    )
    allowed_media_domains: list[str] | None = _media(
        None,
        "Hosts, with commas between, that media may be fetched from by http and https (HOST or HOST:PORT; *: any public one); "
        "default: nothing is fetched.",
        rule=rules.domains,
        repeats=True,
        metavar="HOST,...",
    )
    limit_mm_per_prompt: dict[str, Any] | None = _media(
        None, 'JSON of most media in a record, such as {"image": 4, "audio": 0}; default: 999 of each.', rule=rules.most_of_each
    )
    mm_processor_kwargs: dict[str, Any] | None = _media(
        None, "JSON of arguments for the model's media processor, where a record has no own mm_processor_kwargs."
    )
    media_io_kwargs: dict[str, Any] | None = _media(
        None,
        'JSON of how media are read: {"video": {"num_frames": 32}} (that many, evenly spaced; -1: all frames).',
        rule=rules.media_io_kwargs,
    )
    max_media_bytes: int = _media(64 << 20, "Largest file of an image, a sound or a video.", low=1, size=True)
    max_image_pixels: int = _media(
        1 << 26,
        "Most pixels of an image or of a frame; larger ones are refused before they are decoded.",
        low=1,
        high=178_000_000,  # Pillow itself refuses twice 89,478,485
    )
    max_audio_seconds: float = _media(3600.0, "Longest sound, in seconds.", low=0, open_low=True)
    media_timeout: float = _media(10.0, "Seconds for fetching one medium, all of it.", low=0, open_low=True)


def media_values(args: MediaArgs) -> dict[str, Any]:
    """The fields of `EngineConfig` for these, where they are not the same."""
    hosts = [host.strip().lower() for one in args.allowed_media_domains or () for host in one.split(",")]
    return {
        "allowed_media_domains": hosts,
        "limit_mm_per_prompt": {**_MOST, **(args.limit_mm_per_prompt or {})},
        "mm_processor_kwargs": dict(args.mm_processor_kwargs or {}),
        "media_io_kwargs": dict(args.media_io_kwargs or {}),
    }
