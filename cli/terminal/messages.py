"""Messages of the program, all of them on stderr: lines for a person, or with --log-format json one JSON object a line.

    {"time": "2026-01-31T12:00:00.000Z", "level": "info", "event": "note", "message": "…", …more fields of the event}

`event` is note, progress, summary, error or log. Messages may quote data, so nothing a terminal acts on is let through.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from . import streams

_json = False


def use_json(on: bool) -> None:
    """Objects from now on, or lines again."""
    global _json  # noqa: PLW0603 (a process has one stderr)
    _json = on


def look_for_format(argv: Sequence[str]) -> None:
    """Follows the --log-format on a command line that is not parsed yet: what is wrong with it is said in that form too."""
    given = [value for flag, value in pairwise([*argv, ""]) if flag == "--log-format"]
    given += [word.partition("=")[2] for word in argv if word.startswith("--log-format=")]
    use_json("json" in given)


def is_json() -> bool:
    """True if messages are objects, for programs, rather than lines."""
    return _json


def say(message: str, *, event: str = "note", level: str = "info", label: str = "", **fields: Any) -> None:
    """One message. A stderr nobody reads is no reason to stop.

    Args:
        message: for a person.
        event, level, fields: for programs; left out of a line.
        label: what a line begins with ("Error: "); left out of an object, where `event` and `level` say it.
    """
    if sys.stderr is None:
        return
    text = _object(message, event, level, fields) if _json else streams.printable(label + message)
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _object(message: str, event: str, level: str, fields: dict[str, Any]) -> str:
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    content = {"time": now, "level": level, "event": event, "message": message, **fields}
    return streams.to_json(content)
