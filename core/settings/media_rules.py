"""Rules of the settings of media: each returns the fault of a value in words that follow the setting's name, or ""."""

from __future__ import annotations

import re
from typing import Any

from ..errors import nearest
from ..types.media import MEDIA_KINDS

#: A host as it stands in a URL, with a port or without; an IPv6 address in brackets.
_HOST = re.compile(r"(\*|[^\s/:@\\?#\[\]]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")


def domains(value: list[Any]) -> str:
    for one in value:
        for host in one.split(",") if isinstance(one, str) else [one]:
            if not isinstance(host, str) or not _HOST.fullmatch(host.strip()):
                return f"must be hosts such as images.example.com or example.com:8080, without http:// and paths, not {host!r}"
            if host.strip().startswith("*."):
                return f"has {host!r}: hosts are named one by one, or * for every public one"
    return ""


def most_of_each(value: dict[str, Any]) -> str:
    for kind, limit in value.items():
        if kind not in MEDIA_KINDS:
            return f"has no {kind!r}{nearest(kind, MEDIA_KINDS)}; it has {', '.join(MEDIA_KINDS)}"
        count = limit.get("count") if isinstance(limit, dict) else limit
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            return f"{kind} must be a number of at least 0, not {limit!r}"
    return ""


def media_io_kwargs(value: dict[str, Any]) -> str:
    for kind, how in value.items():
        if kind not in MEDIA_KINDS:
            return f"has no {kind!r}{nearest(kind, MEDIA_KINDS)}; it has {', '.join(MEDIA_KINDS)}"
        if not isinstance(how, dict):
            return f"{kind} must be an object, not {how!r}"
        for name, given in how.items():
            if kind != "video" or name != "num_frames":
                return f"has no {name!r} of {kind}; it has num_frames of video"
            if not isinstance(given, int) or isinstance(given, bool) or (given < 1 and given != -1):
                return f"num_frames must be a number of at least 1, or -1 for all, not {given!r}"
    return ""
