"""Descriptors 0, 1 and 2: kept open, so that no file of ours gets their numbers.

A process may be started without them (`2>&-`).
"""

from __future__ import annotations

import os

#: Names of files that mean one of the three, beside `-`.
NAMES = {fd: frozenset({f"/dev/{name}", f"/dev/fd/{fd}", f"/proc/self/fd/{fd}"}) for fd, name in enumerate(("stdin", "stdout", "stderr"))}


def open_missing() -> frozenset[int]:
    """Opens those of 0, 1 and 2 that are closed on /dev/null; returns which were.

    Otherwise the next file or socket gets the number: native libraries and children then write their messages into it, and
    a child cannot be given it as its stderr. To be called before anything else is opened.
    """
    missing = frozenset(fd for fd in range(3) if not _is_open(fd))
    for fd in sorted(missing):
        null = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one, unless another thread took it
        if null != fd:
            os.dup2(null, fd)
            os.close(null)
        os.set_inheritable(fd, True)
    return missing


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
