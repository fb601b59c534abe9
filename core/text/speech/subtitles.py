"""Subtitles: segments of a transcript as SubRip (srt) and WebVTT (vtt)."""

from __future__ import annotations

from collections.abc import Iterable

#: (start, end, text), in seconds.
Piece = tuple[float, float, str]


def srt(pieces: Iterable[Piece]) -> str:
    """SubRip: numbered, with a comma before milliseconds."""
    lines = [f"{i}\n{_time(a, ',')} --> {_time(b, ',')}\n{_one_line(text)}\n" for i, (a, b, text) in enumerate(pieces, 1)]
    return "\n".join(lines)


def vtt(pieces: Iterable[Piece]) -> str:
    """WebVTT."""
    return "WEBVTT\n\n" + "\n".join(f"{_time(a, '.')} --> {_time(b, '.')}\n{_one_line(text)}\n" for a, b, text in pieces)


def _one_line(text: str) -> str:
    """A blank line would end a cue, and an arrow is not allowed in one."""
    return " ".join(text.split()).replace("-->", "->")


def _time(seconds: float, point: str) -> str:
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}{point}{whole % 1000:03}"
