"""Named places where a test can have the process killed: `INFER_FAULT=commit:7` kills it the seventh time it comes by `commit`."""

from __future__ import annotations

import os
import signal
from collections import Counter

#: Every place there is, in the order a run passes them.
POINTS = ("begin", "write", "spill", "commit", "committed", "sync", "publish", "beside", "published", "cleaned")
#: After `publish`, where OUT is made from the rows.
MATRIX_POINTS = ("made", "told")
#: After `cleaned`, where OUT lies elsewhere: before each part and at both ends of what is sent in parts.
REMOTE_POINTS = ("upload", "part", "complete", "completed", "beside-sent", "sent")

_passed: Counter[str] = Counter()


def fault(point: str) -> None:
    """Dies here (SIGKILL) if INFER_FAULT says so."""
    name, _, count = os.environ.get("INFER_FAULT", "").partition(":")
    if name == point:
        _passed[point] += 1
        if _passed[point] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
