"""One run an output. The lock is the system's (flock), so it dies with its holder, however that dies."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

from ..errors import LockedError, OutputError

try:
    import fcntl
except ImportError:  # no flock on this system: nothing is locked
    fcntl = None  # type: ignore[assignment]


class OutputLock:
    """Held from construction to `release`. Raises LockedError naming the holder if another run has it."""

    def __init__(self, path: Path, output: str) -> None:
        self.path = path
        self._fd = -1
        if fcntl is None:
            return
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            except OSError as error:
                raise OutputError(f"output {output!r} cannot be locked: {error.strerror}") from None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.pread(fd, 200, 0).decode(errors="replace").strip()
                os.close(fd)
                raise LockedError(f"output {output!r} is being written by another run ({holder or 'unknown'}); try again later") from None
            # A holder that ended between our open and our lock removed the file: then we hold a lock on nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), path.stat()):
                    self._fd = fd
                    break
            os.close(fd)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError):  # a full disk: held all the same, by nobody known
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"process {os.getpid()} on {socket.gethostname()}, since {started}\n".encode(), 0)

    def release(self) -> None:
        """Removes the lock file and lets go."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self._fd)
            self._fd = -1
